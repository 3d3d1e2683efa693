/** Shared and exclusive turns, in every order: nothing runs beside an exclusive one. */
import { setImmediate as breathe } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Turns } from '../../../../src/adapters/registry/redis/turns.ts';
import { Random } from '../../../support/random.ts';

describe('turns', () => {
  it('let shared ones run together and exclusive ones alone, in their order', async () => {
    const seed = Number(process.env.LORAMUX_TEST_SEED ?? 20_261_102);
    const random = new Random(seed);
    const turns = new Turns();
    const running = new Set<string>();
    const begun: string[] = [];
    let mostShared = 0;
    const work = (label: string) => async () => {
      running.add(label);
      begun.push(label);
      if (label.startsWith('x')) expect([...running], `seed ${seed}`).toEqual([label]);
      mostShared = Math.max(mostShared, running.size);
      for (let i = random.int(0, 4); i > 0; i--) await breathe();
      if (label.startsWith('x')) expect([...running], `seed ${seed}`).toEqual([label]);
      running.delete(label);
      if (random.chance(0.2)) throw new Error(label);
      return label;
    };
    const asked: string[] = [];
    const results: Promise<unknown>[] = [];
    for (let i = 0; i < 300; i++) {
      const label = `${random.chance(0.3) ? 'x' : 's'}${i}`;
      asked.push(label);
      const turn = label.startsWith('x') ? turns.exclusive(work(label)) : turns.shared(work(label));
      results.push(
        turn.then(
          (done) => expect(done).toBe(label),
          (error: Error) => expect(error.message).toBe(label),
        ),
      );
      if (random.chance(0.2)) await breathe();
    }
    await turns.idle();
    expect(running.size).toBe(0);
    await Promise.all(results);
    expect(begun).toEqual(asked);
    expect(mostShared).toBeGreaterThan(1);
  });
});
