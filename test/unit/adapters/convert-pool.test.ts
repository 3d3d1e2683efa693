import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import type { ConvertJob } from '../../../src/adapters/convert/canonicalize.ts';
import { ConvertPool, type ConvertPoolOptions } from '../../../src/adapters/convert/pool.ts';
import {
  loraConfig,
  loraTensors,
  safetensors,
  TempDir,
  TINY_MODULES,
} from '../../support/adapter-files.ts';

const temp = new TempDir();
const pools: ConvertPool[] = [];
afterEach(async () => {
  for (const pool of pools.splice(0)) await pool.close();
});
afterAll(() => temp.remove());

const code = (value: string) => expect.objectContaining({ code: value });

function poolOf(options: Partial<ConvertPoolOptions> = {}): ConvertPool {
  const pool = new ConvertPool({ modules: TINY_MODULES, ...options });
  pools.push(pool);
  return pool;
}

const unruly = (options: Partial<ConvertPoolOptions> = {}) =>
  poolOf({ workerUrl: new URL('../../support/unruly-worker.mjs', import.meta.url), ...options });

const job = (configPath: string, weightsPath = ''): ConvertJob => ({
  configPath,
  weightsPath,
  root: undefined,
  outPath: temp.fresh('.safetensors'),
  limits: { maxRank: 8, maxAdapterBytes: 1e6, maxResidentBytes: 1e6 },
});

function adapterJob(): ConvertJob {
  const dir = temp.adapter(loraConfig(), safetensors(loraTensors()));
  return job(path.join(dir, 'adapter_config.json'), path.join(dir, 'adapter_model.safetensors'));
}

describe('conversion threads', () => {
  it('convert and open, several at once, and keep error codes across the thread border', async () => {
    const pool = poolOf({ threads: 2 });
    const jobs = Array.from({ length: 6 }, adapterJob);
    const results = await Promise.all(jobs.map((each) => pool.convert(each)));
    expect(new Set(results.map((r) => r.digest)).size).toBe(1);
    const { digest, fileBytes, headerBytes } = results[0]!;
    const file = jobs[0]!.outPath;
    const opened = await pool.open({ path: file, digest, fileBytes, headerBytes, verify: true });
    expect(opened).toMatchObject({ path: file, fileBytes });
    await expect(
      pool.open({ path: file, digest: 'other', fileBytes, headerBytes, verify: true }),
    ).rejects.toThrow(code('store_corrupt'));
    await expect(pool.convert(job('/nowhere'))).rejects.toThrow(code('adapter_upload_incomplete'));
    // The file exists already: a defect, not the adapter's fault.
    await expect(pool.convert(jobs[0]!)).rejects.toThrow(code('internal_error'));
  });

  it.each(['exit', 'throw', 'memory'])(
    'a thread lost by %s fails only the job it had',
    async (how) => {
      const pool = unruly({ threads: 1 });
      const outcomes = await Promise.allSettled([
        pool.convert(job('first')),
        pool.convert(job(how)),
        pool.convert(job('second')),
      ]);
      expect(outcomes.map((o) => o.status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
      expect(outcomes[1]).toMatchObject({ reason: code('internal_error') });
      expect(outcomes[2]).toMatchObject({ value: { digest: 'second' } });
    },
  );

  it('opens files while conversions take every thread and wait', async () => {
    const pool = unruly({ threads: 1 });
    const conversions = Promise.allSettled(
      ['silent', 'a', 'b'].map((each) => pool.convert(job(each))),
    );
    const file = { path: 'a', digest: 'a', fileBytes: 1, headerBytes: 1, verify: false };
    await Promise.all([pool.open(file), pool.open(file)]);
    await pool.close();
    for (const outcome of await conversions)
      expect(outcome).toMatchObject({ reason: code('shutting_down') });
  });

  it('leaves a thread to loads when prefetches wait, and lets a load overtake its prefetch', async () => {
    const pool = unruly({ threads: 1 });
    const conversion = Promise.allSettled([pool.convert(job('silent'))]);
    const file = (digest: string) => ({
      path: 'a',
      digest,
      fileBytes: 1,
      headerBytes: 1,
      verify: false,
    });
    const order: string[] = [];
    const prefetches = ['p1', 'p2'].map((digest) =>
      pool.open(file(digest), true).then(
        () => order.push(digest),
        () => order.push(`${digest} failed`),
      ),
    );
    await pool.open(file('load'));
    expect(order, 'background work has its one thread').toEqual([]);
    pool.expedite('p2');
    pool.expedite('unknown');
    await prefetches[1];
    expect(order).toEqual(['p2']);
    await pool.close();
    await Promise.all(prefetches);
    expect(order).toEqual(['p2', 'p1 failed']);
    expect(await conversion).toMatchObject([{ reason: code('shutting_down') }]);
  });

  it('are there before the first job, once the pool has lived a moment', async () => {
    let posted = 0;
    process.on('worker', () => posted++);
    poolOf();
    const early = unruly();
    await early.close();
    await expect.poll(() => posted).toBe(1);
    process.removeAllListeners('worker');
  });

  it('give way to the rest of the process', async () => {
    const niceness = () =>
      readdirSync('/proc/self/task').flatMap((id) => {
        try {
          return [getPriority(Number(id))];
        } catch {
          return []; // it ended meanwhile
        }
      });
    const expected = Math.min(19, getPriority() + 17);
    // A thread that ended is listed for a moment longer.
    await expect.poll(niceness).not.toContain(expected);
    await poolOf().convert(adapterJob());
    expect(niceness()).toContain(expected);
  });

  it('refuses jobs beyond its queue', async () => {
    const pool = unruly({ threads: 1, maxQueued: 2 });
    const running = pool.convert(job('silent'));
    const waiting = [pool.convert(job('a')), pool.convert(job('b'))];
    await expect(pool.convert(job('c'))).rejects.toThrow(code('queue_full'));
    const all = Promise.allSettled([running, ...waiting]);
    await pool.close();
    for (const outcome of await all)
      expect(outcome).toMatchObject({ reason: code('shutting_down') });
  });

  it('fails what waits or runs when it closes, and refuses more', async () => {
    const pool = unruly({ threads: 1 });
    const all = Promise.allSettled([pool.convert(job('silent')), pool.convert(job('a'))]);
    await pool.close();
    await pool.close();
    for (const outcome of await all)
      expect(outcome).toMatchObject({ reason: code('shutting_down') });
    await expect(pool.convert(job('b'))).rejects.toThrow(code('shutting_down'));
  });

  it('run compiled, and do not keep the process alive', () => {
    const repository = fileURLToPath(new URL('../../..', import.meta.url));
    const out = temp.join('compiled');
    mkdirSync(out);
    const tsc = path.join(repository, 'node_modules', '.bin', 'tsc');
    const config = temp.join('tsconfig.json');
    writeFileSync(
      config,
      JSON.stringify({
        extends: path.join(repository, 'tsconfig.build.json'),
        compilerOptions: {
          rootDir: path.join(repository, 'src'),
          outDir: out,
          typeRoots: [path.join(repository, 'node_modules', '@types')],
        },
        include: [],
        files: ['convert/pool.ts', 'convert/worker.ts'].map((file) =>
          path.join(repository, 'src', 'adapters', file),
        ),
      }),
    );
    execFileSync(tsc, ['-p', config], { stdio: 'inherit' });
    writeFileSync(path.join(out, 'package.json'), '{"type":"module"}');
    symlinkSync(path.join(repository, 'node_modules'), path.join(out, 'node_modules'));
    const each = adapterJob();
    const script = temp.join('compiled', 'run.mjs');
    const entry = pathToFileURL(path.join(out, 'adapters', 'convert', 'pool.js')).href;
    writeFileSync(
      script,
      `import { ConvertPool } from ${JSON.stringify(entry)};
       const pool = new ConvertPool({ modules: ${JSON.stringify(TINY_MODULES)}, threads: 1 });
       console.log((await pool.convert(${JSON.stringify(each)})).digest);`,
    );
    const digest = execFileSync(process.execPath, [script], { encoding: 'utf8' });
    expect(digest.trim()).toMatch(/^[0-9a-f]{64}$/);
    expect(existsSync(each.outPath)).toBe(true);
    expect(readdirSync(path.join(out, 'adapters', 'convert'))).toContain('worker.js');
  });
});
