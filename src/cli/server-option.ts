/** Options of every command that talks to a server. */
import { Command, InvalidArgumentError, Option } from 'commander';

export const DEFAULT_URL = 'http://127.0.0.1:8000';
export const URL_VARIABLE = 'LORAMUX_URL';

export interface ServerFlags {
  readonly url: string;
  readonly json?: boolean;
}

/** A command with `--url` and `--json`. */
export function serverCommand(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .addOption(new Option('--url <url>', 'the server').env(URL_VARIABLE).default(DEFAULT_URL))
    .option('--json', "print the server's answer");
}

export const ifMatchOption = () =>
  new Option(
    '--if-match <generation>',
    'only while this generation is current (first 8 or more digits), or * for any',
  );

/** A share of requests, above 0 and below 1. */
export function weight(text: string): number {
  const value = Number(text);
  if (/^\d*\.?\d+$/.test(text) && value > 0 && value < 1) return value;
  throw new InvalidArgumentError('It must be a number above 0 and below 1, such as 0.1.');
}
