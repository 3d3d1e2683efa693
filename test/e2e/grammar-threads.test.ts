/**
 * A thread that writes token masks crashes under a real server: its choices are told to retry, nobody
 * else notices, and another thread takes its place.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readMetric } from '../../scripts/metrics.ts';
import { loadConfig } from '../../src/config/load.ts';
import { THREAD_HEAP_MB_MAX } from '../../src/grammar/limits.ts';
import type { ToThread } from '../../src/grammar/messages.ts';
import { createServer, type LoramuxServer } from '../../src/server.ts';
import type { Json } from '../support/server.ts';
import { makeSmallBase } from '../support/small-base.ts';
import { until } from '../support/until.ts';

const MAX_TOKENS = 1000;
/** Longer than any answer. */
const ENDLESS = { guided_regex: `[ab]{${2 * MAX_TOKENS}}`, temperature: 1, seed: 3 };
const FREE = { ignore_eos: true, temperature: 1, seed: 5 };

let server: LoramuxServer;
const closers: (() => Promise<unknown>)[] = [];
const threads: Worker[] = [];

const onWorker = (worker: Worker) => {
  // The names of threads are not told; their limits are.
  if (worker.resourceLimits?.maxOldGenerationSizeMb !== THREAD_HEAP_MB_MAX) return;
  threads.push(worker);
  worker.on('exit', () => threads.splice(threads.indexOf(worker), 1));
};

beforeAll(async () => {
  const base = await makeSmallBase();
  closers.push(base.end);
  const dataDir = await mkdtemp(path.join(tmpdir(), 'loramux-threads-'));
  closers.push(() => rm(dataDir, { recursive: true, force: true }));
  const flags = { model: base.dir, dataDir, port: '0', logLevel: 'silent', threads: '2' };
  server = await createServer(loadConfig({ flags, env: {} }));
  closers.push(() => server.close());
  process.on('worker', onWorker);
});
afterAll(async () => {
  process.off('worker', onWorker);
  for (const close of closers.reverse()) await close();
});

const post = (fields: object) =>
  fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'small', prompt: '1 + 2 = ', max_tokens: MAX_TOKENS, ...fields }),
  });
const complete = async (fields: object): Promise<Json> => (await post(fields)).json();
const metric = async (name: string) =>
  readMetric(await (await fetch(`${server.url}/metrics`)).text(), name);

/** A stream that has begun; the events it has until its end. */
async function begin(fields: object): Promise<{ rest: Promise<Json[]> }> {
  const reader = (await post({ ...fields, stream: true })).body!.getReader();
  const decoder = new TextDecoder();
  const first = await reader.read();
  const rest = async () => {
    let text = decoder.decode(first.value, { stream: true });
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      text += decoder.decode(part.value, { stream: true });
    }
    const events = text.split('\n\n').filter((event) => event.startsWith('data: {'));
    return events.map((event) => JSON.parse(event.slice('data: '.length)));
  };
  return { rest: rest() };
}

const textOf = (events: Json[]) => events.map(({ choices }) => choices?.[0]?.text ?? '').join('');

/** What the thread throws at: a choice that follows nothing. */
function crash(thread: Worker): void {
  const message: ToThread = {
    kind: 'open',
    id: -1,
    key: 'no such grammar',
    slot: 1,
    tokens: new Int32Array(0),
  };
  thread.postMessage(message);
}

it('ends its choices with grammar_failed, and nothing else', async () => {
  const alone = (await complete(FREE)).choices[0].text;
  for (let round = 1; round <= 2; round++) {
    const constrained = [await begin(ENDLESS), await begin({ ...ENDLESS, seed: 4 })];
    const whole = post({ ...ENDLESS, n: 2 });
    const allowed = await begin({ ...FREE, allowed_token_ids: [70, 71, 72] });
    const free = await begin(FREE);
    await until(
      'all of them run',
      () => metric('loramux_num_requests_running'),
      (running) => running >= constrained.length + 2,
    );
    // The last one that was started has the place of the one that writes masks.
    crash(threads.at(-1)!);
    for (const { rest } of constrained) {
      const events = await rest;
      expect(events.at(-1)!.error).toMatchObject({ code: 'grammar_failed', type: 'server_error' });
      expect(textOf(events)).toMatch(/^[ab]+$/);
    }
    const answer = await whole;
    expect(answer.status).toBe(503);
    expect(answer.headers.get('retry-after')).toBe('1');
    expect(((await answer.json()) as Json).error.code).toBe('grammar_failed');
    expect(textOf(await free.rest)).toBe(alone);
    expect((await allowed.rest).at(-1)!.choices[0].finish_reason).toBe('length');

    // The same grammar, and another one, on a new thread.
    const again = await complete({ ...ENDLESS, max_tokens: 9 });
    expect(again.choices[0].text).toMatch(/^[ab]{9}$/);
    const other = await complete({ guided_choice: ['yes', 'no'] });
    expect(['yes', 'no']).toContain(other.choices[0].text);
    await until(
      'nothing runs',
      () => metric('loramux_num_requests_running'),
      (running) => running === 0,
    );
    // The spare one, whose end harms nobody. It sleeps, so a message alone would not be heard.
    for (const thread of threads.slice(0, -1)) await thread.terminate();
    await until(
      'it is gone',
      () => threads.length,
      (length) => length === 1,
    );
  }
});
