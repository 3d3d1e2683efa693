/** Faults of the real native session under a real server, as clients meet them. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { readMetric } from '../../scripts/metrics.ts';
import { loadConfig } from '../../src/config/load.ts';
import { createServer, type LoramuxServer } from '../../src/server.ts';
import { Faults } from '../support/faulty-session.ts';
import { type Json, readAdapterFiles } from '../support/server.ts';
import { FIXTURES } from '../support/stack.ts';
import { type Streamed, StreamSocket } from '../support/streams.ts';
import { until } from '../support/until.ts';

const MODEL = 'llama2';
const ADAPTERS = ['qv-r4', 'all-r8-rslora'];
const MODELS = [...ADAPTERS, MODEL];
const prompt = Array.from({ length: 23 }, (_, i) => i + 3);
const adapterDir = (name: string) => path.join(FIXTURES, 'adapters', MODEL, name);

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Served {
  server: LoramuxServer;
  faults: Faults;
  call(method: string, route: string, body?: unknown): Promise<{ response: Response; body: Json }>;
  ask(model: string, more?: object): Promise<{ response: Response; body: Json }>;
  health(): Promise<Json>;
  metric(name: string): Promise<number>;
}

/** A server in this process, so that its session can be made to fail. */
async function serve(flags: Record<string, string> = {}): Promise<Served> {
  const dataDir = await mkdtemp(path.join(tmpdir(), 'loramux-restart-'));
  closers.push(() => rm(dataDir, { recursive: true, force: true }));
  const faults = new Faults();
  const config = loadConfig({
    flags: {
      model: path.join(FIXTURES, 'models', MODEL),
      dataDir,
      port: '0',
      logLevel: 'silent',
      maxLoras: '4',
      threads: '2',
      ...flags,
    },
    env: {},
  });
  const server = await createServer(config, { openSession: faults.open });
  closers.push(() => server.close());
  const call: Served['call'] = async (method, route, body) => {
    const response = await fetch(server.url + route, {
      method,
      ...(body !== undefined && {
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      }),
    });
    const text = await response.text();
    return { response, body: text.startsWith('{') ? JSON.parse(text) : text };
  };
  for (const name of ADAPTERS) {
    const form = new FormData();
    for (const [file, bytes] of Object.entries(await readAdapterFiles(adapterDir(name)))) {
      form.set(file, new Blob([bytes]), file);
    }
    const response = await fetch(`${server.url}/v1/adapters/${name}`, {
      method: 'PUT',
      body: form,
    });
    expect(response.status).toBe(201);
  }
  return {
    server,
    faults,
    call,
    ask: (model, more = {}) =>
      call('POST', '/v1/completions', {
        model,
        prompt,
        max_tokens: 12,
        temperature: 0,
        ignore_eos: true,
        logprobs: 0,
        ...more,
      }),
    health: async () => (await call('GET', '/health')).body,
    metric: async (name) => readMetric((await call('GET', '/metrics')).body, name),
  };
}

async function answers(served: Served): Promise<string[]> {
  const given = await Promise.all(MODELS.map((model) => served.ask(model)));
  return given.map(({ response, body }) => {
    expect(response.status).toBe(200);
    return JSON.stringify(body.choices);
  });
}

function gated(faults: Faults): () => void {
  let open: () => void = () => {};
  faults.gate = new Promise((resolve) => {
    open = resolve;
  });
  return open;
}

describe('a native session at fault', () => {
  it('is replaced: who is in flight is told to retry, and what follows is right', async () => {
    const served = await serve();
    const { faults, call, ask } = served;
    expect((await call('POST', `/v1/adapters/${ADAPTERS[0]}/pin`)).response.status).toBe(200);
    const before = await answers(served);
    const open = gated(faults);

    // A stream that has begun, and then requests beside it.
    const stream = await fetch(`${served.server.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        model: ADAPTERS[1],
        prompt,
        max_tokens: 400,
        ignore_eos: true,
        stream: true,
      }),
    });
    expect(stream.status).toBe(200);
    let steps = 0;
    faults.next = () => (++steps > 4 ? 'memory' : 'work');
    const inFlight = [ask(MODEL, { max_tokens: 400 }), ask(ADAPTERS[0]!, { max_tokens: 400 })];
    const text = await stream.text();
    const events = text.split('\n\n').filter((part) => part.startsWith('data: {'));
    expect(JSON.parse(events.at(-1)!.slice(6)).error).toMatchObject({ code: 'session_restarted' });
    expect(text.trimEnd().endsWith('data: [DONE]')).toBe(true);
    faults.next = () => 'work';

    // Nothing of it reaches a client as anything but 503.
    const health = await call('GET', '/health');
    expect(health.response.status).toBe(503);
    expect(health.body).toMatchObject({
      status: 'restarting',
      session: { state: 'restarting', restarts: 0 },
    });
    expect(health.body.session.last_error).toMatch(/made to memory/);
    expect(await served.metric('loramux_session_up')).toBe(0);
    const refused = await ask(MODEL);
    expect(refused.response.status).toBe(503);
    expect(refused.response.headers.get('retry-after')).toBe('1');
    expect(refused.body.error.code).toBe('session_restarting');
    // What needs no session works: uploads, lists, tokens.
    expect((await call('GET', '/v1/models')).response.status).toBe(200);
    const load = call('POST', `/v1/adapters/${ADAPTERS[1]}/load`);

    open();
    expect((await load).response.status).toBe(200);
    for (const { response, body } of await Promise.all(inFlight)) {
      // One that was still on its way to the engine was refused or ran later.
      if (response.status === 200) continue;
      expect(response.status).toBe(503);
      expect(response.headers.get('retry-after')).toBe('1');
      expect(body.error.code).toMatch(/^session_restart(ed|ing)$/);
    }
    await until('the session is back', served.health, ({ status }) => status === 'ok');
    expect(await answers(served)).toEqual(before);
    expect(await served.metric('loramux_session_restarts_total')).toBe(1);
    expect(await served.metric('loramux_session_up')).toBe(1);
    expect(await served.metric('loramux_num_requests_running')).toBe(0);
    expect((await served.health()).session).toMatchObject({ state: 'ok', restarts: 1 });
    const views = (await call('GET', '/v1/adapters')).body.data as Json[];
    expect(views.find(({ name }) => name === ADAPTERS[0])).toMatchObject({
      residency: { level: 'device', pinned: true, references: 0 },
    });
    expect(faults).toMatchObject({ opened: 2, closed: 1 });
  });

  it('is replaced under sockets that stay: what runs on them is told to retry, and then answered', async () => {
    const served = await serve();
    const { faults, server } = served;
    const socket = await StreamSocket.open(server);
    const generate = (model: string, max_tokens: number, onToken?: () => void) =>
      socket.generate(
        { model, prompt, max_tokens, temperature: 0, ignore_eos: true, logprobs: 0 },
        onToken,
      );
    const each = async () => {
      const given: Streamed[] = [];
      for (const model of MODELS) given.push(await generate(model, 12));
      return given;
    };
    const before = await each();
    const open = gated(faults);
    const begun = new Set<string>();
    faults.next = () => (begun.size === MODELS.length ? 'memory' : 'work');
    const running = await Promise.allSettled(
      MODELS.map((model) => generate(model, 400, () => begun.add(model))),
    );
    faults.next = () => 'work';
    for (const end of running) {
      expect(String((end as PromiseRejectedResult).reason)).toContain('"session_restarted"');
    }
    await expect(generate(MODEL, 12)).rejects.toThrow('"session_restarting"');
    open();
    await until('the session is back', served.health, ({ status }) => status === 'ok');
    expect(await each()).toEqual(before);
    expect(await served.metric('loramux_num_requests_running')).toBe(0);
    await socket.close();
  });

  it('whose step never comes back is replaced too', async () => {
    const served = await serve({ stepTimeoutMs: '5000' });
    const before = await answers(served);
    let hangs = 1;
    served.faults.next = () => (hangs-- > 0 ? 'hang' : 'work');
    const { response, body } = await served.ask(ADAPTERS[0]!);
    expect(response.status).toBe(503);
    expect(body.error).toMatchObject({ code: 'session_restarted' });
    expect(body.error.message).toMatch(/--step-timeout-ms/);
    await until('the session is back', served.health, ({ status }) => status === 'ok');
    expect(await answers(served)).toEqual(before);
    expect(served.server.isStuck()).toBe(false);
  });

  it('that fails once fails one batch; again and again, it is replaced; too often, for good', async () => {
    const served = await serve({ maxSessionRestarts: '1' });
    const { faults, ask } = served;
    const fail = async (times: number) => {
      let left = times;
      faults.next = () => (left-- > 0 ? 'fail' : 'work');
      const codes: string[] = [];
      for (let i = 0; i < times; i++) codes.push((await ask(MODEL)).body.error.code);
      return codes;
    };
    expect(await fail(1)).toEqual(['engine_failed']);
    expect((await ask(MODEL)).response.status).toBe(200);
    expect(await fail(3)).toEqual(['engine_failed', 'engine_failed', 'session_restarted']);
    await until('the session is back', served.health, ({ status }) => status === 'ok');
    expect((await ask(ADAPTERS[1]!)).response.status).toBe(200);
    expect((await fail(3)).at(-1)).toBe('session_restarted');
    await until('the server gives up', served.health, ({ status }) => status === 'failed');
    const last = await ask(MODEL);
    expect(last.response.status).toBe(503);
    expect(last.body.error.message).toMatch(/after 1 restarts within 10 minutes/);
    expect((await served.health()).session).toMatchObject({ state: 'failed', restarts: 1 });
  });

  it('does not keep a server from closing', async () => {
    const served = await serve();
    const { faults, ask, server, call } = served;
    gated(faults);
    faults.next = () => 'memory';
    expect((await ask(ADAPTERS[0]!)).body.error.code).toBe('session_restarted');
    const load = call('POST', `/v1/adapters/${ADAPTERS[1]}/load`).catch(() => undefined);
    faults.gate = Promise.resolve();
    await server.close();
    await load;
    expect(faults.closed).toBe(faults.opened);
  });
});

describe('a process', () => {
  /** Exit code or signal, and standard error. */
  async function run(scenario: string) {
    const dataDir = await mkdtemp(path.join(tmpdir(), 'loramux-faulty-'));
    closers.push(() => rm(dataDir, { recursive: true, force: true }));
    const script = fileURLToPath(new URL('../support/faulty-process.ts', import.meta.url));
    const model = path.join(FIXTURES, 'models', MODEL);
    const child = spawn(process.execPath, ['--import', 'tsx', script, scenario, model, dataDir], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let errors = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text;
    });
    const [code, signal] = await once(child, 'close');
    return { ended: code ?? signal, errors };
  }

  it('whose steps are stuck ends itself, for something else to start it again', async () => {
    const { ended, errors } = await run('stuck');
    expect(errors).toMatch(/2 native sessions do not come back from a step/);
    expect(ended).toBe('SIGKILL');
  });

  it('that is told to stop while its model loads ends at once', async () => {
    expect(await run('loading')).toEqual({ ended: 0, errors: '' });
  });
});
