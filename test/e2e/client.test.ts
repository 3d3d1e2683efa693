/** `loramux/client` with a real server: REST, streams, the admin API, and sockets that break. */
import { openAsBlob } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import type { SocketGeneration, StreamSocket } from '../../src/client/index.ts';
import { LoramuxClient } from '../../src/client/index.ts';
import { startTestServer, type TestServer } from '../support/server.ts';
import { FIXTURES } from '../support/stack.ts';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';

const MODEL = 'llama3';
const modelDir = path.join(FIXTURES, 'models', MODEL);
const adapterDir = (name: string) => path.join(FIXTURES, 'adapters', MODEL, name);
const [FIRST, SECOND] = ['qv-r4', 'all-r8-rslora'];
/** Reads a chat as its texts, one after the other. */
const TEMPLATE = '{% for message in messages %}{{ message.content }}{% endfor %}';
/** More than are generated before anybody can cut it. */
const LONG = 300;

const ask = (model: string, max_tokens = 24) => ({
  model,
  prompt: [1, 5, 9, 14, 22],
  max_tokens,
  temperature: 0,
  ignore_eos: true,
  skip_special_tokens: false,
});

const filesOf = async (name: string) => ({
  config: await openAsBlob(path.join(adapterDir(name), 'adapter_config.json')),
  model: await openAsBlob(path.join(adapterDir(name), 'adapter_model.safetensors')),
});

async function textOf(generation: SocketGeneration): Promise<string> {
  let text = '';
  for await (const token of generation) text += token.text;
  return text;
}

let dataDir: string;
const start = () =>
  startTestServer(
    [
      ...['--model', modelDir, '--adapter-root', path.join(FIXTURES, 'adapters', MODEL)],
      ...['--chat-template', path.join(dataDir, 'chat.jinja')],
    ],
    { dataDir },
  );
let server: TestServer;
let proxy: TcpProxy;
let client: LoramuxClient;
/** What each model answers. */
const texts = new Map<string, string>();

const idle = () =>
  until(
    'nothing runs',
    () => client.health(),
    ({ engine }) => engine.running + engine.waiting === 0,
  );

beforeAll(async () => {
  dataDir = await mkdtemp(path.join(tmpdir(), 'loramux-client-'));
  await writeFile(path.join(dataDir, 'chat.jinja'), TEMPLATE);
  server = await start();
  proxy = await startTcpProxy(Number(new URL(server.url).port));
  client = new LoramuxClient({ baseUrl: `http://127.0.0.1:${proxy.port}`, WebSocket });
  for (const name of [FIRST, SECOND]) await client.adapters.upload(name, await filesOf(name));
  for (const model of [MODEL, FIRST, SECOND]) {
    texts.set(model, (await client.completions.create(ask(model))).choices[0]!.text);
  }
  expect(new Set(texts.values()).size).toBe(3);
});
afterAll(async () => {
  await proxy?.close();
  expect(await server?.end()).toBe(0);
  await rm(dataDir, { recursive: true, force: true });
});

describe('requests', () => {
  it('stream the text of the whole answer, and its usage', async () => {
    for (const [model, text] of texts) {
      const request = { ...ask(model), stream: true, stream_options: { include_usage: true } };
      let streamed = '';
      let tokens = 0;
      for await (const chunk of await client.completions.create({ ...request, stream: true })) {
        streamed += chunk.choices[0]?.text ?? '';
        tokens = chunk.usage?.completion_tokens ?? 0;
      }
      expect({ streamed, tokens }).toEqual({ streamed: text, tokens: 24 });
    }
  });

  it('answer chats, whole or streamed', async () => {
    const request = {
      model: FIRST,
      messages: [{ role: 'user' as const, content: '17' }],
      max_completion_tokens: 8,
      temperature: 0,
      ignore_eos: true,
    };
    const whole = await client.chat.completions.create(request);
    let text = '';
    for await (const { choices } of await client.chat.completions.create({
      ...request,
      stream: true,
    })) {
      text += choices[0]?.delta.content ?? '';
    }
    expect(text).toBe(whole.choices[0]!.message.content);
    expect(whole.usage.completion_tokens).toBe(8);
  });

  it('answer items, whole or streamed', async () => {
    const request = {
      ...{ model: FIRST, input: '17', max_output_tokens: 8, temperature: 0, ignore_eos: true },
    };
    const { output, usage } = await client.responses.create(request);
    let text = '';
    for await (const event of await client.responses.create({ ...request, stream: true })) {
      if (event.type === 'response.output_text.delta') text += event.delta;
    }
    expect(output).toMatchObject([{ type: 'message', content: [{ text }] }]);
    expect(usage?.output_tokens).toBe(8);
  });

  it('end on the server when their stream is left or aborted', async () => {
    const stream = await client.completions.create({ ...ask(FIRST, LONG), stream: true });
    for await (const _ of stream) break;
    await idle();
    const controller = new AbortController();
    const { signal } = controller;
    const read = async () => {
      const request = { ...ask(FIRST, LONG), stream: true } as const;
      for await (const _ of await client.completions.create(request, { signal })) {
        controller.abort(new Error('enough'));
      }
    };
    await expect(read()).rejects.toThrow('enough');
    await idle();
  });

  it('fail with the code of the server', async () => {
    await expect(client.completions.create(ask('nobody'))).rejects.toMatchObject({
      status: 404,
      code: 'model_not_found',
      param: 'model',
    });
    const unknown = { ...ask(MODEL), tempreature: 1 };
    await expect(client.completions.create(unknown)).rejects.toMatchObject({
      status: 400,
      code: 'unknown_field',
      param: 'tempreature',
    });
  });

  it('tell what the server has, and how it is', async () => {
    const { data } = await client.models.list();
    expect(data.map(({ id }) => id)).toEqual(expect.arrayContaining([MODEL, FIRST, SECOND]));
    expect((await client.models.retrieve(FIRST)).parent).toBe(MODEL);
    expect((await client.health()).status).toBe('ok');
    const { tokens, count } = await client.tokenize({ prompt: '17' });
    expect(tokens.length).toBe(count);
    expect((await client.detokenize({ tokens })).prompt).toContain('17');
    expect(await client.metrics()).toContain('loramux_requests_total');
    expect((await client.replicas()).data.length).toBe(1);
  });
});

describe('adapters', () => {
  it('are put, compared, rolled back, split, held in memory and removed', async () => {
    const { adapters } = client;
    const name = 'team/support';
    const first = await adapters.upload(name, await filesOf(FIRST), { ifNoneMatch: '*' });
    const second = await adapters.put(name, { path: SECOND }, { ifMatch: first.generation });
    await expect(
      adapters.put(name, { path: FIRST }, { ifMatch: first.generation }),
    ).rejects.toMatchObject({
      status: 412,
      code: 'generation_mismatch',
      currentGeneration: second.generation,
    });
    expect((await adapters.generations(name)).data.map(({ generation }) => generation)).toEqual([
      second.generation,
      first.generation,
    ]);
    const split = await adapters.split(name, first.generation, 0.5);
    expect(split.split).toEqual({ generation: first.generation, weight: 0.5 });
    expect((await adapters.endSplit(name)).split).toBe(null);
    expect((await adapters.rollback(name)).generation).toBe(first.generation);
    expect((await client.completions.create(ask(name))).choices[0]!.text).toBe(texts.get(FIRST));
    const back = await adapters.rollback(name, { generation: second.generation });
    expect((await adapters.get(name)).generation).toBe(back.generation);
    expect((await adapters.load(name, { pinned: true })).residency?.level).toBe('device');
    await expect(adapters.evict(name)).rejects.toMatchObject({ code: 'adapter_pinned' });
    expect((await adapters.unpin(name)).pinned).toBe(false);
    expect((await adapters.pin(name)).pinned).toBe(true);
    await adapters.unpin(name);
    await adapters.evict(name);
    await adapters.remove(name);
    const names = (await adapters.list()).data.map((one) => one.name);
    expect(names.sort()).toEqual([SECOND, FIRST].sort());
    await expect(adapters.get(name)).rejects.toMatchObject({ status: 404 });
  });
});

describe('sockets', () => {
  let socket: StreamSocket;
  beforeAll(async () => {
    socket = await client.connect({ pingMs: 500, window: 8 });
  });
  afterAll(() => socket.close());

  it('answer many generations at once as REST does', async () => {
    const models = [...texts.keys()];
    const all = Array.from({ length: 12 }, (_, i) => models[i % 3]!);
    const generations = all.map((model) => socket.generate(ask(model)));
    expect(await Promise.all(generations.map(textOf))).toEqual(
      all.map((model) => texts.get(model)),
    );
    for (const { result } of generations) expect((await result).finish_reasons).toEqual(['length']);
  });

  it('have one reader wait without the others, and lose nothing of what it reads later', async () => {
    const slow = socket.generate(ask(FIRST));
    const iterator = slow[Symbol.asyncIterator]();
    let text = (await iterator.next()).value!.text;
    for (const model of texts.keys()) {
      expect(await textOf(socket.generate(ask(model)))).toBe(texts.get(model));
    }
    for (;;) {
      const { done, value } = await iterator.next();
      if (done === true) break;
      text += value.text;
    }
    expect(text).toBe(texts.get(FIRST));
  });

  it('end a generation that is left, cancelled or aborted', async () => {
    const controller = new AbortController();
    const left = socket.generate(ask(FIRST, LONG));
    for await (const _ of left) break;
    const cancelled = socket.generate(ask(FIRST, LONG));
    for await (const _ of cancelled) cancelled.cancel();
    for (const { result } of [left, cancelled]) {
      expect((await result).finish_reasons).toEqual(['cancelled']);
    }
    const aborted = socket.generate(ask(FIRST, LONG), { signal: controller.signal });
    const reading = textOf(aborted);
    controller.abort(new Error('enough'));
    await expect(reading).rejects.toThrow('enough');
    await idle();
  });

  it('fail a generation alone with the code of the server', async () => {
    const [bad, good] = [socket.generate(ask('nobody')), socket.generate(ask(FIRST))];
    await expect(textOf(bad)).rejects.toMatchObject({ code: 'model_not_found', param: 'model' });
    expect(await textOf(good)).toBe(texts.get(FIRST));
  });

  it('are replaced after a cut; what ran is lost and says so', async () => {
    const generation = socket.generate(ask(FIRST, LONG));
    const read = async () => {
      for await (const _ of generation) proxy.cut();
    };
    await expect(read()).rejects.toMatchObject({ code: 'connection_lost' });
    await expect(generation.result).rejects.toMatchObject({ tokens: expect.any(Number) });
    expect(await textOf(socket.generate(ask(SECOND)))).toBe(texts.get(SECOND));
    await idle();
  });

  it('send what had no token again, if that is wanted', async () => {
    proxy.stall('answers');
    const again = socket.generate(ask(FIRST), { retry: 'before-first-token' });
    const lost = socket.generate(ask(FIRST));
    const text = textOf(again);
    proxy.cut();
    await expect(lost.result).rejects.toMatchObject({ code: 'connection_lost' });
    proxy.restore();
    expect(await text).toBe(texts.get(FIRST));
  });

  it('notice a server that is silent', async () => {
    const generation = socket.generate(ask(FIRST, LONG));
    const read = async () => {
      for await (const _ of generation) proxy.freeze();
    };
    await expect(read()).rejects.toThrow('no sign of life');
    expect(await textOf(socket.generate(ask(FIRST)))).toBe(texts.get(FIRST));
  });

  it('go on with a server that was killed and started again', async () => {
    const generation = socket.generate(ask(FIRST, LONG));
    const read = async () => {
      for await (const _ of generation) server.child.kill('SIGKILL');
    };
    await expect(read()).rejects.toMatchObject({ code: 'connection_lost' });
    server = await start();
    proxy.target(Number(new URL(server.url).port));
    expect(await textOf(socket.generate(ask(FIRST)))).toBe(texts.get(FIRST));
  });
});
