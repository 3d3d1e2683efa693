/** 64 streams at once over 16 adapters and the base, a third cut off midway, round after round. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Agent, request } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { synthesizeAdapters } from '../../src/importer/index.ts';
import { Random } from '../support/random.ts';
import { startTestServer, type TestServer } from '../support/server.ts';
import { FIXTURES } from '../support/stack.ts';

const MODEL = 'llama3';
const STREAMS = 64;
const ADAPTERS = 16;
const ROUNDS = 20;
const TOKENS = 40;
/** Of a stream that is cut: more than are generated before a slow client comes to cut it. */
const TOKENS_OF_CUT = 300;
/** Rounds before the first memory reading that counts: arenas grow to their working size. */
const WARM_ROUNDS = 8;
/** A small heap: garbage is collected every few rounds, so that growth is what was not released. */
const NODE_OPTIONS = '--max-old-space-size=72';
const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 64);

interface StreamResult {
  cut: boolean;
  tokens: number;
  finished: boolean;
}

describe(`many streams (seed ${SEED})`, () => {
  let server: TestServer;
  let folder: string;
  let models: string[];
  const agent = new Agent({ connections: STREAMS });
  const random = new Random(SEED);

  beforeAll(async () => {
    const modelDir = path.join(FIXTURES, 'models', MODEL);
    folder = await mkdtemp(path.join(tmpdir(), 'loramux-streams-'));
    const adapters = await synthesizeAdapters(modelDir, folder, {
      count: ADAPTERS,
      ranks: [2, 4, 8, 16],
    });
    server = await startTestServer(['--model', modelDir, '--max-loras', '16'], {
      env: { NODE_OPTIONS },
    });
    models = [MODEL, ...adapters.map(({ name }) => name)];
    for (const { name, dir } of adapters) {
      expect((await server.upload(name, dir)).status).toBe(201);
    }
  });
  afterAll(async () => {
    await agent.close();
    expect(await server?.end()).toBe(0);
    await rm(folder, { recursive: true, force: true });
  });

  async function stream(i: number, cut: boolean): Promise<StreamResult> {
    const abort = new AbortController();
    const tokens = cut ? TOKENS_OF_CUT : TOKENS;
    const response = await request(`${server.url}/v1/completions`, {
      dispatcher: agent,
      method: 'POST',
      signal: abort.signal,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        model: models[i % models.length],
        prompt: Array.from({ length: random.int(1, 60) }, () => random.int(4, 250)),
        max_tokens: tokens,
        ignore_eos: true,
        stream: true,
        stream_options: { include_usage: true },
        seed: i,
      }),
    });
    expect(response.statusCode).toBe(200);
    const result: StreamResult = { cut, tokens: 0, finished: false };
    const cutAfter = random.int(1, 20);
    let pending = '';
    let events = 0;
    try {
      for await (const chunk of response.body) {
        pending += String(chunk);
        const parts = pending.split('\n\n');
        pending = parts.pop()!;
        for (const part of parts) {
          if (!part.startsWith('data: ')) continue;
          if (part === 'data: [DONE]') {
            result.finished = true;
            continue;
          }
          const event = JSON.parse(part.slice(6));
          expect(event.error).toBeUndefined();
          if (event.usage?.completion_tokens) result.tokens = event.usage.completion_tokens;
          events += 1;
          if (cut && events >= cutAfter) abort.abort();
        }
        if (abort.signal.aborted) break;
      }
    } catch (error) {
      if (!cut || !abort.signal.aborted) throw error;
    }
    if (!cut) expect(result).toEqual({ cut, tokens, finished: true });
    return result;
  }

  /** Resolves when the server has seen every cut connection. */
  async function settled(): Promise<void> {
    for (;;) {
      const { engine } = (await server.call('GET', '/health')).body;
      if (engine.running + engine.waiting === 0) {
        expect(engine.kv_blocks_used).toBe(0);
        return;
      }
    }
  }

  it(`answers or cancels all of them for ${ROUNDS} rounds, without growth`, async () => {
    const memory: number[] = [];
    let cuts = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const results = await Promise.all(
        Array.from({ length: STREAMS }, (_, i) => stream(i, i % 3 === 2)),
      );
      cuts += results.filter(({ cut, finished }) => cut && !finished).length;
      await settled();
      memory.push(await server.metric('loramux_process_resident_memory_bytes'));
    }
    expect(cuts).toBeGreaterThan((ROUNDS * STREAMS) / 6);
    // How many meet in one step depends on how fast the clients are served their turns.
    expect(await server.metric('loramux_engine_step_adapters_max')).toBeGreaterThan(ADAPTERS / 2);
    expect(await server.metric('loramux_engine_step_sequences_max')).toBeGreaterThan(STREAMS / 2);
    // The heap breathes with collections, so the least of the last rounds counts, against the most
    // of those before.
    const early = Math.max(...memory.slice(WARM_ROUNDS, -5));
    const late = Math.min(...memory.slice(-5));
    const report = memory.map((bytes) => Math.round(bytes / 2 ** 20)).join(' ');
    expect(late, `MiB after each round: ${report}`).toBeLessThanOrEqual(early * 1.02);
  });
});
