import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  choosePins,
  PIN_RETRY_MS_MAX,
  PinRetries,
} from '../../../../src/adapters/residency/pins.ts';
import type { AdapterGeneration } from '../../../../src/adapters/types.ts';

const generation = (digest: string, residentBytes: number): AdapterGeneration => ({
  digest,
  rank: 1,
  residentBytes,
});
const sizes = (...bytes: number[]) => bytes.map((size, i) => generation(`g${i}`, size));
const digests = (choice: ReturnType<typeof choosePins>) => [...choice.pinned.keys()];

describe('choosing pins', () => {
  it('leaves one slot free', () => {
    const choice = choosePins(sizes(1, 1, 1, 1), { maxSlots: 3, maxBytes: 100 });
    expect(digests(choice)).toEqual(['g0', 'g1']);
    expect(choice.leftOut.map(({ generation: { digest } }) => digest)).toEqual(['g2', 'g3']);
    expect(choice.leftOut[0]!.reason).toContain('of 3 slots one must stay free');
    expect(choosePins(sizes(1), { maxSlots: 1, maxBytes: 100 }).pinned.size).toBe(0);
    expect(choosePins(sizes(1), { maxSlots: 0, maxBytes: 100 }).pinned.size).toBe(0);
  });

  it('leaves the room of the largest pinned adapter free', () => {
    const room = { maxSlots: 8, maxBytes: 100 };
    expect(choosePins(sizes(30, 40), room)).toMatchObject({ bytes: 30 });
    expect(choosePins(sizes(30, 35), room)).toMatchObject({ bytes: 65, leftOut: [] });
    expect(choosePins(sizes(50), room)).toMatchObject({ bytes: 50, leftOut: [] });
    expect(choosePins(sizes(51), room).leftOut[0]!.reason).toContain('51 bytes would be pinned');
  });

  it('counts bytes of the element type in slots', () => {
    const room = { maxSlots: 8, maxBytes: 100, loraDtype: 'bfloat16' } as const;
    expect(choosePins(sizes(50), room)).toMatchObject({ bytes: 50 });
    const even = { ...generation('even', 100), rank: 4 };
    const odd = { ...generation('odd', 30), rank: 3 };
    expect(choosePins([even, odd], room)).toMatchObject({ bytes: 50 });
    expect(choosePins([odd], room)).toMatchObject({ bytes: 20 });
    const narrow = { ...room, loraDtype: 'int8' } as const;
    expect(
      choosePins([{ ...even, residentBytes: 1024 }], { ...narrow, maxBytes: 600 }),
    ).toMatchObject({ bytes: 257 });
    expect(choosePins([{ ...odd, residentBytes: 30 }], narrow)).toMatchObject({ bytes: 11 });
  });

  it('passes one that does not fit, keeps the order of the rest, and counts none twice', () => {
    const twice = [...sizes(30, 60, 10), generation('g0', 30)];
    const choice = choosePins(twice, { maxSlots: 8, maxBytes: 100 });
    expect(digests(choice)).toEqual(['g0', 'g2']);
    expect(choice).toMatchObject({ bytes: 40, leftOut: [{ generation: { digest: 'g1' } }] });
  });
});

describe('trying pins again', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('waits longer each time, up to a limit, and starts anew after a success', () => {
    const tries: string[] = [];
    const retries = new PinRetries(1000, ({ digest }) => tries.push(digest));
    const [one] = sizes(1) as [AdapterGeneration];
    for (const delay of [1000, 2000, 4000, 8000, 16_000, 32_000, PIN_RETRY_MS_MAX, 60_000]) {
      retries.failed(one);
      const before = tries.length;
      vi.advanceTimersByTime(delay - 1);
      expect(tries).toHaveLength(before);
      vi.advanceTimersByTime(1);
      expect(tries).toHaveLength(before + 1);
    }
    expect(retries.has('g0')).toBe(true);
    retries.forget('g0');
    expect(retries.has('g0')).toBe(false);
    const before = tries.length;
    retries.failed(one);
    vi.advanceTimersByTime(1000);
    expect(tries).toHaveLength(before + 1);
    retries.failed(one);
    retries.close();
    vi.advanceTimersByTime(PIN_RETRY_MS_MAX);
    expect(tries).toHaveLength(before + 1);
  });
});
