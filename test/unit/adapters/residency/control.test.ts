import { afterEach, describe, expect, it, vi } from 'vitest';
import { LOAD_WAITERS_MAX } from '../../../../src/adapters/residency/load-waiters.ts';
import type { SlotResidency } from '../../../../src/adapters/residency/slot-residency.ts';
import { LoramuxError } from '../../../../src/errors.ts';
import { a, b, build, c, code, d, generation, turn } from './support.ts';

describe('pins', () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  const residentOf = (residency: SlotResidency) =>
    residency
      .adapters()
      .filter(({ state }) => state === 'resident')
      .map(({ digest }) => digest)
      .sort();

  it('are loaded, are no victims, and are let go when unpinned', async () => {
    const { residency, kinds, images } = build({ maxSlots: 3 });
    residency.setPins([a, b]);
    await turn();
    expect(residentOf(residency)).toEqual(['a', 'b']);
    expect(images.numHolds).toBe(0);
    for (const each of [c, d]) {
      residency.tryAcquire([each]);
      await turn();
      residency.tryAcquire([each]);
      residency.release([each]);
    }
    expect(residentOf(residency)).toEqual(['a', 'b', 'd']);
    expect(residency.view(a)).toEqual({
      level: 'device',
      pinned: true,
      references: 0,
      evicting: false,
    });
    residency.setPins([b]);
    expect(residency.stats().pinned).toBe(1);
    residency.tryAcquire([c]);
    await turn();
    expect(residentOf(residency)).toEqual(['b', 'c', 'd']);
    expect(kinds()).toEqual([
      'loaded a',
      'loaded b',
      'loaded c',
      'evicted c',
      'loaded d',
      'evicted a',
      'loaded c',
    ]);
  });

  it('beyond the limit are left out, told once, and come in when there is room', async () => {
    const { residency, kinds } = build({ maxSlots: 2 });
    residency.setPins([a, b]);
    residency.setPins([a, b]);
    await turn();
    expect(kinds()).toEqual(['pin_left_out b', 'loaded a']);
    expect(residency.view(b).pinned).toBe(false);
    expect(() => residency.checkPins([a, b])).toThrow(
      expect.objectContaining({ code: 'pin_limit_exceeded' }),
    );
    residency.checkPins([b]);
    residency.setPins([b]);
    await turn();
    expect(residentOf(residency)).toEqual(['a', 'b']);
    expect(residency.view(b).pinned).toBe(true);
  });

  it('that are resident make no room for those that are not', async () => {
    const { residency, kinds } = build({ maxSlots: 3 });
    for (const each of [a, b, c]) await residency.load(each, 1000);
    residency.setPins([d, a]);
    await turn();
    expect(kinds().slice(3)).toEqual(['evicted b', 'loaded d']);
  });

  it('wait for room like everybody else', async () => {
    const { residency } = build({ maxSlots: 2 });
    for (const each of [a, b]) {
      residency.tryAcquire([each]);
      await turn();
      residency.tryAcquire([each]);
    }
    residency.setPins([c]);
    await turn();
    expect(residency.stats()).toMatchObject({ waiting: 1, pinned: 1 });
    residency.setPins([]);
    expect(residency.stats()).toMatchObject({ waiting: 0, pinned: 0 });
    residency.setPins([c]);
    residency.release([a]);
    await turn();
    expect(residentOf(residency)).toEqual(['b', 'c']);
  });

  it('are tried again after a failure, later each time, until they are unpinned', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { residency, images, kinds } = build({ failureRetryMs: 100 });
    images.failing = () => new Error('disk gone');
    residency.setPins([a]);
    await turn();
    vi.advanceTimersByTime(100);
    await turn();
    expect(kinds()).toEqual(['load_failed a', 'load_failed a']);
    residency.setPins([a]);
    vi.advanceTimersByTime(199);
    await turn();
    expect(kinds()).toHaveLength(2);
    images.failing = undefined;
    vi.advanceTimersByTime(1);
    await turn();
    expect(residentOf(residency)).toEqual(['a']);

    images.failing = () => new Error('disk gone');
    residency.setPins([b]);
    await turn();
    residency.setPins([]);
    vi.advanceTimersByTime(60_000);
    await turn();
    expect(kinds().filter((kind) => kind === 'load_failed b')).toHaveLength(1);
    await residency.close();
  });

  it('take the room of what waits: that is told at once', async () => {
    const { residency, changes, images } = build({ maxSlots: 8, maxBytes: 100 });
    const large = generation('large', 70);
    residency.tryAcquire([generation('busy', 40)]);
    await turn();
    residency.tryAcquire([generation('busy', 40)]);
    expect(residency.tryAcquire([large])).toBeUndefined();
    const loading = expect(residency.load(large, 1000)).rejects.toThrow(
      expect.objectContaining({ code: 'adapter_never_fits' }),
    );
    const before = changes();
    residency.setPins([generation('p1', 20), generation('p2', 20)]);
    expect(changes()).toBeGreaterThan(before);
    await loading;
    const refusal = residency.tryAcquire([large]);
    expect(code(refusal)).toBe('adapter_never_fits');
    expect(String(refusal)).toContain('of which 40 belong to pinned adapters');
    expect(images.holds.get('large')).toBe(0);
    await expect(residency.load(large, 1000)).rejects.toThrow(
      expect.objectContaining({ code: 'adapter_never_fits' }),
    );
    residency.setPins([]);
    residency.release([generation('busy', 40)]);
    expect(residency.tryAcquire([large])).toBeUndefined();
  });

  it('do not keep a retired generation', async () => {
    const { residency, images, native } = build();
    residency.setPins([a]);
    await turn();
    images.drop(a);
    expect(native.slots.size).toBe(0);
    residency.setPins([]);
    images.restore(a);
    residency.setPins([a]);
    await turn();
    expect(residentOf(residency)).toEqual(['a']);
  });
});

describe('explicit loads', () => {
  it('resolve when the adapter is resident, also when others asked before', async () => {
    const { residency, native, images } = build();
    native.immediate = false;
    residency.tryAcquire([a]);
    const loads = [residency.load(a, 1000), residency.load(a, 1000)];
    await turn();
    expect(native.pending).toHaveLength(1);
    native.pending[0]!.finish();
    await Promise.all(loads);
    await residency.load(a, 1000);
    expect(residency.tryAcquire([a])).toEqual([0]);
    residency.release([a]);
    expect(images).toMatchObject({ numHolds: 0, numOpen: 0 });
  });

  it('reject with what the load failed with, and try a failed one anew', async () => {
    const { residency, images } = build();
    images.failing = () => new LoramuxError('blob_unavailable', 'The store is away.');
    await expect(residency.load(a, 1000)).rejects.toThrow(
      expect.objectContaining({ code: 'blob_unavailable' }),
    );
    images.failing = undefined;
    await residency.load(a, 1000);
    expect(residency.view(a).level).toBe('device');
    images.drop(b);
    await expect(residency.load(b, 1000)).rejects.toThrow(
      expect.objectContaining({ code: 'adapter_not_found' }),
    );
  });

  it('give up after their time and leave nothing behind', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { residency, images, native } = build({ maxSlots: 1 });
    residency.tryAcquire([a]);
    await turn();
    residency.tryAcquire([a]);
    const waiting = expect(residency.load(b, 500)).rejects.toThrow(
      expect.objectContaining({
        code: 'adapter_load_timeout',
        message: expect.stringContaining('waits for room'),
      }),
    );
    residency.tryAcquire([b]);
    vi.advanceTimersByTime(500);
    await waiting;
    expect(residency.stats().waiting, 'the request still waits').toBe(1);
    residency.forget([b]);
    expect(residency.stats().waiting).toBe(0);
    const again = expect(residency.load(b, 500)).rejects.toThrow('waits for room');
    vi.advanceTimersByTime(500);
    await again;
    expect(residency.stats().waiting).toBe(0);
    expect(images.holds.get('b')).toBe(0);

    residency.release([a]);
    native.immediate = false;
    const reading = expect(residency.load(b, 500)).rejects.toThrow('is being read');
    await turn();
    vi.advanceTimersByTime(500);
    await reading;
    native.pending[0]!.finish();
    await turn();
    expect(residency.view(b).level, 'it may stay').toBe('device');
    vi.useRealTimers();
  });

  it('are bounded', async () => {
    const { residency } = build({ maxSlots: 1 });
    residency.tryAcquire([a]);
    await turn();
    residency.tryAcquire([a]);
    const all = Promise.allSettled(
      Array.from({ length: LOAD_WAITERS_MAX }, () => residency.load(b, 60_000)),
    );
    await expect(residency.load(c, 60_000)).rejects.toThrow(
      expect.objectContaining({ code: 'queue_full' }),
    );
    await residency.close();
    for (const outcome of await all) {
      expect(outcome).toMatchObject({ reason: { code: 'shutting_down' } });
    }
    await expect(residency.load(c, 1)).rejects.toThrow(
      expect.objectContaining({ code: 'shutting_down' }),
    );
  });
});

describe('evictions on request', () => {
  it('drop device and host memory at once when nobody uses the adapter', async () => {
    const { residency, images, native, kinds } = build();
    await residency.load(a, 1000);
    expect(residency.evict(a)).toEqual({
      level: 'disk',
      pinned: false,
      references: 0,
      evicting: false,
    });
    expect(native.slots.size).toBe(0);
    expect(images.hasImage('a')).toBe(false);
    expect(kinds()).toEqual(['loaded a', 'evicted a']);
    expect(residency.evict(b).level).toBe('disk');
  });

  it('wait for the last reference, also of requests that come meanwhile', async () => {
    const { residency, native } = build();
    residency.tryAcquire([a]);
    await turn();
    residency.tryAcquire([a]);
    expect(residency.evict(a)).toMatchObject({ level: 'device', references: 1, evicting: true });
    expect(residency.tryAcquire([a])).toEqual([0]);
    residency.release([a]);
    expect(native.slots.size).toBe(1);
    residency.release([a]);
    expect(native.slots.size).toBe(0);
    expect(residency.tryAcquire([a])).toBeUndefined();
  });

  it('let a load under way end for those who wait for it', async () => {
    const { residency, native } = build();
    native.immediate = false;
    residency.tryAcquire([a]);
    await turn();
    expect(residency.evict(a)).toMatchObject({ evicting: true });
    native.pending[0]!.finish();
    await turn();
    expect(residency.tryAcquire([a])).toEqual([0]);
    residency.release([a]);
    expect(native.slots.size).toBe(0);

    residency.tryAcquire([b]);
    await turn();
    residency.evict(b);
    residency.forget([b]);
    native.pending[1]!.finish();
    await turn();
    expect(native.slots.size).toBe(0);
  });

  it('are called off by an explicit load and by a pin', async () => {
    const { residency, native } = build({ maxSlots: 3 });
    for (const each of [a, b]) {
      residency.tryAcquire([each]);
      await turn();
      residency.tryAcquire([each]);
      residency.evict(each);
    }
    await residency.load(a, 1000);
    residency.setPins([b]);
    expect(residency.view(b)).toMatchObject({ pinned: true, evicting: false });
    residency.release([a]);
    residency.release([b]);
    expect(native.slots.size).toBe(2);
    expect(residency.evict(b), 'a pin keeps its slot').toMatchObject({ level: 'device' });
    expect(native.slots.size).toBe(2);
  });

  it('are tried again when the session refuses to free the slot', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { residency, native, kinds } = build();
    await residency.load(a, 1000);
    native.inUse.add(0);
    expect(residency.evict(a)).toMatchObject({ level: 'device', evicting: true });
    native.inUse.clear();
    vi.advanceTimersByTime(100);
    expect(native.slots.size).toBe(0);
    expect(kinds()).toEqual(['loaded a', 'free_refused a', 'evicted a']);
    vi.useRealTimers();
  });
});

describe('prefetching', () => {
  it('loads into spare room, and only into that', async () => {
    const { residency, images, kinds } = build({ maxSlots: 3 });
    residency.prefetch(a);
    residency.prefetch(b);
    residency.prefetch(b);
    await turn();
    expect(kinds()).toEqual(['loaded a', 'prefetched a', 'loaded b', 'prefetched b']);
    expect(residency.tryAcquire([a])).toEqual([0]);
    expect(residency.tryAcquire([b])).toEqual([1]);
    // The last slot stays for those who wait.
    residency.prefetch(c);
    expect(images.prefetched).toEqual(['c']);
    residency.release([a]);
    residency.prefetch(c);
    await turn();
    residency.prefetch(d);
    await turn();
    expect(kinds().slice(4)).toEqual(['loaded c', 'prefetched c']);
    expect(images.prefetched).toEqual(['c', 'd']);
    expect(residency.view(d).level).toBe('host');
    expect(residency.stats()).toMatchObject({ hits: 2, misses: 0, evictions: 0 });
    expect(images.numHolds).toBe(1);
  });

  it('leaves a load free for those who wait, and is cheap and silent otherwise', async () => {
    const { residency, images, native } = build({ maxSlots: 8, maxConcurrentLoads: 2 });
    native.immediate = false;
    residency.prefetch(a);
    residency.prefetch(b);
    await turn();
    expect(native.pending.map((load) => load.image.path)).toEqual(['a']);
    expect(images.prefetched).toEqual(['b']);
    residency.prefetch(generation('huge', 1000));
    expect(images.prefetched).toEqual(['b']);
    native.pending[0]!.fail(new Error('short read'));
    await turn();
    residency.prefetch(a);
    expect(images.prefetched, 'it failed a moment ago').toEqual(['b']);
    await residency.close();
    residency.prefetch(c);
    expect(images.prefetched).toEqual(['b']);
  });

  it('is joined by the request that follows', async () => {
    const { residency, native, kinds } = build({ maxSlots: 4 });
    native.immediate = false;
    residency.prefetch(a);
    expect(residency.tryAcquire([a])).toBeUndefined();
    await turn();
    expect(native.pending).toHaveLength(1);
    native.pending[0]!.finish();
    await turn();
    expect(residency.tryAcquire([a])).toEqual([0]);
    expect(kinds()).toEqual(['loaded a']);
    expect(residency.stats()).toMatchObject({ hits: 0, misses: 1 });
  });
});

describe('tiers', () => {
  it('are told with each load and counted; images are given back', async () => {
    const { residency, images, events, native } = build({ maxSlots: 1 });
    for (const tier of ['registry', 'disk'] as const) {
      images.tier = tier;
      await residency.load(tier === 'disk' ? a : b, 1000);
    }
    await residency.load(b, 1000);
    native.immediate = false;
    const failing = expect(residency.load(c, 1000)).rejects.toThrow('short read');
    await turn();
    native.pending[0]!.fail(new Error('short read'));
    await failing;
    expect(events.flatMap((event) => (event.kind === 'loaded' ? [event.tier] : []))).toEqual([
      'registry',
      'disk',
      'host',
    ]);
    expect(residency.stats().loadsByTier).toEqual({ registry: 1, disk: 1, host: 1 });
    expect(images.numOpen).toBe(0);
  });

  it('lose their copies of a retired generation', async () => {
    const { residency, images } = build();
    await residency.load(a, 1000);
    images.drop(a);
    expect(images.hasImage('a')).toBe(false);
    images.host.add('b');
    images.drop(b);
    expect(images.hasImage('b')).toBe(false);
  });
});
