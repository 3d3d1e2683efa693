import { afterEach, describe, expect, it, vi } from 'vitest';
import { LOAD_WAITERS_MAX } from '../../../../src/adapters/residency/load-waiters.ts';
import { SlotResidency } from '../../../../src/adapters/residency/slot-residency.ts';
import type { ResidencyEvent, ResidencyOptions } from '../../../../src/adapters/residency/types.ts';
import type { AdapterGeneration } from '../../../../src/adapters/types.ts';
import { LoramuxError } from '../../../../src/errors.ts';
import { FakeAdapterNative } from '../../../support/fake-adapter-native.ts';
import { FakeImages } from '../../../support/fake-images.ts';
import { Random } from '../../../support/random.ts';

const generation = (digest: string, residentBytes = 10): AdapterGeneration => ({
  digest,
  rank: 4,
  residentBytes,
});
const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((digest) => generation(digest)) as [
  AdapterGeneration,
  AdapterGeneration,
  AdapterGeneration,
  AdapterGeneration,
];

function build(options: Partial<ResidencyOptions> = {}) {
  const native = new FakeAdapterNative();
  const images = new FakeImages();
  const events: ResidencyEvent[] = [];
  let changes = 0;
  let time = 0;
  const residency = new SlotResidency({
    native,
    images,
    maxSlots: 2,
    maxBytes: 100,
    onEvent: (event) => events.push(event),
    now: () => time,
    ...options,
  });
  residency.onChange(() => changes++);
  return {
    native,
    images,
    residency,
    events,
    changes: () => changes,
    advance: (ms: number) => {
      time += ms;
    },
    kinds: () => events.map((event) => `${event.kind} ${event.digest}`),
  };
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
const code = (value: unknown) => (value instanceof LoramuxError ? value.code : value);

describe('slot residency', () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  it('loads on demand, tells, and gives the slot with a reference', async () => {
    const { residency, changes, native, images } = build();
    expect(residency.tryAcquire(a)).toBeUndefined();
    expect(residency.tryAcquire(a)).toBeUndefined();
    await turn();
    expect(changes()).toBe(1);
    expect(residency.tryAcquire(a)).toBe(0);
    expect(residency.tryAcquire(a)).toBe(0);
    expect(native.slots.get(0)).toBe('a');
    expect(residency.stats()).toMatchObject({
      hits: 1,
      misses: 1,
      loads: 1,
      residentBytes: 10,
      resident: 1,
      referenced: 1,
    });
    residency.release(a);
    residency.release(a);
    expect(images.numHolds).toBe(0);
    expect(() => residency.release(a)).toThrow(expect.objectContaining({ code: 'internal_error' }));
    expect(residency.tryAcquire(a)).toBe(0);
  });

  it('evicts the least recently used without references', async () => {
    const { residency, kinds } = build();
    for (const each of [a, b]) {
      residency.tryAcquire(each);
      await turn();
      residency.tryAcquire(each);
      residency.release(each);
    }
    residency.tryAcquire(a);
    residency.release(a);
    expect(residency.tryAcquire(c)).toBeUndefined();
    await turn();
    expect(kinds()).toEqual(['loaded a', 'loaded b', 'evicted b', 'loaded c']);
    expect(residency.tryAcquire(c)).toBe(1);
    expect(residency.stats().evictions).toBe(1);
  });

  it('waits while all slots are referenced and loads when one is released', async () => {
    const { residency, changes } = build();
    for (const each of [a, b]) {
      residency.tryAcquire(each);
      await turn();
      residency.tryAcquire(each);
    }
    expect(residency.tryAcquire(c)).toBeUndefined();
    await turn();
    expect(residency.stats()).toMatchObject({ waiting: 1, loading: 0 });
    const before = changes();
    residency.release(a);
    await turn();
    expect(changes()).toBe(before + 1);
    expect(residency.tryAcquire(c)).toBe(0);
  });

  it('keeps what was loaded for who asked until it is acquired or forgotten', async () => {
    const { residency } = build({ maxSlots: 1 });
    residency.tryAcquire(a);
    await turn();
    residency.tryAcquire(b);
    await turn();
    expect(residency.adapters()).toMatchObject([
      { digest: 'a', state: 'resident' },
      { digest: 'b', state: 'waiting' },
    ]);
    residency.forget(a);
    await turn();
    expect(residency.tryAcquire(b)).toBe(0);
  });

  it('keeps to the byte budget and refuses what never fits', async () => {
    const { residency, kinds } = build({ maxSlots: 8, maxBytes: 25 });
    const large = generation('large', 20);
    for (const each of [a, b]) {
      residency.tryAcquire(each);
      await turn();
      residency.tryAcquire(each);
      residency.release(each);
    }
    expect(code(residency.tryAcquire(generation('huge', 26)))).toBe('adapter_never_fits');
    expect(residency.tryAcquire(large)).toBeUndefined();
    await turn();
    expect(residency.tryAcquire(large)).toBeTypeOf('number');
    expect(kinds()).toEqual(['loaded a', 'loaded b', 'evicted a', 'evicted b', 'loaded large']);
    expect(residency.stats().residentBytes).toBe(20);
  });

  it('evicts nothing for an adapter that cannot fit yet, and starves no large one', async () => {
    const { residency, images } = build({ maxSlots: 8, maxBytes: 30 });
    const large = generation('large', 25);
    for (const each of [a, b]) {
      residency.tryAcquire(each);
      await turn();
      residency.tryAcquire(each);
    }
    residency.release(b);
    expect(residency.tryAcquire(large)).toBeUndefined();
    expect(residency.tryAcquire(c)).toBeUndefined();
    await turn();
    // b stays: evicting it would not make room for the large one. c waits behind it.
    expect(residency.stats()).toMatchObject({ resident: 2, waiting: 2, evictions: 0 });
    residency.release(a);
    await turn();
    expect(residency.adapters().find((x) => x.digest === 'large')!.state).toBe('resident');
    residency.tryAcquire(large);
    residency.release(large);
    await turn();
    expect(residency.tryAcquire(c)).toBeTypeOf('number');
    residency.release(c);
    expect(images.numHolds).toBe(0);
  });

  it('runs several loads at once up to its limit', async () => {
    const { residency, native } = build({ maxSlots: 4, maxConcurrentLoads: 2 });
    native.immediate = false;
    for (const each of [a, b, c, d]) residency.tryAcquire(each);
    await turn();
    expect(native.pending.map((load) => load.image.path)).toEqual(['a', 'b']);
    native.pending[1]!.finish();
    await turn();
    expect(native.pending.map((load) => load.image.path)).toEqual(['a', 'b', 'c']);
    expect(residency.tryAcquire(b)).toBe(1);
    expect(residency.tryAcquire(a)).toBeUndefined();
  });

  it('reports a failed load, remembers it shortly, then tries again', async () => {
    const { residency, images, changes, advance, kinds, native } = build({ failureRetryMs: 500 });
    images.failing = () => new Error('disk gone');
    residency.tryAcquire(a);
    await turn();
    expect(changes()).toBe(1);
    expect(residency.tryAcquire(a)).toMatchObject({
      code: 'adapter_load_failed',
      message: expect.stringContaining('disk gone'),
    });
    images.failing = undefined;
    advance(499);
    expect(code(residency.tryAcquire(a))).toBe('adapter_load_failed');
    expect(images.numHolds).toBe(0);
    advance(1);
    expect(residency.tryAcquire(a)).toBeUndefined();
    await turn();
    expect(residency.tryAcquire(a)).toBe(0);
    expect(kinds()).toEqual(['load_failed a', 'loaded a']);
    expect(native.slots.size).toBe(1);
    expect(residency.stats()).toMatchObject({ loads: 1, loadFailures: 1, residentBytes: 10 });
  });

  it('tells a waiting request of a failed load however late it asks', async () => {
    const { residency, images, advance } = build({ failureRetryMs: 500 });
    images.failing = () => new Error('disk gone');
    residency.tryAcquire(a);
    await turn();
    // The step that ran meanwhile took longer than failures are remembered.
    advance(60_000);
    expect(code(residency.tryAcquire(a))).toBe('adapter_load_failed');
    expect(residency.tryAcquire(a)).toBeUndefined();
    await turn();
    residency.forget(a);
    advance(60_000);
    expect(residency.tryAcquire(a), 'nobody waited any more').toBeUndefined();
    expect(residency.stats().misses).toBe(3);
    await turn();
  });

  it('passes content errors on and frees the slot when the session fails to load', async () => {
    const { residency, images, native } = build({ maxSlots: 1 });
    images.failing = (digest) =>
      digest === 'a' ? new LoramuxError('store_corrupt', 'damaged') : undefined;
    residency.tryAcquire(a);
    await turn();
    expect(code(residency.tryAcquire(a))).toBe('store_corrupt');
    native.immediate = false;
    residency.tryAcquire(b);
    await turn();
    native.pending[0]!.fail(new Error('short read'));
    await turn();
    expect(code(residency.tryAcquire(b))).toBe('adapter_load_failed');
    native.immediate = true;
    residency.tryAcquire(c);
    await turn();
    expect(residency.tryAcquire(c)).toBe(0);
  });

  it('drops a request for room that nobody waits for', async () => {
    const { residency, native, images } = build({ maxSlots: 1 });
    residency.tryAcquire(a);
    await turn();
    residency.tryAcquire(a);
    residency.tryAcquire(b);
    residency.forget(b);
    residency.forget(d);
    residency.release(a);
    await turn();
    expect([...native.slots.values()]).toEqual(['a']);
    expect(images.numHolds).toBe(0);
  });

  it('lets a load under way end when it is forgotten, and keeps it evictable', async () => {
    const { residency, native, images } = build({ maxSlots: 1 });
    native.immediate = false;
    residency.tryAcquire(a);
    await turn();
    residency.forget(a);
    residency.tryAcquire(b);
    native.pending[0]!.finish();
    await turn();
    expect(native.pending.map((load) => load.image.path)).toEqual(['a', 'b']);
    native.pending[1]!.finish();
    await turn();
    expect(residency.tryAcquire(b)).toBe(0);
    expect(images.holds.get('a')).toBe(0);
  });

  it('frees a retired generation with its last reference, not before', async () => {
    const { residency, images, native, kinds } = build();
    residency.tryAcquire(a);
    await turn();
    residency.tryAcquire(a);
    residency.tryAcquire(a);
    images.drop(a);
    expect(native.slots.size).toBe(1);
    residency.release(a);
    expect(native.slots.size).toBe(1);
    residency.release(a);
    expect(native.slots.size).toBe(0);
    expect(kinds()).toEqual(['loaded a', 'retired a']);
    expect(code(residency.tryAcquire(a))).toBe('adapter_not_found');
  });

  it('frees a generation that was retired while it was idle or loading', async () => {
    const { residency, images, native } = build();
    residency.tryAcquire(a);
    await turn();
    residency.tryAcquire(a);
    residency.release(a);
    images.drop(a);
    expect(native.slots.size).toBe(0);

    native.immediate = false;
    residency.tryAcquire(b);
    await turn();
    images.drop(b);
    residency.forget(b);
    native.pending[0]!.finish();
    await turn();
    expect(native.slots.size).toBe(0);
    expect(residency.stats()).toMatchObject({ resident: 0, residentBytes: 0 });
  });

  it('reports a refused free as a defect and tries again', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { residency, native, kinds, images } = build({ maxSlots: 1 });
    residency.tryAcquire(a);
    await turn();
    residency.tryAcquire(a);
    residency.release(a);
    native.inUse.add(0);
    expect(residency.tryAcquire(b)).toBeUndefined();
    expect(kinds()).toEqual(['loaded a', 'free_refused a']);
    native.inUse.clear();
    vi.advanceTimersByTime(100);
    await turn();
    expect(residency.tryAcquire(b)).toBe(0);

    native.inUse.add(0);
    residency.release(b);
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
    residency.tryAcquire(a);
    residency.tryAcquire(b);
    await turn();
    let closed = false;
    const closing = residency.close().then(() => {
      closed = true;
    });
    await turn();
    expect(closed).toBe(false);
    expect(code(residency.tryAcquire(c))).toBe('shutting_down');
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
        const slot = residency.tryAcquire(one);
        if (typeof slot === 'number') {
          expect(native.slots.get(slot), `seed ${seed}, step ${step}`).toBe(one.digest);
          if (held > 0) expect(slot).toBe(slotOf.get(one.digest));
          references.set(one.digest, held + 1);
          slotOf.set(one.digest, slot);
        }
      } else if (action < 7 && held > 0) {
        residency.release(one);
        references.set(one.digest, held - 1);
      } else if (action === 7) {
        residency.forget(one);
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
      for (let n = references.get(one.digest) ?? 0; n > 0; n--) residency.release(one);
      residency.forget(one);
    }
    await turn();
    while (native.pending.length > 0) {
      native.pending.shift()!.finish();
      await turn();
      for (const one of all) residency.forget(one);
    }
    await residency.close();
    expect(images.numHolds).toBe(0);
    for (const one of all) images.drop(one);
    expect(native.slots.size).toBe(0);
    expect(residency.stats()).toMatchObject({ residentBytes: 0, resident: 0, waiting: 0 });
  });
});

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
      residency.tryAcquire(each);
      await turn();
      residency.tryAcquire(each);
      residency.release(each);
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
    residency.tryAcquire(c);
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
      residency.tryAcquire(each);
      await turn();
      residency.tryAcquire(each);
    }
    residency.setPins([c]);
    await turn();
    expect(residency.stats()).toMatchObject({ waiting: 1, pinned: 1 });
    residency.setPins([]);
    expect(residency.stats()).toMatchObject({ waiting: 0, pinned: 0 });
    residency.setPins([c]);
    residency.release(a);
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
    residency.tryAcquire(generation('busy', 40));
    await turn();
    residency.tryAcquire(generation('busy', 40));
    expect(residency.tryAcquire(large)).toBeUndefined();
    const loading = expect(residency.load(large, 1000)).rejects.toThrow(
      expect.objectContaining({ code: 'adapter_never_fits' }),
    );
    const before = changes();
    residency.setPins([generation('p1', 20), generation('p2', 20)]);
    expect(changes()).toBeGreaterThan(before);
    await loading;
    const refusal = residency.tryAcquire(large);
    expect(code(refusal)).toBe('adapter_never_fits');
    expect(String(refusal)).toContain('of which 40 belong to pinned adapters');
    expect(images.holds.get('large')).toBe(0);
    await expect(residency.load(large, 1000)).rejects.toThrow(
      expect.objectContaining({ code: 'adapter_never_fits' }),
    );
    residency.setPins([]);
    residency.release(generation('busy', 40));
    expect(residency.tryAcquire(large)).toBeUndefined();
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
    residency.tryAcquire(a);
    const loads = [residency.load(a, 1000), residency.load(a, 1000)];
    await turn();
    expect(native.pending).toHaveLength(1);
    native.pending[0]!.finish();
    await Promise.all(loads);
    await residency.load(a, 1000);
    expect(residency.tryAcquire(a)).toBe(0);
    residency.release(a);
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
    residency.tryAcquire(a);
    await turn();
    residency.tryAcquire(a);
    const waiting = expect(residency.load(b, 500)).rejects.toThrow(
      expect.objectContaining({
        code: 'adapter_load_timeout',
        message: expect.stringContaining('waits for room'),
      }),
    );
    residency.tryAcquire(b);
    vi.advanceTimersByTime(500);
    await waiting;
    expect(residency.stats().waiting, 'the request still waits').toBe(1);
    residency.forget(b);
    expect(residency.stats().waiting).toBe(0);
    const again = expect(residency.load(b, 500)).rejects.toThrow('waits for room');
    vi.advanceTimersByTime(500);
    await again;
    expect(residency.stats().waiting).toBe(0);
    expect(images.holds.get('b')).toBe(0);

    residency.release(a);
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
    residency.tryAcquire(a);
    await turn();
    residency.tryAcquire(a);
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
    residency.tryAcquire(a);
    await turn();
    residency.tryAcquire(a);
    expect(residency.evict(a)).toMatchObject({ level: 'device', references: 1, evicting: true });
    expect(residency.tryAcquire(a)).toBe(0);
    residency.release(a);
    expect(native.slots.size).toBe(1);
    residency.release(a);
    expect(native.slots.size).toBe(0);
    expect(residency.tryAcquire(a)).toBeUndefined();
  });

  it('let a load under way end for those who wait for it', async () => {
    const { residency, native } = build();
    native.immediate = false;
    residency.tryAcquire(a);
    await turn();
    expect(residency.evict(a)).toMatchObject({ evicting: true });
    native.pending[0]!.finish();
    await turn();
    expect(residency.tryAcquire(a)).toBe(0);
    residency.release(a);
    expect(native.slots.size).toBe(0);

    residency.tryAcquire(b);
    await turn();
    residency.evict(b);
    residency.forget(b);
    native.pending[1]!.finish();
    await turn();
    expect(native.slots.size).toBe(0);
  });

  it('are called off by an explicit load and by a pin', async () => {
    const { residency, native } = build({ maxSlots: 3 });
    for (const each of [a, b]) {
      residency.tryAcquire(each);
      await turn();
      residency.tryAcquire(each);
      residency.evict(each);
    }
    await residency.load(a, 1000);
    residency.setPins([b]);
    expect(residency.view(b)).toMatchObject({ pinned: true, evicting: false });
    residency.release(a);
    residency.release(b);
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
    expect(residency.tryAcquire(a)).toBe(0);
    expect(residency.tryAcquire(b)).toBe(1);
    // The last slot stays for those who wait.
    residency.prefetch(c);
    expect(images.prefetched).toEqual(['c']);
    residency.release(a);
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
    expect(residency.tryAcquire(a)).toBeUndefined();
    await turn();
    expect(native.pending).toHaveLength(1);
    native.pending[0]!.finish();
    await turn();
    expect(residency.tryAcquire(a)).toBe(0);
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
