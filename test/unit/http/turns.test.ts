import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Turns } from '../../../src/http/plugins/turns.ts';

describe('turns', () => {
  it('begins a few at once and the rest in later turns, in order', async () => {
    const turns = new Turns(3);
    const begun: number[] = [];
    for (let i = 0; i < 8; i++) turns.take(() => begun.push(i));
    expect(begun).toEqual([0, 1, 2]);
    await nextTurn();
    expect(begun).toEqual([0, 1, 2, 3, 4, 5]);
    await nextTurn();
    expect(begun).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  it('does not let newcomers pass those who wait', async () => {
    const turns = new Turns(1);
    const begun: string[] = [];
    turns.take(() => begun.push('a'));
    turns.take(() => {
      begun.push('b');
      turns.take(() => begun.push('d'));
    });
    turns.take(() => begun.push('c'));
    await nextTurn();
    expect(begun).toEqual(['a', 'b']);
    await nextTurn();
    await nextTurn();
    expect(begun).toEqual(['a', 'b', 'c', 'd']);
  });

  it('keeps nothing alive once all have begun', async () => {
    const turns = new Turns(2);
    let begun = 0;
    turns.take(() => {
      begun += 1;
    });
    await nextTurn();
    turns.take(() => {
      begun += 1;
    });
    expect(begun).toBe(2);
  });
});
