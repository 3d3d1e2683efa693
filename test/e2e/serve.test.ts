/** A real server process: right answers over HTTP, refusals that leave nothing, restarts. */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { goldenCases } from '../support/native-fixtures.ts';
import { readAdapterFiles, startTestServer, type TestServer } from '../support/server.ts';
import { FIXTURES } from '../support/stack.ts';

const MODEL = 'llama2';
const modelDir = path.join(FIXTURES, 'models', MODEL);
const adapterDir = (name: string) => path.join(FIXTURES, 'adapters', MODEL, name);
const ADAPTERS = ['qv-r4', 'all-r8-rslora', 'pattern-r16'];

interface Refused {
  case: string;
  baseModel: string;
  expectedCode: string;
}

async function refusedCases(): Promise<Refused[]> {
  const file = path.join(FIXTURES, 'unsupported', 'manifest.json');
  return JSON.parse(await readFile(file, 'utf8'));
}

async function generate(server: TestServer, model: string, prompt: number[], more = {}) {
  return server.call('POST', '/v1/completions', {
    model,
    prompt,
    max_tokens: 16,
    temperature: 0,
    ignore_eos: true,
    ...more,
  });
}

describe('loramux serve', () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await startTestServer(['--model', modelDir, '--max-loras', '4']);
    for (const name of ADAPTERS) {
      expect(await server.upload(name, adapterDir(name))).toMatchObject({ status: 201 });
    }
  });
  afterAll(async () => {
    expect(await server?.end()).toBe(0);
  });

  it('answers for every adapter and the base as PEFT does', async () => {
    const cases = goldenCases(MODEL).filter(
      ({ adapter, promptIds }) =>
        promptIds.length === 23 && (adapter === null || ADAPTERS.includes(adapter)),
    );
    const answers = await Promise.all(
      cases.map(({ adapter, promptIds }) =>
        generate(server, adapter ?? MODEL, promptIds, { logprobs: 0, skip_special_tokens: false }),
      ),
    );
    for (const [i, golden] of cases.entries()) {
      const { status, body } = answers[i]!;
      expect(status).toBe(200);
      expect(body.usage.completion_tokens).toBe(16);
      const logprobs = body.choices[0].logprobs.token_logprobs as number[];
      for (const [k, logprob] of logprobs.entries()) {
        expect(Math.abs(logprob - golden.greedyLogprobs[k]!)).toBeLessThan(1e-4);
      }
      expect(body.adapter_generation === undefined).toBe(golden.adapter === null);
    }
  });

  it('answers 404 for an adapter nobody registered, never with the base', async () => {
    for (const request of [
      { model: 'nobody' },
      { model: MODEL, adapter: 'nobody' },
      { model: `${MODEL} ` },
      { model: 'QV-R4' },
    ]) {
      const { status, body } = await server.call('POST', '/v1/completions', {
        prompt: [1, 2],
        ...request,
      });
      expect(status, JSON.stringify(request)).toBe(404);
      expect(body.error.code).toMatch(/^(model|adapter)_not_found$/);
      expect(body.choices).toBeUndefined();
    }
  });

  it('refuses each unsupported adapter with its code and keeps nothing of it', async () => {
    const before = (await server.call('GET', '/v1/adapters')).body;
    const blobs = async () =>
      (await readdir(server.dataDir, { recursive: true })).filter((f) => /safetensors/.test(f));
    const blobsBefore = await blobs();
    const cases = (await refusedCases()).filter(({ baseModel }) => baseModel === MODEL);
    expect(cases.length).toBeGreaterThan(20);
    for (const { case: name, expectedCode } of cases) {
      const folder = path.join(FIXTURES, 'unsupported', name);
      const files: Record<string, Uint8Array> = {};
      for (const file of await readdir(folder)) {
        files[file] = await readFile(path.join(folder, file));
      }
      const both = 'adapter_config.json' in files && 'adapter_model.safetensors' in files;
      const { status, body } = await server.uploadFiles('refused', files);
      expect(status, name).toBeGreaterThanOrEqual(400);
      expect(status, name).toBeLessThan(500);
      // An upload names its files; what lacks one of the two is refused before it is read.
      if (both && Object.keys(files).length === 2) {
        expect(body.error.code, `${name}: ${body.error.message}`).toBe(expectedCode);
        expect(status, name).toBe(422);
      }
      expect((await generate(server, 'refused', [1, 2, 3])).status, name).toBe(404);
    }
    expect((await server.call('GET', '/v1/adapters')).body).toEqual(before);
    expect(await blobs()).toEqual(blobsBefore);
  });

  it('replaces, lists and removes adapters', async () => {
    const first = await server.upload('changing', adapterDir('qv-r4'));
    const second = await server.upload('changing', adapterDir('pattern-r16'));
    expect([first.status, second.status]).toEqual([201, 200]);
    const models = (await server.call('GET', '/v1/models')).body.data as {
      id: string;
      parent: string | null;
    }[];
    expect(models.find(({ id }) => id === 'changing')).toMatchObject({ parent: MODEL });
    expect(models.find(({ id }) => id === MODEL)).toMatchObject({ parent: null });
    expect((await server.call('DELETE', '/v1/adapters/changing')).status).toBe(200);
    expect((await server.call('DELETE', '/v1/adapters/changing')).status).toBe(404);
    expect((await generate(server, 'changing', [1, 2, 3])).status).toBe(404);
  });

  it('reports good health', async () => {
    const { status, body } = await server.call('GET', '/health');
    expect(status).toBe(200);
    expect(body).toMatchObject({ status: 'ok', model: MODEL });
  });
});

describe('a restart', () => {
  it('finds every uploaded adapter again, after SIGTERM and after SIGKILL', async () => {
    const dataDir = await mkdtemp(path.join(tmpdir(), 'loramux-restart-'));
    const args = ['--model', modelDir];
    const golden = goldenCases(MODEL).find(
      ({ adapter, promptIds }) => adapter === 'qv-r4' && promptIds.length === 5,
    )!;
    let server = await startTestServer(args, { dataDir });
    await server.upload('kept', adapterDir('qv-r4'));
    const before = await generate(server, 'kept', golden.promptIds);
    expect(before.status).toBe(200);
    expect(await server.end()).toBe(0);

    server = await startTestServer(args, { dataDir });
    await server.upload('also', adapterDir('all-r8-rslora'));
    server.child.kill('SIGKILL');
    await server.stop();

    server = await startTestServer(args, { dataDir });
    const after = await generate(server, 'kept', golden.promptIds);
    expect(after.body.choices).toEqual(before.body.choices);
    expect(after.body.adapter_generation).toBe(before.body.adapter_generation);
    expect((await generate(server, 'also', golden.promptIds)).status).toBe(200);
    expect(await server.end()).toBe(0);
    await rm(dataDir, { recursive: true });
  });

  it('drains: a request under way is finished, a new one is refused', async () => {
    const server = await startTestServer(['--model', modelDir, '--drain-ms', '600000']);
    const running = generate(server, MODEL, [1, 2, 3], { max_tokens: 200 });
    // The request is in the engine once its first step has run.
    while ((await server.metric('loramux_engine_steps_total')) === 0);
    const ended = server.end();
    const { status, body } = await running;
    expect(status).toBe(200);
    expect(body.usage.completion_tokens).toBe(200);
    expect(await ended).toBe(0);
  });
});

describe('a damaged upload', () => {
  it('is refused over HTTP for every kind of damage, and nothing is registered', async () => {
    const server = await startTestServer(['--model', modelDir]);
    const good = await readAdapterFiles(adapterDir('qv-r4'));
    const weights = Buffer.from(good['adapter_model.safetensors']!);
    const headerLength = Number(weights.readBigUInt64LE(0));
    const header = weights.subarray(8, 8 + headerLength).toString('utf8');
    const withHeader = (text: string) => {
      const bytes = Buffer.from(text);
      const length = Buffer.alloc(8);
      length.writeBigUInt64LE(BigInt(bytes.length));
      return Buffer.concat([length, bytes, weights.subarray(8 + headerLength)]);
    };
    const nan = Buffer.from(weights);
    nan.writeFloatLE(Number.NaN, nan.length - 4);
    const huge = Buffer.from(weights);
    huge.writeBigUInt64LE(2n ** 63n, 0);
    const damaged: Record<string, Buffer> = {
      empty: Buffer.alloc(0),
      truncatedHeader: weights.subarray(0, 100),
      truncatedData: weights.subarray(0, weights.length - 1),
      trailing: Buffer.concat([weights, Buffer.from([0])]),
      hugeHeader: huge,
      notJson: withHeader(header.replace('{', '[')),
      dtype: withHeader(header.replaceAll('"F32"', '"F33"')),
      shape: withHeader(header.replace(/"shape":\[(\d+),/, '"shape":[1$1,')),
      offsets: withHeader(header.replace(/"data_offsets":\[\d+,/, '"data_offsets":[1,')),
      nan,
    };
    for (const [kind, bytes] of Object.entries(damaged)) {
      const { status, body } = await server.uploadFiles('damaged', {
        'adapter_config.json': good['adapter_config.json']!,
        'adapter_model.safetensors': bytes,
      });
      expect(status, kind).toBeGreaterThanOrEqual(400);
      expect(status, kind).toBeLessThan(500);
      expect(body.error.code, kind).toMatch(/^(safetensors|adapter)_/);
    }
    expect((await server.call('GET', '/v1/adapters')).body.data).toEqual([]);
    expect(await server.end()).toBe(0);
  });
});
