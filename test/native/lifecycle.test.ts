/** Opening and closing: in any order, at any moment, in any thread. */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { LoramuxError } from '../../src/errors.ts';
import {
  createNativeSession,
  locateOrtLibrary,
  nativeErrorCode,
  probeNative,
} from '../../src/native/index.ts';
import {
  fixtureImage,
  fixtureOptions,
  fixtureSession,
  goldenCases,
} from '../support/native-fixtures.ts';
import { generate } from '../support/native-generate.ts';
import { packStep } from '../support/step-packets.ts';
import { until } from '../support/until.ts';

const MODEL = 'llama3';
const packet = () => packStep([{ tokens: [1, 2, 3], cached: 0, blocks: [0] }]);
const longPacket = () =>
  packStep([
    {
      tokens: Array.from({ length: 500 }, (_, i) => i % 300),
      cached: 0,
      blocks: [...Array(32).keys()],
    },
  ]);
const support = (name: string) => fileURLToPath(new URL(`../support/${name}`, import.meta.url));

async function sessionThreads(): Promise<number> {
  const ids = await readdir('/proc/self/task');
  const names = await Promise.all(
    ids.map((id) => readFile(`/proc/self/task/${id}/comm`, 'utf8').catch(() => '')),
  );
  return names.filter((name) => name.startsWith('loramux')).length;
}

/** A thread that was joined is listed for a moment longer, until the kernel is done with it. */
const untilNoThreads = () =>
  until('no thread of a session is left', sessionThreads, (count) => count === 0);

describe('close', () => {
  it('waits for a step in flight, refuses what comes later, and may be called twice', async () => {
    const session = await fixtureSession(MODEL);
    const events: string[] = [];
    const step = session.step(longPacket()).then((result) => {
      events.push('step');
      return result;
    });
    const first = session.close().then(() => events.push('closed'));
    const second = session.close();
    const late = await session.step(packet()).catch((error: unknown) => error);
    expect(nativeErrorCode(late)).toBe('native_session_closed');
    expect((late as LoramuxError).code).toBe('shutting_down');
    expect((await step).tokenIds).toHaveLength(1);
    await Promise.all([first, second]);
    expect(events).toEqual(['step', 'closed']);
    await session.close();
    const load = session.loadAdapter(0, fixtureImage(MODEL, 'qv-r4'));
    expect(nativeErrorCode(await load.catch((error: unknown) => error))).toBe(
      'native_session_closed',
    );
    expect(() => session.freeAdapter(0)).toThrow(/closed/);
    await untilNoThreads();
  });

  it('hurried, has the step in flight fail instead of waiting for its end', async () => {
    const session = await fixtureSession(MODEL);
    const step = session.step(longPacket()).catch((error: unknown) => error);
    await session.close(true);
    // Unless it was at its last operator already.
    const ended = await step;
    if (ended instanceof Error) {
      expect(nativeErrorCode(ended)).toBe('native_step_failed');
      expect(ended.message).toMatch(/terminate/);
    }
    await session.close(true);
    await untilNoThreads();
  });

  it('settles loads in flight: done or closed, none is lost', async () => {
    const session = await fixtureSession(MODEL, { maxSlots: 32 });
    const image = fixtureImage(MODEL, 'all-r8-rslora');
    const loads = Array.from({ length: 32 }, (_, slot) => session.loadAdapter(slot, image));
    const outcomes = Promise.allSettled(loads);
    await session.close();
    for (const outcome of await outcomes) {
      if (outcome.status === 'rejected') {
        expect(nativeErrorCode(outcome.reason)).toBe('native_session_closed');
      }
    }
  });

  it('of one session leaves another one alone', async () => {
    const golden = goldenCases(MODEL).find((c) => c.adapter === null)!;
    const blocks = [...Array(16).keys()];
    const [one, two] = await Promise.all([fixtureSession(MODEL), fixtureSession('qwen3')]);
    const both = await Promise.all([
      generate(one, [{ prompt: golden.promptIds, blocks }], 32),
      generate(two, [{ prompt: golden.promptIds, blocks }], 32),
    ]);
    expect(both[0][0]!.tokenIds).toEqual(golden.greedyIds.slice(0, 32));
    await two.close();
    const [again] = await generate(one, [{ prompt: golden.promptIds, blocks }], 32);
    expect(again!.tokenIds).toEqual(golden.greedyIds.slice(0, 32));
    await one.close();
  });
});

describe('what cannot be opened', () => {
  const failure = async (change: Parameters<typeof fixtureOptions>[1]) => {
    const options = await fixtureOptions(MODEL, change);
    const error = await createNativeSession(options).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(LoramuxError);
    return error as LoramuxError;
  };

  it('names a library that is missing, and one that is something else', async () => {
    const missing = await failure({ ortLibraryPath: '/nowhere/libonnxruntime.so.1' });
    expect(missing.code).toBe('native_addon_missing');
    expect(missing.message).toContain('/nowhere/libonnxruntime.so.1');
    const folder = await mkdtemp(join(tmpdir(), 'loramux-lib-'));
    writeFileSync(join(folder, 'lib.so'), 'not a library');
    const wrong = await failure({ ortLibraryPath: join(folder, 'lib.so') });
    expect(nativeErrorCode(wrong)).toBe('native_ort_library');
    await rm(folder, { recursive: true });
  });

  it('names a model that does not parse, and weights that are not there', async () => {
    const { model } = await fixtureOptions(MODEL);
    const broken = await failure({ model: { ...model, modelBytes: new Uint8Array(100).fill(7) } });
    expect(nativeErrorCode(broken)).toBe('native_model_load');
    const moved = await failure({ model: { ...model, externalDataDir: tmpdir() } });
    expect(nativeErrorCode(moved)).toBe('native_model_load');
    expect(moved.message).toContain('model.safetensors');
  });

  it('refuses a graph that disagrees with the session about the model', async () => {
    const { model } = await fixtureOptions(MODEL);
    const layers = await failure({ model: { ...model, numLayers: 1 } });
    expect(nativeErrorCode(layers)).toBe('native_model_load');
    expect(layers.message).toContain('layer');
    const heads = await failure({ model: { ...model, numHeads: model.numHeads * 2 } });
    expect(nativeErrorCode(heads)).toBe('native_model_load');
    expect(heads.message).toContain('num_heads');
  });

  it('refuses bad options by name', async () => {
    const bad: [string, Parameters<typeof fixtureOptions>[1]][] = [
      ['numBlocks', { numBlocks: 0 }],
      ['numBlocks', { numBlocks: 1.5 }],
      ['blockSize', { blockSize: 4096 }],
      ['intraOpThreads', { intraOpThreads: 0 }],
      ['maxSlots', { maxSlots: -1 }],
      ['kvDtype', { kvDtype: 'f16' as 'f32' }],
      ['isa', { isa: 'sse' as 'avx2' }],
    ];
    for (const [field, change] of bad) {
      const error = await failure(change);
      expect(error.code, field).toBe('config_invalid');
      expect(error.message).toContain(field);
    }
  });

  it('refuses a cache that the machine cannot hold', async () => {
    const error = await failure({ numBlocks: 2 ** 24 });
    expect(nativeErrorCode(error)).toBe('native_out_of_memory');
    expect(error.message).toContain('numBlocks');
  });

  it('keeps the stack of the caller', async () => {
    const error = await failure({ ortLibraryPath: '/nowhere/lib.so' });
    expect((error.cause as Error).stack).toContain('createNativeSession');
  });

  it('leaves no thread behind', async () => {
    await untilNoThreads();
  });
});

it('ONNX Runtime sends no usage data', async () => {
  const session = await fixtureSession(MODEL);
  await session.close();
  // Its uploader would be a thread that outlives the session, named after the step thread.
  await untilNoThreads();
});

it('probe tells the version and the instruction sets, weakest first', () => {
  const probe = probeNative(locateOrtLibrary());
  expect(probe.ortVersion).toMatch(/^1\.\d+\.\d+$/);
  expect(probe.isas[0]).toBe('scalar');
});

it('every instruction set gives the oracle’s tokens', async () => {
  const golden = goldenCases(MODEL).find((c) => c.adapter === null)!;
  for (const isa of probeNative().isas) {
    const session = await fixtureSession(MODEL, { isa });
    expect(session.info.isa).toBe(isa);
    const blocks = [...Array(16).keys()];
    const [generated] = await generate(session, [{ prompt: golden.promptIds, blocks }], 32);
    expect(generated!.tokenIds, isa).toEqual(golden.greedyIds.slice(0, 32));
    await session.close();
  }
});

describe('worker threads', () => {
  const start = (forever: boolean) =>
    new Worker(support('native-worker.mjs'), { workerData: { model: MODEL, forever } });

  it('have sessions of their own', async () => {
    const golden = goldenCases(MODEL).find((c) => c.adapter === null)!;
    const answers = await Promise.all(
      [1, 2].map(
        () =>
          new Promise((resolve, reject) => {
            const worker = start(false);
            worker.once('message', resolve);
            worker.once('error', reject);
          }),
      ),
    );
    for (const ids of answers) expect(ids).toEqual(golden.greedyIds.slice(0, 32));
  });

  it('may be terminated while a step runs', async () => {
    for (let i = 0; i < 3; i += 1) {
      const worker = start(true);
      await new Promise((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
      });
      expect(await worker.terminate()).toBe(1);
    }
    await untilNoThreads();
    const session = await fixtureSession(MODEL);
    expect((await session.step(packet())).tokenIds).toHaveLength(1);
    await session.close();
  });
});

interface Ended {
  code: number | null;
  signal: string | null;
  output: string;
  errors: string;
}

function runProcess(scenario: string): Promise<Ended> {
  return new Promise((resolve) => {
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', support('native-process.ts'), scenario],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    let output = '';
    let errors = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text;
    });
    child.once('close', (code, signal) => resolve({ code, signal, output, errors }));
  });
}

describe('the end of a process', () => {
  it.each(['exitInStep', 'exitInLoad', 'exitInAdapterLoad'])('is clean: %s', async (scenario) => {
    const ended = await runProcess(scenario);
    expect(ended, ended.errors).toMatchObject({ code: 7, signal: null, errors: '' });
  });

  it('is not held up by a session that nobody closed', async () => {
    const ended = await runProcess('forgotten');
    expect(ended, ended.errors).toMatchObject({ code: 0, signal: null, errors: '' });
    expect(JSON.parse(ended.output)).toBe('done');
  });

  it('a session that nobody holds is collected and its threads end', async () => {
    const ended = await runProcess('collected');
    expect(ended, ended.errors).toMatchObject({ code: 0, signal: null, errors: '' });
    const { before, ended: stopped } = JSON.parse(ended.output);
    expect(before).toBeGreaterThan(0);
    expect(stopped).toBe(true);
  });
});

describe('memory', () => {
  const MEBIBYTE = 2 ** 20;
  /** Growth allowed from the first third of the rounds to the last; allocators keep some pages. */
  const GROWTH_MAX = 8 * MEBIBYTE;

  it.each(['adapterMemory', 'sessionMemory'])('does not grow over rounds: %s', async (scenario) => {
    const ended = await runProcess(scenario);
    expect(ended, ended.errors).toMatchObject({ code: 0, signal: null, errors: '' });
    const bytes = JSON.parse(ended.output) as number[];
    expect(bytes).toHaveLength(24);
    const warm = Math.max(...bytes.slice(0, 8));
    const late = Math.max(...bytes.slice(16));
    expect(late - warm, bytes.map((b) => (b / MEBIBYTE).toFixed(1)).join(' ')).toBeLessThan(
      GROWTH_MAX,
    );
  });
});
