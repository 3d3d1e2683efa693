/** What commands print: results on standard output, everything else on standard error. */
import { CommanderError } from 'commander';
import { type ErrorCode, LoramuxError } from '../errors.ts';

/** Exit codes of the program; 0 is done. */
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** The command line cannot be understood; what it says must be changed before it is run again. */
export class UsageError extends LoramuxError {
  constructor(message: string, options: { cause?: unknown } = {}) {
    super('config_invalid', message, options);
    this.name = 'UsageError';
  }
}

/** A server's refusal, as seen by a client command. */
export class RemoteError extends Error {
  readonly code: string;
  /** Of a refused condition: the generation that is current; null when the name does not exist. */
  readonly currentGeneration: string | null | undefined;

  constructor(code: string, message: string, currentGeneration?: string | null) {
    super(message);
    this.name = 'RemoteError';
    this.code = code;
    this.currentGeneration = currentGeneration;
  }
}

function codeOf(error: unknown): ErrorCode | string {
  if (error instanceof LoramuxError || error instanceof RemoteError) return error.code;
  return error instanceof CommanderError ? 'config_invalid' : 'internal_error';
}

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error instanceof CommanderError) {
    // `loramux adapters` alone: Commander throws its help, whose text is of no use here.
    if (error.code === 'commander.help') return 'a command is missing; --help lists them';
    return `${error.message.replace(/^error: /, '')}; see \`loramux --help\``;
  }
  if (error instanceof RemoteError && error.currentGeneration !== undefined) {
    const { message, currentGeneration } = error;
    if (currentGeneration === null) return `${message} (the name does not exist)`;
    if (!message.includes(currentGeneration)) {
      return `${message} (the current generation is ${currentGeneration})`;
    }
  }
  return error.message;
}

/** Code and message with its remedy; with `json` as one line. A defect shows its stack. */
export function printError(error: unknown, json: boolean): void {
  const code = codeOf(error);
  const message = messageOf(error);
  if (json) {
    const current = error instanceof RemoteError ? error.currentGeneration : undefined;
    const body = { code, message, ...(current !== undefined && { current_generation: current }) };
    process.stderr.write(`${JSON.stringify({ error: body })}\n`);
    return;
  }
  process.stderr.write(`loramux: ${code}: ${message}\n`);
  const defect = code === 'internal_error' && error instanceof Error ? error.stack : undefined;
  if (defect !== undefined) process.stderr.write(`${defect}\n`);
}

export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
  return error instanceof UsageError ? EXIT_USAGE : EXIT_FAILED;
}

/** Columns padded to their widest cell. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  }
  const line = (row: readonly string[]) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join('  ')
      .trimEnd();
  return rows.map(line).join('\n');
}

/** 1536 -> "1.5 KiB" */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}
