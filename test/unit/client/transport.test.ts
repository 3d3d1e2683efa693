/** Requests, errors, retries and streams over a fetch that answers from a list. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { LoramuxClient, type LoramuxClientOptions } from '../../../src/client/index.ts';
import { ROUTES } from '../../../src/client/openapi.ts';
import { backOffMs } from '../../../src/client/retry.ts';
import { type Answer, events, fakeFetch, json, refusal } from '../../support/fake-fetch.ts';

function clientOf(answers: Answer[], more: Partial<LoramuxClientOptions> = {}) {
  const { fetch, asked } = fakeFetch(answers);
  return { client: new LoramuxClient({ baseUrl: 'http://server:1', fetch, ...more }), asked };
}

const body = { model: 'm', prompt: 'p' };
const chat = { model: 'm', messages: [{ role: 'user' as const, content: 'p' }] };
const chunk = (text: string) => `data: {"choices":[{"text":"${text}"}]}\n\n`;

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

/** What a promise does while all of its timers run out. */
async function settled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  await vi.runAllTimersAsync();
  return promise;
}

describe('routes', () => {
  const blob = new Blob(['x']);
  type Call = [keyof typeof ROUTES, (client: LoramuxClient) => Promise<unknown>];
  const calls: Call[] = [
    ['createCompletion', (c) => c.completions.create(body)],
    ['createChatCompletion', (c) => c.chat.completions.create(chat)],
    ['createResponse', (c) => c.responses.create({ model: 'm', input: 'Q' })],
    ['tokenize', (c) => c.tokenize({ prompt: 'p' })],
    ['detokenize', (c) => c.detokenize({ tokens: [1] })],
    ['listModels', (c) => c.models.list()],
    ['showModel', (c) => c.models.retrieve('a/b c')],
    ['listAdapters', (c) => c.adapters.list()],
    ['showAdapter', (c) => c.adapters.get('a/b c')],
    ['putAdapter', (c) => c.adapters.put('a/b c', { path: 'p' })],
    ['putAdapter', (c) => c.adapters.upload('a/b c', { config: blob, model: blob })],
    ['deleteAdapter', (c) => c.adapters.remove('a/b c')],
    ['listGenerations', (c) => c.adapters.generations('a/b c')],
    ['rollbackAdapter', (c) => c.adapters.rollback('a/b c')],
    ['splitAdapter', (c) => c.adapters.split('a/b c', 'f', 0.5)],
    ['endSplit', (c) => c.adapters.endSplit('a/b c')],
    ['loadAdapter', (c) => c.adapters.load('a/b c')],
    ['evictAdapter', (c) => c.adapters.evict('a/b c')],
    ['pinAdapter', (c) => c.adapters.pin('a/b c')],
    ['unpinAdapter', (c) => c.adapters.unpin('a/b c')],
    ['listReplicas', (c) => c.replicas()],
    ['health', (c) => c.health()],
    ['metrics', (c) => c.metrics()],
  ];

  it.each(calls)('%s', async (id, call) => {
    const text = new Response('ok', { headers: { 'content-type': 'text/plain; version=0.0.4' } });
    const answer = id === 'metrics' ? text : json('ok');
    const { client, asked } = clientOf([answer], { baseUrl: 'http://server:1/below/' });
    expect(await call(client)).toBe('ok');
    const [method, route] = ROUTES[id];
    const path = route.replaceAll(/\{\w+\}/g, 'a%2Fb%20c');
    expect(asked[0]).toMatchObject({ method, url: `http://server:1/below${path}` });
  });

  it('are all there but for the WebSocket and what stands in for other servers', () => {
    const called = new Set<string>(calls.map(([id]) => id));
    expect(Object.keys(ROUTES).filter((id) => !called.has(id))).toEqual([
      'stream',
      'loadLoraAdapter',
      'unloadLoraAdapter',
      'sglangLoadLoraAdapter',
      'sglangUnloadLoraAdapter',
    ]);
  });
});

describe('requests', () => {
  it('send headers, conditions and queries', async () => {
    const { client, asked } = clientOf([json({}), json({}), json({})], { headers: { 'x-a': 'b' } });
    await client.adapters.put('n', { path: 'p' }, { ifNoneMatch: '*', canaryWeight: 0.25 });
    await client.adapters.remove('n', { ifMatch: 'abc' });
    await client.adapters.remove('n', { ifMatch: '*' });
    expect(asked[0]!.url).toBe('http://server:1/v1/adapters/n?canary_weight=0.25');
    expect(Object.fromEntries(asked[0]!.headers)).toMatchObject({
      'x-a': 'b',
      'if-none-match': '*',
      'content-type': 'application/json',
    });
    expect(asked[1]!.headers.get('if-match')).toBe('"abc"');
    expect(asked[2]!.headers.get('if-match')).toBe('*');
    expect(asked[1]!.body).toBe(null);
  });

  it('send the files of an adapter, or an archive, as a form', async () => {
    const { client, asked } = clientOf([json({}), json({}), json({})]);
    const [config, model] = [new Blob(['{}']), new Blob(['xyz'])];
    await client.adapters.upload('n', { config, model });
    const [chatTemplate, tokenizerConfig] = [new Blob(['{{ 1 }}']), new Blob(['{}'])];
    await client.adapters.upload('n', { config, model, chatTemplate, tokenizerConfig });
    await client.adapters.upload('n', { archive: model, fileName: 'a.tar.gz' });
    const names = asked.map(({ body: form }) =>
      [...(form as FormData)].map(([field, file]) => [field, (file as File).name]),
    );
    expect(names).toEqual([
      [
        ['files', 'adapter_config.json'],
        ['files', 'adapter_model.safetensors'],
      ],
      [
        ['files', 'adapter_config.json'],
        ['files', 'chat_template.jinja'],
        ['files', 'tokenizer_config.json'],
        ['files', 'adapter_model.safetensors'],
      ],
      [['file', 'a.tar.gz']],
    ]);
    expect(() => client.adapters.upload('n', { archive: model, fileName: 'a.rar' })).toThrow(
      'fileName must end with',
    );
  });

  it.each(['', '.', '..'])('never leave the route for the name %j', async (name) => {
    const { client, asked } = clientOf([]);
    await expect(client.adapters.get(name)).rejects.toMatchObject({ code: 'invalid_option' });
    expect(asked).toEqual([]);
  });

  it.each([
    [{ baseUrl: 'server:8000' }],
    [{ baseUrl: 'ftp://server' }],
    [{ baseUrl: 'http://server/?a' }],
    [{ baseUrl: 'http://server', retries: -1 }],
    [{ baseUrl: 'http://server', retries: 21 }],
    [{ baseUrl: 'http://server', retries: 0.5 }],
  ])('refuse the options %j', (options) => {
    expect(() => new LoramuxClient(options)).toThrow(
      expect.objectContaining({ code: 'invalid_option' }),
    );
  });
});

describe('errors', () => {
  it('have what the server says', async () => {
    const error = {
      message: 'no',
      type: 'conflict_error',
      param: 'x',
      code: 'generation_mismatch',
      current_generation: 'abc',
    };
    const { client } = clientOf([json({ error }, 412, { 'x-request-id': 'r-1' })]);
    await expect(client.adapters.get('n')).rejects.toMatchObject({
      name: 'LoramuxError',
      message: 'no',
      status: 412,
      code: 'generation_mismatch',
      type: 'conflict_error',
      param: 'x',
      currentGeneration: 'abc',
      requestId: 'r-1',
    });
  });

  it.each([
    ['a page of a proxy', new Response('<h1>Bad gateway</h1>', { status: 502 }), 'http_502'],
    ['JSON of another server', json({ detail: 'x' }, 500), 'http_500'],
    ['a page with status 200', new Response('<h1>', { status: 200 }), 'answer_malformed'],
    [
      'cut JSON',
      new Response('{"a', { headers: { 'content-type': 'application/json' } }),
      'answer_malformed',
    ],
  ])('come from %s', async (_what, answer, code) => {
    const { client } = clientOf([answer]);
    await expect(client.models.list()).rejects.toMatchObject({ code, status: answer.status });
  });

  it('is none when a server that is not well says so', async () => {
    const { client } = clientOf([json({ status: 'draining' }, 503)]);
    expect(await client.health()).toEqual({ status: 'draining' });
  });
});

describe('retries', () => {
  const refused = new TypeError('fetch failed', { cause: new Error('connect ECONNREFUSED') });

  it('make a request again that was refused for now, or never got there', async () => {
    const { client, asked } = clientOf([refused, refusal(429, 'queue_full'), json({ id: 'x' })]);
    expect(await settled(client.completions.create(body))).toEqual({ id: 'x' });
    expect(asked.map((one) => one.body)).toEqual(Array(3).fill(JSON.stringify(body)));
  });

  it('end with the last error', async () => {
    const { client, asked } = clientOf([refused, refused, refused]);
    await expect(settled(client.models.list())).rejects.toMatchObject({
      code: 'connection_failed',
      message: 'http://server:1: connect ECONNREFUSED',
    });
    expect(asked.length).toBe(3);
  });

  it('may be switched off', async () => {
    const { client, asked } = clientOf([refusal(503, 'shutting_down')], { retries: 0 });
    await expect(client.models.list()).rejects.toMatchObject({ code: 'shutting_down' });
    expect(asked.length).toBe(1);
  });

  it.each([
    ['400', refusal(400, 'unknown_field')],
    ['404', refusal(404, 'model_not_found')],
    ['500', refusal(500, 'internal_error')],
    ['a wait that is too long', refusal(503, 'engine_failed', { 'retry-after': '61' })],
  ])('are not made after %s', async (_what, answer) => {
    const { client, asked } = clientOf([answer]);
    await expect(settled(client.completions.create(body))).rejects.toMatchObject({
      name: 'LoramuxError',
    });
    expect(asked.length).toBe(1);
  });

  it('are not made of changes that may have been made', async () => {
    const generation = 'f'.repeat(64);
    const changes: ((client: LoramuxClient) => Promise<unknown>)[] = [
      (c) => c.adapters.rollback('n'),
      (c) => c.adapters.remove('n'),
      (c) => c.adapters.endSplit('n'),
      (c) => c.adapters.put('n', { path: 'p' }, { ifMatch: generation }),
      (c) => c.adapters.split('n', generation, 0.5, { ifMatch: generation }),
    ];
    for (const change of changes) {
      for (const answer of [refused, refusal(503, 'registry_outcome_unknown')]) {
        const { client, asked } = clientOf([answer]);
        await expect(settled(change(client))).rejects.toThrow();
        expect(asked.length).toBe(1);
      }
      const { client, asked } = clientOf([refusal(503, 'registry_unavailable'), json({})]);
      await settled(change(client));
      expect(asked.length).toBe(2);
    }
  });

  it('wait for as long as the server asks, and longer each time', async () => {
    const { client, asked } = clientOf([
      refusal(503, 'engine_failed', { 'retry-after': '7' }),
      json({}),
    ]);
    const answer = client.models.list();
    await vi.advanceTimersByTimeAsync(6_999);
    expect(asked.length).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(asked.length).toBe(2);
    await answer;
    expect([0, 1, 2, 5, 6, 20].map((i) => backOffMs(i, 0, () => 1))).toEqual([
      250, 500, 1000, 8000, 8000, 8000,
    ]);
    expect(backOffMs(3, 0, () => 0)).toBe(1000);
    expect(backOffMs(0, 3000, () => 1)).toBe(3000);
  });

  it('end with the signal, also while they wait', async () => {
    const { client, asked } = clientOf([refused]);
    const controller = new AbortController();
    const answer = client.models.list({ signal: controller.signal });
    await vi.advanceTimersByTimeAsync(1);
    controller.abort(new Error('enough'));
    await expect(answer).rejects.toThrow('enough');
    expect(asked.length).toBe(1);
    await expect(client.models.list({ signal: controller.signal })).rejects.toThrow('enough');
    expect(asked.length).toBe(1);
  });
});

describe('streams', () => {
  const streamed = { ...body, stream: true } as const;

  async function textOf(answer: Answer): Promise<string> {
    const { client } = clientOf([answer]);
    let text = '';
    for await (const { choices } of await client.completions.create(streamed)) {
      text += choices[0]!.text;
    }
    return text;
  }

  it('give chunks until [DONE]', async () => {
    const pieces = [
      ': keep-alive\n\n',
      chunk('a'),
      `${chunk('b')}${chunk('c')}`,
      'data: [DONE]\n\n',
    ];
    expect(await textOf(events(pieces))).toBe('abc');
  });

  it('give the events of a response until the last one', async () => {
    const named = (event: object & { type: string }) =>
      `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
    const typesOf = async (pieces: string[]) => {
      const { client } = clientOf([events(pieces)]);
      const request = { model: 'm', input: 'Q', stream: true } as const;
      const types: string[] = [];
      for await (const { type } of await client.responses.create(request)) types.push(type);
      return types;
    };
    const created = named({ type: 'response.created' });
    for (const type of ['response.completed', 'response.incomplete']) {
      expect(await typesOf([created, named({ type })])).toEqual(['response.created', type]);
    }
    const lost = { code: 'connection_lost', tokens: 1 };
    await expect(typesOf([created])).rejects.toMatchObject(lost);
    const error = { code: 'slow_reader', message: 'slow', type: 'x', param: null };
    const failed = [named({ type: 'error', error } as never), named({ type: 'response.failed' })];
    await expect(typesOf([created, ...failed])).rejects.toMatchObject({ code: 'slow_reader' });
  });

  it('throw an error in the middle, with its code', async () => {
    const error =
      'data: {"error":{"code":"slow_reader","message":"slow","type":"x","param":null}}\n\n';
    await expect(textOf(events([chunk('a'), error, 'data: [DONE]\n\n']))).rejects.toMatchObject({
      code: 'slow_reader',
      tokens: 1,
    });
  });

  it('throw when they break or end before [DONE]', async () => {
    const lost = { code: 'connection_lost', tokens: 1 };
    await expect(textOf(events([chunk('a'), 'data: {"cho']))).rejects.toMatchObject(lost);
    await expect(textOf(events([chunk('a')], new Error('reset')))).rejects.toMatchObject(lost);
  });

  it('throw for what is no chunk', async () => {
    const malformed = { code: 'answer_malformed' };
    await expect(textOf(events(['data: {"cho\n\n']))).rejects.toMatchObject(malformed);
    await expect(textOf(json({ id: 'x' }))).rejects.toMatchObject(malformed);
  });

  it('are asked for again before they begin', async () => {
    const { client, asked } = clientOf([refusal(429, 'queue_full'), events(['data: [DONE]\n\n'])]);
    const stream = await settled(client.completions.create(streamed));
    for await (const _ of stream) expect.unreachable();
    expect(asked.length).toBe(2);
  });

  it('are read at the pace of the loop, and closed when it is left', async () => {
    let pulled = 0;
    const cancelled = vi.fn();
    const source = new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          pulled += 1;
          controller.enqueue(new TextEncoder().encode(chunk('a')));
        },
        cancel: cancelled,
      },
      { highWaterMark: 0 },
    );
    const { client } = clientOf([
      new Response(source, { headers: { 'content-type': 'text/event-stream' } }),
    ]);
    const stream = await client.completions.create(streamed);
    expect(pulled).toBe(0);
    let taken = 0;
    for await (const _ of stream) {
      taken += 1;
      expect(pulled).toBe(taken);
      if (taken === 3) break;
    }
    expect(cancelled).toHaveBeenCalledOnce();
    const again = async () => {
      for await (const _ of stream) expect.unreachable();
    };
    await expect(again()).rejects.toMatchObject({ code: 'stream_taken' });
  });

  it('may be given up unread', async () => {
    const cancelled = vi.fn();
    const source = new ReadableStream<Uint8Array>({ cancel: cancelled });
    const { client } = clientOf([
      new Response(source, { headers: { 'content-type': 'text/event-stream' } }),
    ]);
    await (await client.completions.create(streamed)).cancel();
    expect(cancelled).toHaveBeenCalledOnce();
  });
});
