import { afterEach, describe, expect, it, vi } from 'vitest';
import { LoramuxError } from '../../../../src/errors.ts';
import { Random } from '../../../support/random.ts';
import { a, b, build, c, code, d, generation, turn } from './support.ts';

describe('slot residency', () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  it('loads on demand, tells, and gives the slot with a reference', async () => {
    const { residency, changes, native, images } = build();
    expect(residency.tryAcquire([a])).toBeUndefined();
    expect(residency.tryAcquire([a])).toBeUndefined();
    await turn();
    expect(changes()).toBe(1);
    expect(residency.tryAcquire([a])).toEqual([0]);
    expect(residency.tryAcquire([a])).toEqual([0]);
    expect(native.slots.get(0)).toBe('a');
    expect(residency.stats()).toMatchObject({
      hits: 1,
      misses: 1,
      loads: 1,
      residentBytes: 10,
      resident: 1,
      referenced: 1,
    });
    residency.release([a]);
    residency.release([a]);
    expect(images.numHolds).toBe(0);
    expect(() => residency.release([a])).toThrow(
      expect.objectContaining({ code: 'internal_error' }),
    );
    expect(residency.tryAcquire([a])).toEqual([0]);
  });

  it('evicts the least recently used without references', async () => {
    const { residency, kinds } = build();
    for (const each of [a, b]) {
      residency.tryAcquire([each]);
      await turn();
      residency.tryAcquire([each]);
      residency.release([each]);
    }
    residency.tryAcquire([a]);
    residency.release([a]);
    expect(residency.tryAcquire([c])).toBeUndefined();
    await turn();
    expect(kinds()).toEqual(['loaded a', 'loaded b', 'evicted b', 'loaded c']);
    expect(residency.tryAcquire([c])).toEqual([1]);
    expect(residency.stats().evictions).toBe(1);
  });

  it('waits while all slots are referenced and loads when one is released', async () => {
    const { residency, changes } = build();
    for (const each of [a, b]) {
      residency.tryAcquire([each]);
      await turn();
      residency.tryAcquire([each]);
    }
    expect(residency.tryAcquire([c])).toBeUndefined();
    await turn();
    expect(residency.stats()).toMatchObject({ waiting: 1, loading: 0 });
    const before = changes();
    residency.release([a]);
    await turn();
    expect(changes()).toBe(before + 1);
    expect(residency.tryAcquire([c])).toEqual([0]);
  });

  it('keeps what was loaded for who asked until it is acquired or forgotten', async () => {
    const { residency } = build({ maxSlots: 1 });
    residency.tryAcquire([a]);
    await turn();
    residency.tryAcquire([b]);
    await turn();
    expect(residency.adapters()).toMatchObject([
      { digest: 'a', state: 'resident' },
      { digest: 'b', state: 'waiting' },
    ]);
    residency.forget([a]);
    await turn();
    expect(residency.tryAcquire([b])).toEqual([0]);
  });

  it('keeps to the byte budget and refuses what never fits', async () => {
    const { residency, kinds } = build({ maxSlots: 8, maxBytes: 25 });
    const large = generation('large', 20);
    for (const each of [a, b]) {
      residency.tryAcquire([each]);
      await turn();
      residency.tryAcquire([each]);
      residency.release([each]);
    }
    expect(code(residency.tryAcquire([generation('huge', 26)]))).toBe('adapter_never_fits');
    expect(residency.tryAcquire([large])).toBeUndefined();
    await turn();
    expect(residency.tryAcquire([large])).toEqual([expect.any(Number)]);
    expect(kinds()).toEqual(['loaded a', 'loaded b', 'evicted a', 'evicted b', 'loaded large']);
    expect(residency.stats().residentBytes).toBe(20);
  });

  it('counts half the bytes for bfloat16 until the session says how many they are', async () => {
    const { residency } = build({ maxSlots: 8, maxBytes: 25, loraDtype: 'bfloat16' });
    expect(code(residency.tryAcquire([generation('huge', 52)]))).toBe('adapter_never_fits');
    const large = generation('large', 50);
    expect(residency.tryAcquire([large])).toBeUndefined();
    await turn();
    expect(residency.tryAcquire([large])).toEqual([expect.any(Number)]);
    expect(residency.stats().residentBytes).toBe(50);
  });

  it('evicts nothing for an adapter that cannot fit yet, and starves no large one', async () => {
    const { residency, images } = build({ maxSlots: 8, maxBytes: 30 });
    const large = generation('large', 25);
    for (const each of [a, b]) {
      residency.tryAcquire([each]);
      await turn();
      residency.tryAcquire([each]);
    }
    residency.release([b]);
    expect(residency.tryAcquire([large])).toBeUndefined();
    expect(residency.tryAcquire([c])).toBeUndefined();
    await turn();
    // b stays: evicting it would not make room for the large one. c waits behind it.
    expect(residency.stats()).toMatchObject({ resident: 2, waiting: 2, evictions: 0 });
    residency.release([a]);
    await turn();
    expect(residency.adapters().find((x) => x.digest === 'large')!.state).toBe('resident');
    residency.tryAcquire([large]);
    residency.release([large]);
    await turn();
    expect(residency.tryAcquire([c])).toEqual([expect.any(Number)]);
    residency.release([c]);
    expect(images.numHolds).toBe(0);
  });

  it('runs several loads at once up to its limit', async () => {
    const { residency, native } = build({ maxSlots: 4, maxConcurrentLoads: 2 });
    native.immediate = false;
    for (const each of [a, b, c, d]) residency.tryAcquire([each]);
    await turn();
    expect(native.pending.map((load) => load.image.path)).toEqual(['a', 'b']);
    native.pending[1]!.finish();
    await turn();
    expect(native.pending.map((load) => load.image.path)).toEqual(['a', 'b', 'c']);
    expect(residency.tryAcquire([b])).toEqual([1]);
    expect(residency.tryAcquire([a])).toBeUndefined();
  });

  it('reports a failed load, remembers it shortly, then tries again', async () => {
    const { residency, images, changes, advance, kinds, native } = build({ failureRetryMs: 500 });
    images.failing = () => new Error('disk gone');
    residency.tryAcquire([a]);
    await turn();
    expect(changes()).toBe(1);
    expect(residency.tryAcquire([a])).toMatchObject({
      code: 'adapter_load_failed',
      message: expect.stringContaining('disk gone'),
    });
    images.failing = undefined;
    advance(499);
    expect(code(residency.tryAcquire([a]))).toBe('adapter_load_failed');
    expect(images.numHolds).toBe(0);
    advance(1);
    expect(residency.tryAcquire([a])).toBeUndefined();
    await turn();
    expect(residency.tryAcquire([a])).toEqual([0]);
    expect(kinds()).toEqual(['load_failed a', 'loaded a']);
    expect(native.slots.size).toBe(1);
    expect(residency.stats()).toMatchObject({ loads: 1, loadFailures: 1, residentBytes: 10 });
  });

  it('tells a waiting request of a failed load however late it asks', async () => {
    const { residency, images, advance } = build({ failureRetryMs: 500 });
    images.failing = () => new Error('disk gone');
    residency.tryAcquire([a]);
    await turn();
    // The step that ran meanwhile took longer than failures are remembered.
    advance(60_000);
    expect(code(residency.tryAcquire([a]))).toBe('adapter_load_failed');
    expect(residency.tryAcquire([a])).toBeUndefined();
    await turn();
    residency.forget([a]);
    advance(60_000);
    expect(residency.tryAcquire([a]), 'nobody waited any more').toBeUndefined();
    expect(residency.stats().misses).toBe(3);
    await turn();
  });

  it('passes content errors on and frees the slot when the session fails to load', async () => {
    const { residency, images, native } = build({ maxSlots: 1 });
    images.failing = (digest) =>
      digest === 'a' ? new LoramuxError('store_corrupt', 'damaged') : undefined;
    residency.tryAcquire([a]);
    await turn();
    expect(code(residency.tryAcquire([a]))).toBe('store_corrupt');
    native.immediate = false;
    residency.tryAcquire([b]);
    await turn();
    native.pending[0]!.fail(new Error('short read'));
    await turn();
    expect(code(residency.tryAcquire([b]))).toBe('adapter_load_failed');
    native.immediate = true;
    residency.tryAcquire([c]);
    await turn();
    expect(residency.tryAcquire([c])).toEqual([0]);
  });

  it('drops a request for room that nobody waits for', async () => {
    const { residency, native, images } = build({ maxSlots: 1 });
    residency.tryAcquire([a]);
    await turn();
    residency.tryAcquire([a]);
    residency.tryAcquire([b]);
    residency.forget([b]);
    residency.forget([d]);
    residency.release([a]);
    await turn();
    expect([...native.slots.values()]).toEqual(['a']);
    expect(images.numHolds).toBe(0);
  });

  it('lets a load under way end when it is forgotten, and keeps it evictable', async () => {
    const { residency, native, images } = build({ maxSlots: 1 });
    native.immediate = false;
    residency.tryAcquire([a]);
    await turn();
    residency.forget([a]);
    residency.tryAcquire([b]);
    native.pending[0]!.finish();
    await turn();
    expect(native.pending.map((load) => load.image.path)).toEqual(['a', 'b']);
    native.pending[1]!.finish();
    await turn();
    expect(residency.tryAcquire([b])).toEqual([0]);
    expect(images.holds.get('a')).toBe(0);
  });

  it('frees a retired generation with its last reference, not before', async () => {
    const { residency, images, native, kinds } = build();
    residency.tryAcquire([a]);
    await turn();
    residency.tryAcquire([a]);
    residency.tryAcquire([a]);
    images.drop(a);
    expect(native.slots.size).toBe(1);
    residency.release([a]);
    expect(native.slots.size).toBe(1);
    residency.release([a]);
    expect(native.slots.size).toBe(0);
    expect(kinds()).toEqual(['loaded a', 'retired a']);
    expect(code(residency.tryAcquire([a]))).toBe('adapter_not_found');
  });

  it('frees a generation that was retired while it was idle or loading', async () => {
    const { residency, images, native } = build();
    residency.tryAcquire([a]);
    await turn();
    residency.tryAcquire([a]);
    residency.release([a]);
    images.drop(a);
    expect(native.slots.size).toBe(0);

    native.immediate = false;
    residency.tryAcquire([b]);
    await turn();
    images.drop(b);
    residency.forget([b]);
    native.pending[0]!.finish();
    await turn();
    expect(native.slots.size).toBe(0);
    expect(residency.stats()).toMatchObject({ resident: 0, residentBytes: 0 });
  });

  it('reports a refused free as a defect and tries again', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { residency, native, kinds, images } = build({ maxSlots: 1 });
    residency.tryAcquire([a]);
    await turn();
    residency.tryAcquire([a]);
    residency.release([a]);
    native.inUse.add(0);
    expect(residency.tryAcquire([b])).toBeUndefined();
    expect(kinds()).toEqual(['loaded a', 'free_refused a']);
    native.inUse.clear();
    vi.advanceTimersByTime(100);
    await turn();
    expect(residency.tryAcquire([b])).toEqual([0]);

    native.inUse.add(0);
    residency.release([b]);
    images.drop(b);
    expect(native.slots.size).toBe(1);
    native.inUse.clear();
    vi.advanceTimersByTime(100);
    expect(native.slots.size).toBe(0);
    expect(kinds().at(-1)).toBe('retired b');
    expect(residency.stats()).toMatchObject({ freesRefused: 2, resident: 0, residentBytes: 0 });
  });

  it('starts nothing after close and waits for loads under way', async () => {
    const { residency, native, images } = build({ maxSlots: 1 });
    native.immediate = false;
    residency.tryAcquire([a]);
    residency.tryAcquire([b]);
    await turn();
    let closed = false;
    const closing = residency.close().then(() => {
      closed = true;
    });
    await turn();
    expect(closed).toBe(false);
    expect(code(residency.tryAcquire([c]))).toBe('shutting_down');
    native.pending[0]!.finish();
    await closing;
    expect(native.pending).toHaveLength(1);
    expect(images.holds.get('b')).toBe(0);
  });

  it.each([1, 2, 3, 4, 5])('keeps its books under random use (seed %i)', async (seed) => {
    const random = new Random(seed);
    const { residency, native, images } = build({
      maxSlots: 3,
      maxBytes: 60,
      maxConcurrentLoads: 2,
    });
    native.immediate = false;
    const all = Array.from({ length: 8 }, (_, i) => generation(`g${i}`, random.int(5, 40)));
    const references = new Map<string, number>();
    const slotOf = new Map<string, number>();
    for (let step = 0; step < 400; step++) {
      const one = random.pick(all);
      const held = references.get(one.digest) ?? 0;
      const action = random.int(0, 9);
      if (action < 5) {
        const slot = residency.tryAcquire([one]);
        if (typeof slot === 'number') {
          expect(native.slots.get(slot), `seed ${seed}, step ${step}`).toBe(one.digest);
          if (held > 0) expect(slot).toBe(slotOf.get(one.digest));
          references.set(one.digest, held + 1);
          slotOf.set(one.digest, slot);
        }
      } else if (action < 7 && held > 0) {
        residency.release([one]);
        references.set(one.digest, held - 1);
      } else if (action === 7) {
        residency.forget([one]);
      } else if (native.pending.length > 0) {
        const [load] = native.pending.splice(random.int(0, native.pending.length - 1), 1);
        if (random.chance(0.2)) load!.fail(new Error('no luck'));
        else load!.finish();
        await turn();
      }
      const stats = residency.stats();
      expect(stats.residentBytes).toBeLessThanOrEqual(60);
      expect(stats.referenced).toBe([...references.values()].filter((n) => n > 0).length);
    }
    for (const one of all) {
      for (let n = references.get(one.digest) ?? 0; n > 0; n--) residency.release([one]);
      residency.forget([one]);
    }
    await turn();
    while (native.pending.length > 0) {
      native.pending.shift()!.finish();
      await turn();
      for (const one of all) residency.forget([one]);
    }
    await residency.close();
    expect(images.numHolds).toBe(0);
    for (const one of all) images.drop(one);
    expect(native.slots.size).toBe(0);
    expect(residency.stats()).toMatchObject({ residentBytes: 0, resident: 0, waiting: 0 });
  });
});
