/** A name is replaced again and again under streams that use it: no stream notices. */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { Agent, request } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  answerOf,
  askBody,
  CONTENT_MODEL_DIR,
  type Contents,
  makeContents,
} from '../support/contents.ts';
import { type Json, startTestServer, type TestServer } from '../support/server.ts';
import { until } from '../support/until.ts';

const REPLACES = 200;
const STREAMS = 32;
const KEPT = 3;
/** Distinct contents; each comes back after this many replaces, long after it was retired. */
const CONTENTS = 40;

describe('replacing an adapter', () => {
  let server: TestServer;
  let contents: Contents;
  const agent = new Agent({ connections: STREAMS + 1 });
  beforeAll(async () => {
    contents = await makeContents(CONTENTS);
    server = await startTestServer([
      ...['--model', CONTENT_MODEL_DIR, '--max-loras', '8'],
      ...['--max-generations', String(KEPT)],
    ]);
    await server.upload('busy', contents.list[0]!.dir);
  });
  afterAll(async () => {
    await agent.close();
    await server?.end();
    await contents?.remove();
  });

  /** One streamed completion: its generation in every chunk, and its log-probabilities. */
  async function stream(): Promise<{ generation: string; answer: string }> {
    const response = await request(`${server.url}/v1/completions`, {
      method: 'POST',
      dispatcher: agent,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(askBody('busy', { stream: true })),
    });
    const text = await response.body.text();
    if (response.statusCode !== 200) throw new Error(`${response.statusCode}: ${text}`);
    const chunks: Json[] = text
      .split('\n\n')
      .filter((part) => part.startsWith('data: {'))
      .map((part) => JSON.parse(part.slice('data: '.length)));
    const generations = new Set(chunks.map((chunk) => chunk.adapter_generation as string));
    const logprobs: number[] = chunks.flatMap((chunk) => {
      if (chunk.error !== undefined) throw new Error(JSON.stringify(chunk.error));
      return chunk.choices.flatMap((c: Json) => c.logprobs?.token_logprobs ?? []);
    });
    expect(generations.size, text).toBe(1);
    return { generation: [...generations][0]!, answer: logprobs.join(' ') };
  }

  it(`${REPLACES} times under ${STREAMS} streams fails none and frees what it retires`, async () => {
    let replacing = true;
    const seen = new Set<string>();
    let answered = 0;
    const readers = Array.from({ length: STREAMS }, async () => {
      while (replacing) {
        const { generation, answer } = await stream();
        expect(answer, 'every token is of the generation it says').toBe(
          contents.byGeneration(generation).answer,
        );
        seen.add(generation);
        answered += 1;
      }
    });
    try {
      for (let i = 1; i <= REPLACES; i++) {
        const content = contents.list[i % CONTENTS]!;
        const { status, body } = await server.upload('busy', content.dir);
        expect([status, body.generation]).toEqual([200, content.generation]);
        // The next request after the answer gets the new content.
        const { body: next } = await server.call('POST', '/v1/completions', askBody('busy'));
        expect([next.adapter_generation, answerOf(next)]).toEqual([
          content.generation,
          content.answer,
        ]);
      }
    } finally {
      replacing = false;
    }
    await Promise.all(readers);
    console.log(`${answered} streams answered by ${seen.size} generations`);
    expect(answered).toBeGreaterThan(REPLACES);
    expect(seen.size).toBeGreaterThan(CONTENTS / 2);
    // Only the current generation may still be in memory; the history keeps its files.
    await until(
      'only the current one is in memory',
      () => server.metric('loramux_adapters_resident'),
      (resident) => resident === 1,
    );
    await until(
      'only the files of the history are left',
      () => readdir(path.join(server.dataDir, 'adapters', 'blobs')),
      (files) => files.length === KEPT,
    );
    const { body } = await server.call('GET', '/v1/adapters/busy/generations');
    expect(body.data).toHaveLength(KEPT);
  });
});
