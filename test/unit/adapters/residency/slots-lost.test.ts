/** Residency when the native session is replaced: its slots are empty, and who waits is served. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Random } from '../../../support/random.ts';
import { a, b, build, c, code, d, turn } from './support.ts';

afterEach(() => {
  vi.useRealTimers();
});

/** Another session: nothing is in its slots, and loads of the old one have ended. */
function lose({ native, residency }: ReturnType<typeof build>): void {
  const lost = native.pending.splice(0);
  residency.slotsLost();
  for (const load of lost) load.fail(new Error('the session is closed'));
  for (const slot of native.slots.keys()) {
    if (!native.pending.some((load) => load.slot === slot)) native.slots.delete(slot);
  }
}

describe('slots that are lost', () => {
  it('are free; what was resident is loaded again when it is asked for', async () => {
    const built = build();
    const { residency, native, kinds } = built;
    for (const each of [a, b]) {
      residency.tryAcquire([each]);
      await turn();
      residency.tryAcquire([each]);
      residency.release([each]);
    }
    lose(built);
    expect(residency.stats()).toMatchObject({ resident: 0, residentBytes: 0, loading: 0 });
    expect(native.frees).toBe(0);
    expect(built.images.numHolds).toBe(0);
    expect(residency.tryAcquire([b])).toBeUndefined();
    await turn();
    expect(residency.tryAcquire([b])).toEqual([0]);
    expect(native.slots.get(0)).toBe('b');
    expect(kinds()).toEqual(['loaded a', 'loaded b', 'loaded b']);
  });

  it('take their loads along: those begin anew, and no failure is remembered', async () => {
    const built = build();
    const { residency, native, kinds } = built;
    native.immediate = false;
    residency.tryAcquire([a]);
    const explicit = residency.load(b, 1000);
    await turn();
    expect(native.pending).toHaveLength(2);
    native.immediate = true;
    lose(built);
    await turn();
    await explicit;
    expect(residency.tryAcquire([a])).toEqual([0]);
    expect(residency.view(b).level).toBe('device');
    expect(kinds().filter((kind) => kind.startsWith('load_failed'))).toEqual([]);
    expect(residency.stats()).toMatchObject({ loads: 2, loadFailures: 0, resident: 2 });
  });

  it('drop a load that nobody waits for any more', async () => {
    const built = build();
    const { residency, native } = built;
    native.immediate = false;
    residency.tryAcquire([a]);
    await turn();
    residency.forget([a]);
    lose(built);
    await turn();
    expect(native.pending).toEqual([]);
    expect(residency.adapters()).toEqual([]);
    expect(built.images.numHolds).toBe(0);
  });

  it('are not written by a load whose file was still being read', async () => {
    const built = build({ maxSlots: 1 });
    const { residency, native, images } = built;
    let read: () => void = () => {};
    const open = images.openImage.bind(images);
    vi.spyOn(images, 'openImage').mockImplementationOnce(async (generation) => {
      await new Promise<void>((resolve) => {
        read = resolve;
      });
      return open(generation);
    });
    residency.tryAcquire([a]);
    await turn();
    residency.forget([a]);
    lose(built);
    expect(residency.tryAcquire([b])).toBeUndefined();
    await turn();
    read();
    await turn();
    expect(native.slots.get(0)).toBe('b');
    expect(residency.tryAcquire([b])).toEqual([0]);
    expect(images.numOpen).toBe(0);
  });

  it('get back what is pinned, and lose what was to leave', async () => {
    const built = build({ maxSlots: 3 });
    const { residency } = built;
    residency.setPins([a, b]);
    await residency.load(c, 1000);
    residency.evict(b);
    residency.tryAcquire([c]);
    residency.evict(c);
    residency.release([c]);
    lose(built);
    await turn();
    expect(residency.view(a)).toMatchObject({ level: 'device', pinned: true });
    expect(residency.view(b)).toMatchObject({ level: 'device', pinned: true });
    expect(residency.view(c)).toMatchObject({ level: 'disk', evicting: false });
  });

  it('must have no references', async () => {
    const { residency } = build();
    residency.tryAcquire([a]);
    await turn();
    residency.tryAcquire([a]);
    expect(() => residency.slotsLost()).toThrow(/had references/);
  });

  it('wake those who wait for room', async () => {
    const built = build({ maxSlots: 1 });
    const { residency } = built;
    residency.tryAcquire([a]);
    await turn();
    expect(residency.tryAcquire([a])).toEqual([0]);
    expect(residency.tryAcquire([b])).toBeUndefined();
    residency.release([a]);
    lose(built);
    await turn();
    expect(residency.tryAcquire([b])).toEqual([0]);
  });

  it('let a close end, loads of the old session included', async () => {
    const built = build();
    const { residency, native } = built;
    native.immediate = false;
    residency.tryAcquire([a]);
    await turn();
    const [load] = native.pending.splice(0);
    residency.slotsLost();
    residency.forget([a]);
    const closed = residency.close();
    load!.fail(new Error('closed'));
    native.slots.clear();
    await turn();
    for (const each of native.pending.splice(0)) each.finish();
    await closed;
    expect(built.images.numOpen).toBe(0);
  });

  it('at any moment of a random life lose no hold and no slot', async () => {
    for (let seed = 1; seed <= 40; seed++) {
      const random = new Random(seed);
      const built = build({ maxSlots: 2, failureRetryMs: 0 });
      const { residency, native, images } = built;
      const held: (typeof a)[] = [];
      native.immediate = false;
      for (let i = 0; i < 120; i++) {
        const one = random.pick([a, b, c, d]);
        const what = random.int(0, 6);
        if (what <= 1) {
          const slots = residency.tryAcquire([one]);
          if (Array.isArray(slots)) {
            expect(native.slots.get(slots[0]), `seed ${seed}`).toBe(one.digest);
            held.push(one);
          } else expect(code(slots)).toBeUndefined();
        } else if (what === 2 && held.length > 0) residency.release([held.pop()!]);
        else if (what === 3) residency.forget([one]);
        else if (what === 4) residency.prefetch(one);
        else if (what === 5) native.pending.shift()?.finish();
        else if (random.chance(0.5)) {
          for (const each of held.splice(0)) residency.release([each]);
          lose(built);
        }
        if (random.chance(0.5)) await turn();
      }
      for (const each of held) residency.release([each]);
      for (const each of [a, b, c, d]) residency.forget([each]);
      for (let i = 0; i < 20; i++) {
        native.pending.shift()?.finish();
        await turn();
      }
      expect(residency.stats(), `seed ${seed}`).toMatchObject({ loading: 0, referenced: 0 });
      expect(images.numHolds, `seed ${seed}`).toBe(0);
      expect(residency.stats().residentBytes).toBe(10 * residency.stats().resident);
      await residency.close();
      expect(images.numOpen, `seed ${seed}`).toBe(0);
    }
  });
});
