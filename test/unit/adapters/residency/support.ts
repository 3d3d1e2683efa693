/** Residency over doubles, with a clock that the test moves. */
import { SlotResidency } from '../../../../src/adapters/residency/slot-residency.ts';
import type { ResidencyEvent, ResidencyOptions } from '../../../../src/adapters/residency/types.ts';
import type { AdapterGeneration } from '../../../../src/adapters/types.ts';
import { LoramuxError } from '../../../../src/errors.ts';
import { FakeAdapterNative } from '../../../support/fake-adapter-native.ts';
import { FakeImages } from '../../../support/fake-images.ts';

export const generation = (digest: string, residentBytes = 10): AdapterGeneration => ({
  digest,
  rank: 4,
  residentBytes,
});
export const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((digest) => generation(digest)) as [
  AdapterGeneration,
  AdapterGeneration,
  AdapterGeneration,
  AdapterGeneration,
];

export function build(options: Partial<ResidencyOptions> = {}) {
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

export const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
export const code = (value: unknown) => (value instanceof LoramuxError ? value.code : value);
