/** Fenced examples of the pages, and the commands in them. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { ROOT } from '../../scripts/process.ts';

export interface Example {
  readonly page: string;
  /** What stands after the fence; empty for none. */
  readonly language: string;
  readonly text: string;
}

/** All pages of the repository; what is decided and what has changed tell of other times. */
export const PAGES = execFileSync(
  'git',
  ['ls-files', '--cached', '--others', '--exclude-standard', '*.md'],
  { cwd: ROOT, encoding: 'utf8' },
)
  .split('\n')
  .filter((page) => page !== '' && page !== 'CHANGELOG.md' && !page.startsWith('docs/decisions/'));

export const examples: readonly Example[] = PAGES.flatMap((page) => {
  const text = readFileSync(path.join(ROOT, page), 'utf8');
  return [...text.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)].map(([, language, body]) => ({
    page,
    language: language!,
    text: body!,
  }));
});

/** A command's words, without quotes and comments. */
export function wordsOf(command: string): string[] {
  const words: string[] = [];
  for (const [, double, single, plain] of command.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)) {
    if (plain?.startsWith('#')) break;
    words.push(double ?? single ?? plain!);
  }
  return words;
}

export interface ShellCommand {
  readonly page: string;
  readonly line: string;
  readonly words: readonly string[];
}

/** The commands of a shell example, one by one: lines are joined, chains and pipes taken apart. */
export function commandsOf({ page, text }: Example): ShellCommand[] {
  return text
    .replaceAll('\\\n', ' ')
    .split('\n')
    .flatMap((line) => line.split(/ (?:&&|\|) /))
    .map((line) => ({ page, line: line.trim(), words: wordsOf(line) }))
    .filter(({ words }) => words.length > 0);
}
