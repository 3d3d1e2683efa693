import { describe, expect, it } from 'vitest';
import { EventQueue } from '../../../src/generation/event-queue.ts';

describe('EventQueue', () => {
  it('delivers the pushes of one turn as one batch, in order', async () => {
    const queue = new EventQueue<number>(100);
    const first = queue.next();
    queue.push(1, 1);
    queue.push(2, 1);
    expect(await first).toEqual([1, 2]);
    queue.push(3, 1);
    queue.end();
    expect(await queue.next()).toEqual([3]);
    expect(await queue.next()).toBeUndefined();
  });

  it('refuses what exceeds the byte limit while something waits', () => {
    const queue = new EventQueue<string>(10);
    expect(queue.push('large', 50)).toBe(true);
    expect(queue.push('next', 1)).toBe(false);
  });

  it('ends with one last event and drops the rest', async () => {
    const queue = new EventQueue<string>(10);
    queue.push('lost', 1);
    queue.endWith('error');
    queue.push('late', 1);
    expect(await queue.next()).toEqual(['error']);
    expect(await queue.next()).toBeUndefined();
  });

  it('answers a waiting reader when it is discarded', async () => {
    const queue = new EventQueue<string>(10);
    const waiting = queue.next();
    queue.discard();
    expect(await waiting).toBeUndefined();
  });

  it('answers an empty batch when nothing comes in time', async () => {
    const queue = new EventQueue<string>(10);
    expect(await queue.next(1)).toEqual([]);
    const second = queue.next(60_000);
    queue.push('a', 1);
    expect(await second).toEqual(['a']);
  });

  it('gives as many events as are wanted, and counts those that stay', async () => {
    const queue = new EventQueue<number>(10);
    for (const event of [1, 2, 3, 4, 5]) expect(queue.push(event, 2)).toBe(true);
    expect(await queue.next(undefined, 2)).toEqual([1, 2]);
    expect(queue.push(6, 4)).toBe(true);
    expect(queue.push(7, 1)).toBe(false);
    expect(await queue.next(undefined, 9)).toEqual([3, 4, 5, 6]);
    const next = queue.next(undefined, 1);
    queue.push(8, 1);
    queue.push(9, 1);
    queue.end();
    expect([await next, await queue.next(), await queue.next()]).toEqual([[8], [9], undefined]);
  });

  it('has one reader', () => {
    const queue = new EventQueue<string>(10);
    void queue.next();
    expect(() => queue.next()).toThrow(/reader/);
  });
});
