import { afterEach, describe, expect, it } from 'vitest';
import { sha256 } from '../../support/fake-adapters.ts';
import type { Script } from '../../support/fake-engine.ts';
import { codes, EOS } from '../generation/support.ts';
import { parseSse, type TestServer, type TestServerOptions, testServer } from './support.ts';

let server: TestServer;
afterEach(() => server.close());

const start = async (options?: TestServerOptions) => {
  server = await testServer(options);
};

const post = (body: unknown) =>
  server.app.inject({ method: 'POST', url: '/v1/completions', payload: body as object });

describe('POST /v1/completions', () => {
  it('answers in the shape of OpenAI', async () => {
    await start();
    const response = await post({ model: 'base', prompt: 'Q' });
    expect(response.statusCode).toBe(200);
    expect(response.json()).toMatchObject({
      id: expect.stringMatching(/^cmpl-[0-9a-f]{32}$/),
      object: 'text_completion',
      created: expect.any(Number),
      model: 'base',
      choices: [
        { index: 0, text: 'hello', logprobs: null, finish_reason: 'stop', stop_reason: EOS },
      ],
      usage: {
        prompt_tokens: 1,
        completion_tokens: 6,
        total_tokens: 7,
        prompt_tokens_details: { cached_tokens: 0 },
      },
    });
    expect(response.json()).not.toHaveProperty('adapter_generation');
  });

  it.each([
    [{ model: 'sub' }],
    [{ model: 'base', adapter: 'sub' }],
    [{ model: 'sub', adapter: 'sub' }],
  ])('serves an adapter for %j and names its generation', async (names) => {
    await start();
    const response = await post({ ...names, prompt: 'Q', adapter_scale: 0.5 });
    const { digest } = server.adapters.resolve('sub').generation;
    expect(response.json()).toMatchObject({ adapter_generation: digest });
    expect(server.engine.submitted[0]).toMatchObject({
      adapters: [{ generation: { digest }, weight: 0.5 }],
    });
    expect(server.adapters.holds).toBe(0);
  });

  it('gives equal keys the same side of a split, by its weight', async () => {
    await start();
    const [canary, current] = [sha256('canary'), sha256('current')];
    server.adapters.seed('split', [canary, current]);
    await server.adapters.setSplit('split', { digest: canary, weight: 0.5 });
    const sideOf = async (fields: object) =>
      (await post({ model: 'split', prompt: 'Q', ...fields })).json().adapter_generation;
    const sides = new Map<string, string>();
    for (let i = 0; i < 32; i++) sides.set(`key ${i}`, await sideOf({ split_key: `key ${i}` }));
    expect(new Set(sides.values())).toEqual(new Set([canary, current]));
    for (const [key, side] of sides) {
      expect(await sideOf({ split_key: key })).toBe(side);
      // A user is a key when there is none; one that is empty is not.
      expect(await sideOf({ user: key, split_key: '' })).toBe(side);
      expect(await sideOf({ user: 'someone else', split_key: key })).toBe(side);
    }
    const drawn = new Set<string>();
    for (let i = 0; i < 64; i++) drawn.add(await sideOf({ user: '', split_key: null }));
    expect(drawn.size).toBe(2);
    // What was answered is what ran.
    const last = server.engine.submitted.at(-1)!.adapters[0]!.generation.digest;
    expect([canary, current]).toContain(last);
  });

  it('resolves a request with one key from beginning to end', async () => {
    await start();
    const keys: (string | undefined)[] = [];
    const { resolve } = server.adapters;
    server.adapters.resolve = (name, key) => {
      keys.push(key);
      return resolve.call(server.adapters, name, key);
    };
    await post({ model: 'sub', prompt: 'Q', split_key: 'k' });
    await post({ model: 'sub', prompt: 'Q' });
    expect(keys.slice(0, 2)).toEqual(['k', 'k']);
    expect(keys[2]).toMatch(/^[0-9a-f]{32}$/);
    expect(keys[3]).toBe(keys[2]);
  });

  it('takes token ids and lists of prompts', async () => {
    const script: Script = (r, _index, position) => (position === 0 ? r.promptTokenIds[0]! : EOS);
    await start({ engine: { script } });
    const texts = async (prompt: unknown) =>
      (await post({ model: 'base', prompt })).json().choices.map((c: { text: string }) => c.text);
    expect(await texts([65, 66])).toEqual(['A']);
    expect(await texts([[65], [66]])).toEqual(['A', 'B']);
    expect(await texts(['x', 'y'])).toEqual(['x', 'y']);
  });

  it('passes every sampling field on', async () => {
    await start();
    await post({
      model: 'base',
      prompt: 'Q',
      max_tokens: 7,
      min_tokens: 2,
      temperature: 0.5,
      top_p: 0.9,
      top_k: 5,
      min_p: 0.1,
      n: 2,
      best_of: 2,
      presence_penalty: 1,
      frequency_penalty: -1,
      repetition_penalty: 1.1,
      logit_bias: { '65': -100 },
      seed: -1,
      stop_token_ids: [66],
      cache_salt: 'tenant',
      user: 'someone',
      logprobs: 3,
    });
    expect(server.engine.submitted[0]).toMatchObject({
      n: 2,
      cacheSalt: 'tenant',
      sampling: {
        maxTokens: 7,
        minTokens: 2,
        temperature: 0.5,
        topP: 0.9,
        topK: 5,
        minP: 0.1,
        presencePenalty: 1,
        frequencyPenalty: -1,
        repetitionPenalty: 1.1,
        logitBias: new Map([[65, -100]]),
        seed: 2n ** 64n - 1n,
        stopTokenIds: new Set([EOS, 66]),
        logprobs: 3,
      },
    });
  });

  it('has the defaults of OpenAI and takes null for them', async () => {
    await start();
    await post({ model: 'base', prompt: 'Q' });
    await post({ model: 'base', prompt: 'Q', max_tokens: null, temperature: null, stop: null });
    for (const { sampling, n } of server.engine.submitted) {
      expect(n).toBe(1);
      expect(sampling).toMatchObject({ maxTokens: 16, temperature: 1, topK: 0, topP: 1 });
    }
  });

  it('returns log-probabilities in columns', async () => {
    await start();
    const response = await post({ model: 'base', prompt: 'ab', logprobs: 1, echo: true });
    const [choice] = response.json().choices;
    expect(choice.text).toBe('abhello');
    expect(choice.logprobs.tokens).toEqual([...'abhello', '<eos>']);
    expect(choice.logprobs.token_logprobs.slice(0, 3)).toEqual([null, -0.5, -0.5]);
    expect(choice.logprobs.top_logprobs[0]).toBeNull();
    expect(choice.logprobs.top_logprobs[1]).toEqual({ b: -0.5 });
    expect(choice.logprobs.text_offset).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  it('stops at a stop text', async () => {
    await start();
    const response = await post({ model: 'base', prompt: 'Q', stop: ['ll', 'zz'] });
    const choice = { text: 'he', finish_reason: 'stop', stop_reason: 'll' };
    expect(response.json().choices[0]).toMatchObject(choice);
  });
});

describe('POST /v1/completions, stream', () => {
  it('sends chunks and [DONE]', async () => {
    await start();
    const response = await post({ model: 'sub', prompt: 'Q', stream: true });
    expect(response.headers['content-type']).toMatch('text/event-stream');
    const events = parseSse(response.body);
    expect(events.at(-1)).toBe('[DONE]');
    const chunks = events.slice(0, -1) as { choices: { text: string; finish_reason: string }[] }[];
    expect(chunks.map((chunk) => chunk.choices[0]?.text).join('')).toBe('hello');
    expect(chunks.at(-1)).toMatchObject({ choices: [{ finish_reason: 'stop' }] });
    const { digest } = server.adapters.resolve('sub').generation;
    expect(chunks[0]).toMatchObject({ object: 'text_completion' });
    for (const chunk of chunks) expect(chunk).toMatchObject({ adapter_generation: digest });
    expect(chunks[0]).not.toHaveProperty('usage');
    expect(new Set(chunks.map((chunk) => (chunk as unknown as { id: string }).id)).size).toBe(1);
  });

  it('adds the usage when asked', async () => {
    await start();
    const response = await post({
      model: 'base',
      prompt: 'Q',
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = parseSse(response.body).slice(0, -1) as Record<string, unknown>[];
    expect(chunks[0]).toMatchObject({ usage: null });
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 6 } });
  });

  it('answers an error before the first token with its status', async () => {
    await start({ engine: { maxModelLen: 10 } });
    const response = await post({ model: 'base', prompt: 'Q', max_tokens: 10, stream: true });
    expect(response.statusCode).toBe(400);
    expect(response.json().error.code).toBe('context_length_exceeded');
  });
});

describe('POST /v1/completions, refusals', () => {
  it.each([
    [{ prompt: 'Q' }, 400, 'invalid_request', 'model'],
    [{ model: 'base' }, 400, 'invalid_request', 'prompt'],
    [{ model: 'nobody', prompt: 'Q' }, 404, 'model_not_found', 'model'],
    [{ model: 'base', adapter: 'nobody', prompt: 'Q' }, 404, 'adapter_not_found', 'adapter'],
    [{ model: 'base', prompt: 'Q', adapter_scale: 2 }, 400, 'invalid_request', 'adapter_scale'],
    [{ model: 'base', prompt: 'Q', tempreature: 1 }, 400, 'unknown_field', 'tempreature'],
    [
      { model: 'base', prompt: 'Q', stream: true, stream_options: { usage: true } },
      400,
      'unknown_field',
      'stream_options.usage',
    ],
    [{ model: 'base', prompt: 'Q', suffix: 'x' }, 400, 'unsupported_field', 'suffix'],
    [{ model: 'base', prompt: 'Q', best_of: 3, stream: true }, 400, 'unsupported_field', 'best_of'],
    [{ model: 'base', prompt: 'Q', best_of: 1, n: 2 }, 400, 'invalid_request', 'best_of'],
    [{ model: 'base', prompt: 'Q', temperature: '1' }, 400, 'invalid_request', 'temperature'],
    [{ model: 'base', prompt: 'Q', temperature: 2.5 }, 400, 'invalid_request', 'temperature'],
    [{ model: 'base', prompt: 'Q', top_p: 0 }, 400, 'invalid_request', 'top_p'],
    [
      { model: 'base', prompt: 'Q', repetition_penalty: Number.MIN_VALUE },
      ...([400, 'invalid_request', 'repetition_penalty'] as const),
    ],
    [{ model: 'base', prompt: 'Q', max_tokens: 1.5 }, 400, 'invalid_request', 'max_tokens'],
    [{ model: 'base', prompt: 'Q', logprobs: 21 }, 400, 'invalid_request', 'logprobs'],
    [{ model: 'base', prompt: 'Q', logit_bias: { a: 1 } }, 400, 'invalid_request', 'logit_bias'],
    [{ model: 'base', prompt: 'Q', seed: 1e300 }, 400, 'invalid_request', 'seed'],
    [{ model: 'base', prompt: 'Q', stop: [''] }, 400, 'invalid_request', 'stop'],
    [{ model: 'base', prompt: 'Q', min_tokens: 99 }, 400, 'invalid_request', 'min_tokens'],
    [{ model: 'base', prompt: 'Q', stream_options: {} }, 400, 'invalid_request', 'stream_options'],
    [{ model: 'base', prompt: { a: 1 } }, 400, 'invalid_request', 'prompt'],
    [{ model: 'base', prompt: [] }, 400, 'invalid_request', 'prompt'],
    [{ model: 'base', prompt: [[]] }, 400, 'invalid_request', 'prompt'],
    [{ model: 'base', prompt: ['a', 5] }, 400, 'invalid_request', 'prompt'],
    [{ model: 'base', prompt: [-5] }, 400, 'invalid_request', 'prompt'],
    [{ model: 'base', prompt: [999] }, 400, 'token_out_of_range', 'prompt'],
    [{ model: 'base', prompt: '' }, 400, 'prompt_empty', 'prompt'],
    [{ model: 'base', prompt: 'Q', split_key: 7 }, 400, 'invalid_request', 'split_key'],
    [
      { model: 'base', prompt: 'Q', split_key: 'x'.repeat(513) },
      400,
      'invalid_request',
      'split_key',
    ],
    [[], 400, 'invalid_request', null],
  ])('%j', async (body, status, code, param) => {
    await start();
    const response = await post(body);
    expect(response.json()).toEqual({
      error: { message: expect.any(String), type: expect.any(String), param, code },
    });
    expect(response.statusCode).toBe(status);
    expect(server.engine.submitted).toHaveLength(0);
  });

  it('accepts the neutral defaults that client libraries send', async () => {
    await start();
    const neutral = { suffix: null, use_beam_search: false, length_penalty: 1, guided_json: null };
    expect((await post({ model: 'base', prompt: 'Q', ...neutral })).statusCode).toBe(200);
  });

  it('says retry when the queue is full', async () => {
    await start({ engine: { maxQueuedRequests: 0 } });
    const response = await post({ model: 'base', prompt: 'Q' });
    expect(response.statusCode).toBe(429);
    expect(response.headers['retry-after']).toBe('1');
    expect(response.json().error).toMatchObject({ code: 'queue_full', type: 'overloaded_error' });
  });

  it('hides the cause of a defect', async () => {
    await start();
    server.engine.submit = () => {
      throw new TypeError('secret detail');
    };
    const response = await post({ model: 'base', prompt: 'Q' });
    expect(response.statusCode).toBe(500);
    expect(response.json().error.code).toBe('internal_error');
    expect(response.body).not.toContain('secret');
  });

  it('takes the longest stop list and refuses one more', async () => {
    await start();
    const stop = Array.from({ length: 17 }, (_, i) => `stop${i}`);
    const body = { model: 'base', prompt: codes('Q') };
    expect((await post({ ...body, stop: stop.slice(1) })).statusCode).toBe(200);
    expect((await post({ ...body, stop })).statusCode).toBe(400);
  });
});
