import { describe, expect, it } from 'vitest';
import {
  HostMemory,
  type HostRegion,
  REGION_ALIGNMENT_BYTES as PAGE,
} from '../../../../src/adapters/residency/host-memory.ts';
import { fc } from '../../../support/properties.ts';

describe('host memory', () => {
  it('takes segments as they are needed, and uses gaps again', () => {
    const memory = new HostMemory({ maxBytes: 6 * PAGE, segmentBytes: 4 * PAGE });
    expect(memory.regionBytesMax).toBe(4 * PAGE);
    expect(memory.take(5 * PAGE)).toBeUndefined();
    const a = memory.take(3 * PAGE - 10)!;
    const b = memory.take(2 * PAGE)!;
    expect(a.buffer).not.toBe(b.buffer);
    expect(memory.usedBytes).toBe(5 * PAGE);
    expect(memory.take(2 * PAGE), 'only one page is left').toBeUndefined();
    memory.give(a);
    expect(memory.take(4 * PAGE)).toMatchObject({ buffer: a.buffer, offset: 0 });
  });

  it('prefers the smallest gap that is large enough', () => {
    const memory = new HostMemory({ maxBytes: 8 * PAGE });
    const regions = [2, 1, 1, 1, 3].map((pages) => memory.take(pages * PAGE)!);
    memory.give(regions[0]!);
    memory.give(regions[2]!);
    expect(memory.take(1)).toMatchObject({ offset: regions[2]!.offset });
  });

  it('goes on with what it has when the system refuses more', () => {
    const refusals: unknown[] = [];
    const memory = new HostMemory({
      maxBytes: 2 ** 52,
      segmentBytes: 2 ** 52,
      onRefused: (error) => refusals.push(error),
    });
    expect(memory.take(PAGE)).toBeUndefined();
    expect(memory.take(PAGE)).toBeUndefined();
    expect(refusals).toHaveLength(1);
    expect(memory.maxBytes).toBe(0);
  });

  it('never gives two regions the same bytes, and loses none', () => {
    const action = fc.oneof(
      fc.record({ take: fc.integer({ min: 1, max: 5 * PAGE }) }),
      fc.record({ give: fc.nat() }),
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 200, size: 'max' }), (actions) => {
        const memory = new HostMemory({ maxBytes: 20 * PAGE, segmentBytes: 8 * PAGE });
        const taken: HostRegion[] = [];
        for (const each of actions) {
          if ('take' in each) {
            const region = memory.take(each.take);
            if (region === undefined) continue;
            expect(region.bytes).toBeGreaterThanOrEqual(each.take);
            expect(region.offset + region.bytes).toBeLessThanOrEqual(region.buffer.byteLength);
            for (const other of taken) {
              const apart =
                other.buffer !== region.buffer ||
                other.offset + other.bytes <= region.offset ||
                region.offset + region.bytes <= other.offset;
              expect(apart).toBe(true);
            }
            taken.push(region);
          } else if (taken.length > 0) {
            memory.give(taken.splice(each.give % taken.length, 1)[0]!);
          }
          expect(memory.usedBytes).toBe(taken.reduce((sum, { bytes }) => sum + bytes, 0));
        }
        for (const region of taken) memory.give(region);
        // All gaps are whole again.
        expect([8, 8, 4].map((pages) => memory.take(pages * PAGE) !== undefined)).toEqual([
          true,
          true,
          true,
        ]);
      }),
      { numRuns: 200 },
    );
  });
});
