/** Contenders take turns, round after round, with the machine's ceilings measured in between. */
import type { Ceiling } from './ceiling.ts';
import type { Measurement } from './result.ts';
import { median, spread } from './statistics.ts';

export interface Contender {
  readonly name: string;
  /** One turn; gives tokens per second. */
  run(): Promise<number>;
}

export type Rates = ReadonlyMap<string, readonly number[]>;

/**
 * One warm-up turn each, then `rounds` rounds. Every second round goes backwards, so that a drift of
 * the machine favours nobody. A burst of the ceilings comes before each round.
 */
export async function inTurn(
  contenders: readonly Contender[],
  rounds: number,
  ceiling: Ceiling,
): Promise<Rates> {
  const rates = new Map<string, number[]>(contenders.map(({ name }) => [name, []]));
  for (const contender of contenders) await contender.run();
  for (let round = 0; round < rounds; round++) {
    await ceiling.sample();
    const order = round % 2 === 0 ? contenders : contenders.toReversed();
    for (const contender of order) rates.get(contender.name)!.push(await contender.run());
    const shown = contenders.map(({ name }) => `${name} ${rates.get(name)!.at(-1)!.toFixed(1)}`);
    console.error(`round ${round + 1}: ${shown.join(', ')} tokens/s`);
  }
  return rates;
}

/**
 * @param fraction of its ceiling that a rate uses; undefined where the ceiling is not known
 */
export function measurement(
  name: string,
  rates: Rates,
  fraction?: (tokensPerSecond: number) => number | undefined,
): Measurement {
  const values = rates.get(name)!;
  const tokensPerSecond = median(values);
  return {
    name,
    tokensPerSecond,
    fractionOfCeiling: fraction?.(tokensPerSecond) ?? null,
    spread: spread(values),
    rounds: values.length,
  };
}

/** The lines people read. */
export function table(results: readonly Measurement[]): string[] {
  const width = Math.max(...results.map(({ name }) => name.length)) + 2;
  return results.map(({ name, tokensPerSecond = 0, spread: around = 0, fractionOfCeiling }) => {
    const share =
      typeof fractionOfCeiling === 'number'
        ? `  ${(fractionOfCeiling * 100).toFixed(0)} % of the ceiling`
        : '';
    return (
      `${name.padEnd(width)}${tokensPerSecond.toFixed(1).padStart(9)} tokens/s` +
      `  +-${(around * 100).toFixed(0)} %${share}`
    );
  });
}

/** The lines of ratios people read. */
export function ratioLines(ratios: Readonly<Record<string, number>>): string[] {
  const width = Math.max(0, ...Object.keys(ratios).map((name) => name.length)) + 2;
  return Object.entries(ratios).map(([name, value]) => `${name.padEnd(width)}${value.toFixed(3)}`);
}
