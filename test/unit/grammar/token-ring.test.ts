/** Tokens from one side to the other through shared memory, in order, however often it goes round. */
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { TokenRing } from '../../../src/grammar/token-ring.ts';

const CAPACITY = 8;

function sides() {
  const writer = TokenRing.forChoices(CAPACITY / 2);
  const reader = new TokenRing(writer.words);
  const taken: [number, number][] = [];
  const take = () => reader.takeAll(async (id, tokenId) => void taken.push([id, tokenId]));
  return { writer, reader, taken, take };
}

describe('a token ring', () => {
  it('gives what was published, once and in order', async () => {
    const { writer, taken, take } = sides();
    const put: [number, number][] = [];
    for (let i = 0; i < 100; i++) {
      for (let k = 0; k <= i % CAPACITY; k++) {
        const pair: [number, number] = [i - 50, i * k];
        put.push(pair);
        writer.put(...pair);
      }
      const before = taken.length;
      await take();
      expect(taken.length).toBe(before);
      expect(writer.publish()).toBe(true);
      expect(writer.publish()).toBe(false);
      await take();
      expect(taken).toEqual(put);
    }
  });

  it('goes on where the count begins anew', async () => {
    const { writer, taken, take } = sides();
    // Both sides as after 2^32 - 3 tokens.
    const words = Int32Array.from(writer.words);
    words[1] = -3;
    words[2] = -3;
    writer.words.set(words);
    const [late, reader] = [new TokenRing(writer.words), new TokenRing(writer.words)];
    for (let i = 0; i < CAPACITY; i++) late.put(i, i + 7);
    expect(() => late.put(9, 9)).toThrow(RangeError);
    late.publish();
    await reader.takeAll(async (id, tokenId) => void taken.push([id, tokenId]));
    expect(taken).toEqual(Array.from({ length: CAPACITY }, (_, i) => [i, i + 7]));
    await take();
  });

  it('refuses more than it holds, and takes more when the other side has taken some', async () => {
    const { writer, taken, take } = sides();
    for (let i = 0; i < CAPACITY; i++) writer.put(i, i);
    expect(() => writer.put(CAPACITY, 0)).toThrow(`More than ${CAPACITY} tokens are under way`);
    writer.publish();
    await take();
    writer.put(CAPACITY, 0);
    writer.publish();
    await take();
    expect(taken.map(([id]) => id)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  it('wakes a thread that waits, and one that is about to', async () => {
    const { writer } = sides();
    const bell = 0;
    const source = `
      const { parentPort, workerData } = require('node:worker_threads');
      for (let last = 0; last < 200; ) {
        parentPort.postMessage(last);
        Atomics.wait(workerData, ${bell}, last);
        last = Atomics.load(workerData, ${bell});
      }`;
    const worker = new Worker(source, { eval: true, workerData: writer.words });
    const rung = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    for (let i = 0; i < 200; i++) {
      writer.ring();
      if (i % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    await rung;
    expect(writer.bell).toBe(200);
  });
});
