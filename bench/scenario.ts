import { parseArgs } from 'node:util';
import type { Machine, Measurement } from './result.ts';

export { median, quantile } from './statistics.ts';

/** The command line cannot be understood. */
export class UsageError extends Error {}

/** What every benchmark scenario gives. */
export interface ScenarioResult {
  /** For people, in order. */
  readonly lines: readonly string[];
  readonly results: readonly Measurement[];
  readonly ratios: Readonly<Record<string, number>>;
  /** Absent: the ceilings are measured after the scenario. */
  readonly machine?: Machine;
  /** SVG text by name of the chart; written with --plots. */
  readonly plots?: Readonly<Record<string, string>>;
}

export interface Scenario {
  readonly name: string;
  readonly summary: string;
  /** @param args options after the scenario's name, without --json and --plots */
  run(args: readonly string[]): Promise<ScenarioResult>;
}

interface NumberOption {
  readonly type: 'string';
  readonly default: string;
  readonly number: true;
}
interface TextOption {
  readonly type: 'string';
  readonly default: string;
}
interface OptionalText {
  readonly type: 'string';
}
type Options = Readonly<Record<string, NumberOption | TextOption | OptionalText>>;
type Values<T extends Options> = {
  readonly [K in keyof T]: T[K] extends NumberOption
    ? number
    : T[K] extends TextOption
      ? string
      : string | undefined;
};

/** An option that takes a number of 0 or more. */
export function numberOption(value: number): NumberOption {
  return { type: 'string', default: String(value), number: true };
}

function parsed<T>(parseThem: () => T): T {
  try {
    return parseThem();
  } catch (cause) {
    throw new UsageError(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

/** Reads a scenario's options. @throws UsageError on unknown ones and on what is no number. */
export function parse<const T extends Options>(args: readonly string[], options: T): Values<T> {
  const { values } = parsed(() =>
    parseArgs({ args: [...args], options: { ...options } as Options }),
  );
  const read: Record<string, string | number | undefined> = {};
  for (const [name, option] of Object.entries(options)) {
    const value = values[name] as string | undefined;
    if (!('number' in option)) {
      read[name] = value;
      continue;
    }
    const number = Number(value);
    if (value === '' || !(number >= 0)) throw new UsageError(`--${name} ${value} is no number`);
    read[name] = number;
  }
  return read as Values<T>;
}
