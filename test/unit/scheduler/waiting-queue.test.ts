import { describe, expect, it } from 'vitest';
import { MAX_IDLE_LANES } from '../../../src/scheduler/limits.ts';
import { SequenceGroup } from '../../../src/scheduler/sequence.ts';
import { WaitingQueue } from '../../../src/scheduler/waiting-queue.ts';
import { engineRequest, generation, weighted } from '../../support/engine-harness.ts';

function setUp() {
  const queue = new WaitingQueue(100);
  let order = 0;
  const add = (adapter?: string) => {
    const lane = queue.laneFor(adapter === undefined ? [] : weighted(generation(adapter)));
    const group = new SequenceGroup(engineRequest({ prompt: [1] }, 'r'), order++, lane, 'root');
    queue.addGroup(group);
    queue.push(group.carrier!);
    return group;
  };
  return { queue, add };
}

describe('WaitingQueue', () => {
  it('keeps order of arrival within an adapter, also for who comes back', () => {
    const { queue, add } = setUp();
    const [first, second] = [add('a'), add('a')];
    queue.remove(first.carrier!);
    first.carrier!.status = 'preempted';
    queue.push(first.carrier!);
    expect(first.lane.head).toBe(first.carrier);
    expect(first.lane.queue).toEqual([first.carrier, second.carrier]);
    expect([queue.length, queue.numNew]).toEqual([2, 1]);
  });

  it('gives the least served adapter first and keeps candidates sorted when one is charged', () => {
    const { queue, add } = setUp();
    const [a, b, base] = [add('a').lane, add('b').lane, add().lane];
    a.served = 5;
    b.served = 2;
    base.served = 9;
    const candidates = queue.candidates();
    expect(candidates.pop()).toBe(b);
    b.served = 7;
    queue.reinsert(candidates, b);
    expect([candidates.pop(), candidates.pop(), candidates.pop()]).toEqual([a, b, base]);
  });

  it('does not look at parked lanes until something changes', () => {
    const { queue, add } = setUp();
    const a = add('a').lane;
    queue.park(a, 0);
    expect(queue.candidates()).toEqual([]);
    add('a');
    expect(queue.candidates()).toEqual([]);
    queue.unparkAll();
    expect(queue.candidates()).toEqual([a]);
  });

  it('raises a barrier for who was passed over longest, from the first time on', () => {
    const { queue, add } = setUp();
    const [a, b] = [add('a'), add('b')];
    const always = () => true;
    queue.park(b.lane, 10);
    queue.park(a.lane, 20);
    queue.unparkAll();
    queue.park(b.lane, 90);
    expect(queue.barrier(110, always)).toBe(Number.POSITIVE_INFINITY);
    expect(queue.barrier(111, always)).toBe(b.order);
    // A load under way is not helped by holding others back.
    expect(queue.barrier(121, (lane) => lane !== b.lane)).toBe(a.order);
    expect(queue.barrier(121, () => false)).toBe(Number.POSITIVE_INFINITY);
    queue.remove(b.carrier!);
    expect(queue.barrier(111, always)).toBe(Number.POSITIVE_INFINITY);
    expect(queue.barrier(121, always)).toBe(a.order);
  });

  it('remembers the counters of a bounded number of idle adapters', () => {
    const { queue, add } = setUp();
    for (let i = 0; i <= MAX_IDLE_LANES; i++) {
      const group = add(`a${i}`);
      group.lane.served = 1000;
      queue.remove(group.carrier!);
      queue.removeGroup(group);
    }
    expect(queue.laneFor(weighted(generation('a0'))).served).toBe(0);
    expect(queue.laneFor(weighted(generation('a1'))).served).toBe(1000);
  });
});
