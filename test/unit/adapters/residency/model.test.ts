/**
 * Residency under random use against what must always hold: slots and bytes are conserved, what is
 * referenced or pinned and resident stays, nobody waits for ever, and waiting loads start in the
 * order they were asked for. fast-check prints the seed and the shortest failing sequence.
 */

import { describe, expect, it } from 'vitest';
import { choosePins } from '../../../../src/adapters/residency/pins.ts';
import { SlotResidency } from '../../../../src/adapters/residency/slot-residency.ts';
import type { ResidencyEvent } from '../../../../src/adapters/residency/types.ts';
import type { AdapterGeneration } from '../../../../src/adapters/types.ts';
import { LoramuxError } from '../../../../src/errors.ts';
import { FakeAdapterNative } from '../../../support/fake-adapter-native.ts';
import { FakeImages } from '../../../support/fake-images.ts';
import { fc } from '../../../support/properties.ts';

const MAX_BYTES = 60;
const MAX_SLOTS = 3;
const LOADS_AT_ONCE = 2;
const GENERATIONS: AdapterGeneration[] = [5, 8, 10, 13, 20, 25, 31, 40].map((residentBytes, i) => ({
  digest: `g${i}`,
  rank: 1,
  residentBytes,
}));

/** What requests ask for: each alone, and some together. */
const WISHES: AdapterGeneration[][] = [
  ...GENERATIONS.map((generation) => [generation]),
  ...[
    [0, 1],
    [1, 2],
    [0, 2],
    [0, 1, 2],
    [3, 4],
    [2, 5],
    [4, 6],
    [5, 6],
    [6, 7],
  ].map((ats) => ats.map((at) => GENERATIONS[at]!)),
];

const index = fc.nat({ max: GENERATIONS.length - 1 });
const wish = fc.nat({ max: WISHES.length - 1 });
const action = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('acquire' as const), at: wish }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('release' as const), at: wish }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('forget' as const), at: wish }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('prefetch' as const), at: index }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('load' as const), at: index }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('evict' as const), at: index }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('remove' as const), at: index }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('restore' as const), at: index }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('pin' as const),
      list: fc.uniqueArray(index, { maxLength: 4 }),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('finish' as const),
      at: fc.nat({ max: 3 }),
      fails: fc.nat({ max: 4 }).map((n) => n === 0),
    }),
  },
);
const actionList = fc.array(action, { maxLength: 120, size: 'max' });
type Action = typeof action extends fc.Arbitrary<infer T> ? T : never;

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

class World {
  readonly native = new FakeAdapterNative();
  readonly images = new FakeImages();
  readonly events: ResidencyEvent[] = [];
  readonly references = new Map<string, number>();
  /** How often each wish is granted and not given back. */
  readonly granted = WISHES.map(() => 0);
  /** Wishes that a request waits for, by index. */
  readonly wanted = new Set<number>();
  readonly loads: { digest: string; settled: boolean }[] = [];
  readonly residency: SlotResidency;
  pins: AdapterGeneration[] = [];
  time = 0;
  woken = false;

  constructor() {
    this.native.immediate = false;
    this.residency = new SlotResidency({
      native: this.native,
      images: this.images,
      maxSlots: MAX_SLOTS,
      maxBytes: MAX_BYTES,
      maxConcurrentLoads: LOADS_AT_ONCE,
      failureRetryMs: 10,
      onEvent: (event) => this.events.push(event),
      now: () => this.time,
    });
    this.residency.onChange(() => {
      this.woken = true;
    });
  }

  #count(at: number, by: number): void {
    this.granted[at]! += by;
    for (const { digest } of WISHES[at]!) {
      this.references.set(digest, (this.references.get(digest) ?? 0) + by);
    }
  }

  acquire(at: number): void {
    const slots = this.residency.tryAcquire(WISHES[at]!);
    if (slots === undefined) {
      this.wanted.add(at);
      return;
    }
    this.wanted.delete(at);
    if (slots instanceof LoramuxError) return;
    const digests = WISHES[at]!.map(({ digest }) => digest);
    expect(slots.map((slot) => this.native.slots.get(slot))).toEqual(digests);
    this.#count(at, 1);
  }

  release(at: number): void {
    if (this.granted[at] === 0) return;
    this.#count(at, -1);
    this.residency.release(WISHES[at]!);
  }

  /** As the engine does when it is woken. */
  askAgain(): void {
    this.woken = false;
    for (const at of [...this.wanted]) this.acquire(at);
  }

  forget(at: number): void {
    this.wanted.delete(at);
    this.residency.forget(WISHES[at]!);
  }

  load(generation: AdapterGeneration): void {
    const entry = { digest: generation.digest, settled: false };
    this.loads.push(entry);
    this.residency
      .load(generation, 2 ** 30)
      .catch((error: unknown) => expect(error).toBeInstanceOf(LoramuxError))
      .finally(() => {
        entry.settled = true;
      });
  }

  finish(at: number, fails: boolean): void {
    const { pending } = this.native;
    if (pending.length === 0) return;
    const [load] = pending.splice(at % pending.length, 1);
    if (fails) load!.fail(new Error('no luck'));
    else load!.finish();
  }

  async run(each: Action): Promise<void> {
    const before = this.residency.adapters().filter(({ state }) => state === 'waiting');
    const eventsBefore = this.events.length;
    this.time += 4;
    if (each.kind === 'pin') {
      this.pins = each.list.map((at) => GENERATIONS[at]!);
      this.residency.setPins(this.pins);
    } else if (each.kind === 'finish') {
      this.finish(each.at, each.fails);
    } else if (each.kind === 'acquire') this.acquire(each.at);
    else if (each.kind === 'release') this.release(each.at);
    else if (each.kind === 'forget') this.forget(each.at);
    else {
      const generation = GENERATIONS[each.at]!;
      if (each.kind === 'prefetch') this.residency.prefetch(generation);
      else if (each.kind === 'load') this.load(generation);
      else if (each.kind === 'evict') this.residency.evict(generation);
      else if (each.kind === 'remove') this.images.drop(generation);
      else this.images.restore(generation);
    }
    await turn();
    while (this.woken) {
      this.askAgain();
      await turn();
    }
    this.check();
    this.checkOrder(before.map(({ digest }) => digest));
    this.checkFreed(eventsBefore);
  }

  /** Of those that waited, only the first ones may have begun. */
  checkOrder(waitedBefore: readonly string[]): void {
    const states = new Map(this.residency.adapters().map((each) => [each.digest, each.state]));
    const still = waitedBefore.map((digest) => states.get(digest) === 'waiting');
    const begun = waitedBefore.map((digest) =>
      ['loading', 'resident'].includes(states.get(digest)!),
    );
    const firstWaiting = still.indexOf(true);
    if (firstWaiting >= 0) expect(begun.indexOf(true, firstWaiting)).toBe(-1);
  }

  /** Nothing that is referenced was freed, and nothing pinned but by its removal. */
  checkFreed(eventsBefore: number): void {
    const { pinned } = choosePins(this.pins, { maxSlots: MAX_SLOTS, maxBytes: MAX_BYTES });
    for (const event of this.events.slice(eventsBefore)) {
      if (event.kind !== 'evicted' && event.kind !== 'retired') continue;
      expect(this.references.get(event.digest) ?? 0).toBe(0);
      if (event.kind === 'evicted') expect(pinned.has(event.digest)).toBe(false);
    }
  }

  check(): void {
    const stats = this.residency.stats();
    const adapters = this.residency.adapters();
    const withSlot = adapters.filter(({ slot }) => slot !== undefined);
    expect(new Set(withSlot.map(({ slot }) => slot)).size).toBe(withSlot.length);
    expect(withSlot.length).toBe(this.native.slots.size);
    expect(stats.residentBytes).toBe(withSlot.reduce((sum, { bytes }) => sum + bytes, 0));
    expect(stats.residentBytes).toBeLessThanOrEqual(MAX_BYTES);
    expect(stats.loading).toBe(this.native.pending.length);
    expect(stats.loading).toBeLessThanOrEqual(LOADS_AT_ONCE);
    for (const generation of GENERATIONS) {
      const { digest } = generation;
      const known = adapters.find((each) => each.digest === digest);
      expect(known?.references ?? 0).toBe(this.references.get(digest) ?? 0);
      if (known?.references) expect(known.state).toBe('resident');
      const view = this.residency.view(generation);
      expect(view.level === 'device').toBe(known?.state === 'resident');
      // A request for one waits only for what is on its way.
      const alone = WISHES.findIndex((one) => one.length === 1 && one[0] === generation);
      if (this.wanted.has(alone)) expect(known, digest).toBeDefined();
    }
    for (const { digest, settled } of this.loads) {
      const state = adapters.find((each) => each.digest === digest)?.state;
      if (!settled) expect(['waiting', 'loading']).toContain(state);
    }
    this.checkProgress();
  }

  /** While somebody waits, either a load runs, or what is in use leaves no room. */
  checkProgress(): void {
    const stats = this.residency.stats();
    if (stats.waiting === 0 || stats.loading === LOADS_AT_ONCE) return;
    const adapters = this.residency.adapters();
    const first = adapters.find(({ state }) => state === 'waiting')!;
    const kept = adapters.filter(
      ({ digest, state, references, pinned }) =>
        state === 'loading' ||
        (state === 'resident' && (references > 0 || pinned || this.mayKeep(digest, first.digest))),
    );
    const keptBytes = kept.reduce((sum, { bytes }) => sum + bytes, 0);
    const fits = kept.length < MAX_SLOTS && keptBytes + first.bytes <= MAX_BYTES;
    expect(fits, `${first.digest} waits although it fits`).toBe(false);
  }

  /**
   * Whether a request may keep an adapter from making way for the first that waits. One that asked
   * after a request for the first may not, unless all that it asked for is on its way.
   */
  mayKeep(digest: string, first: string): boolean {
    const asked = [...this.wanted].map((at) => WISHES[at]!.map((one) => one.digest));
    const turn = asked.findIndex((digests) => digests.includes(first));
    return asked.some((digests, at) => {
      if (!digests.includes(digest)) return false;
      const isOnItsWay = this.residency
        .adapters()
        .filter((each) => digests.includes(each.digest))
        .every(({ state }) => state !== 'waiting');
      return turn < 0 || at <= turn || isOnItsWay;
    });
  }

  /** Nobody new comes, and who is served leaves: then everybody is served, or told why not. */
  async drain(): Promise<void> {
    for (const at of WISHES.keys()) while (this.granted[at]! > 0) this.release(at);
    this.residency.setPins([]);
    for (let i = 0; i < 200 && this.wanted.size > 0; i++) {
      this.askAgain();
      for (const at of WISHES.keys()) this.release(at);
      this.finish(0, false);
      await turn();
    }
    expect([...this.wanted]).toEqual([]);
  }

  /** Everybody leaves: then nothing may be left. */
  async end(): Promise<void> {
    for (const at of WISHES.keys()) {
      while (this.granted[at]! > 0) this.release(at);
      this.forget(at);
    }
    this.residency.setPins([]);
    for (let i = 0; i < 100 && this.residency.stats().loading > 0; i++) {
      this.finish(0, i % 3 === 0);
      await turn();
      for (const at of WISHES.keys()) this.forget(at);
    }
    await this.residency.close();
    await turn();
    expect(this.loads.filter(({ settled }) => !settled)).toEqual([]);
    expect(this.images).toMatchObject({ numHolds: 0, numOpen: 0 });
    for (const generation of GENERATIONS) this.images.drop(generation);
    expect(this.native.slots.size).toBe(0);
    expect(this.residency.stats()).toMatchObject({ residentBytes: 0, resident: 0, waiting: 0 });
  }
}

describe('residency', () => {
  it('keeps its promises whatever happens in whatever order', async () => {
    await fc.assert(
      fc.asyncProperty(actionList, fc.boolean(), async (actions, drains) => {
        const world = new World();
        for (const each of actions) await world.run(each);
        if (drains) await world.drain();
        await world.end();
      }),
      { numRuns: Number(process.env.LORAMUX_FUZZ_RUNS ?? 60) },
    );
  });
});
