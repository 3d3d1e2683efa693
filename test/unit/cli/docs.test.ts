/** docs/cli.md has every command, argument and option of the program, and none besides. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { createProgram } from '../../../src/cli/program.ts';

const page = readFileSync(fileURLToPath(new URL('../../../docs/cli.md', import.meta.url)), 'utf8');

interface Section {
  /** What the heading has between backticks; the text of other headings. */
  readonly title: string;
  readonly text: string;
}

const sections: Section[] = page
  .split(/\n(?=##+ )/)
  .map((text) => ({ title: /^#+ `?(.*?)`?$/m.exec(text)![1]!, text }));
const sectionOf = (title: string) => sections.find((section) => section.title === title)!;

/** Flags in the first column of a section's option tables. */
const optionsIn = ({ text }: Section) =>
  [...text.matchAll(/^\| `(-.*?)` +\|/gm)].map(([, flags]) => flags!);

/** Lines of code that run a command. */
const examplesIn = ({ text }: Section) =>
  [...text.matchAll(/^```sh\n(.*?)^```/gms)].flatMap(([, code]) =>
    code!.split('\n').filter((line) => line.startsWith('loramux ')),
  );

function commands(command: Command, above: string[] = []): { path: string[]; command: Command }[] {
  const path = [...above, command.name()];
  if (command.commands.length === 0) return [{ path, command }];
  return command.commands.flatMap((sub) => commands(sub as Command, path));
}

const program = createProgram();
const all = commands(program);
/** As in a heading: the command with its arguments. */
const titleOf = ({ path, command }: (typeof all)[number]) => {
  const args = command.registeredArguments.map((argument) =>
    argument.required ? `<${argument.name()}>` : `[${argument.name()}]`,
  );
  return [...path, ...args].join(' ');
};
const talksToServer = (command: Command) => command.options.some(({ long }) => long === '--url');

describe('docs/cli.md', () => {
  it('has a section for every command with its arguments, and no other', () => {
    const titles = sections.map(({ title }) => title).filter((title) => /^loramux /.test(title));
    expect([...titles].sort()).toEqual(all.map(titleOf).sort());
  });

  it.each(all.map((one) => [titleOf(one), one.command] as const))(
    '%s: options',
    (title, command) => {
      const section = sectionOf(title);
      if (command.name() === 'serve') {
        expect(optionsIn(section)).toEqual([]);
        expect(section.text).toContain('(configuration.md)');
        return;
      }
      const common = talksToServer(command) ? optionsIn(sectionOf('Talking to a server')) : [];
      const documented = [...optionsIn(section), ...common];
      expect(documented.sort()).toEqual(command.options.map(({ flags }) => flags).sort());
    },
  );

  it('has the options of the program itself', () => {
    const known = program.options.map(({ flags }) => flags);
    expect(optionsIn(sectionOf('Command line'))).toEqual(known);
  });

  it.each(all.map((one) => [titleOf(one), one.path] as const))(
    '%s: examples that can be parsed',
    async (title, path) => {
      const examples = examplesIn(sectionOf(title));
      expect(examples.length).toBeGreaterThan(0);
      for (const example of examples) {
        expect(example.startsWith(path.join(' ')), example).toBe(true);
        const parsed = createProgram();
        let ran = 0;
        const act = () => {
          ran += 1;
        };
        for (const { command } of commands(parsed)) command.action(act);
        await parsed.parseAsync(example.split(' ').slice(1), { from: 'user' });
        expect(ran, example).toBe(1);
      }
    },
  );
});
