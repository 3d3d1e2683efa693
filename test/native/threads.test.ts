/** The session's threads give way to the event loop, and never outrank the process. */
import { readdir, readFile } from 'node:fs/promises';
import { getPriority } from 'node:os';
import { isDeepStrictEqual } from 'node:util';
import { describe, it } from 'vitest';
import { fixtureSession } from '../support/native-fixtures.ts';
import { until } from '../support/until.ts';

const NICEST = 19;

/** Niceness of each of the session's threads, by thread name. */
async function niceness(): Promise<Map<string, Set<number>>> {
  const found = new Map<string, Set<number>>();
  for (const id of await readdir('/proc/self/task')) {
    const name = await readFile(`/proc/self/task/${id}/comm`, 'utf8').catch(() => '');
    if (!name.startsWith('loramux')) continue;
    const values = found.get(name.trim()) ?? new Set();
    found.set(name.trim(), values.add(getPriority(Number(id))));
  }
  return found;
}

describe('niceness', () => {
  it('is that of the thread that made the session, and more', async () => {
    const base = getPriority();
    const session = await fixtureSession('llama3');
    const nicer = (by: number) => new Set([Math.min(NICEST, base + by)]);
    const expected = new Map([
      ['loramux-step', nicer(5)],
      ['loramux-helper', nicer(5)],
      ['loramux-load', nicer(17)],
    ]);
    // A thread has its name and its niceness once it has run for the first time.
    await until('every thread is as nice as it should be', niceness, (found) =>
      isDeepStrictEqual(found, expected),
    );
    await session.close();
  });
});
