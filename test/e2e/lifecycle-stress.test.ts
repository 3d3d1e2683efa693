/**
 * Adapters come, change and go while requests for them run: two slots and memory for two adapters,
 * twelve names that are registered, replaced and removed at random, requests with several choices,
 * some cancelled. Every request ends, with the tokens its generation gives alone, and nothing is
 * left behind.
 */
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AdapterGeneration } from '../../src/adapters/types.ts';
import { LoramuxError } from '../../src/errors.ts';
import { Random } from '../support/random.ts';
import { type Answer, type Ask, FIXTURES, Stack, type StackOptions } from '../support/stack.ts';

const MODEL = 'qwen3';
const TRAINED = ['qv-r4', 'all-r8-rslora', 'pattern-r16'];
/** Each trained adapter with several alphas: as many contents as names. */
const ALPHAS = [4, 9, 16, 25];
const NAMES = Array.from({ length: 12 }, (_, i) => `team/${i}`);
const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 20_261_123);
const REQUESTS = 400;
/** Requests in flight: more than the batch takes, so that some wait while names change. */
const IN_FLIGHT_MAX = 40;
const PROMPTS = 6;
const SCALES = [1, 0.5];
const TOKENS = 24;

/** Writes the contents below `dir`; returns their folders. */
async function writeContents(dir: string): Promise<string[]> {
  const folders: string[] = [];
  for (const name of TRAINED) {
    const from = path.join(FIXTURES, 'adapters', MODEL, name);
    const config = JSON.parse(await readFile(path.join(from, 'adapter_config.json'), 'utf8'));
    for (const alpha of ALPHAS) {
      const folder = path.join(dir, `${name}-alpha${alpha}`);
      await mkdir(folder);
      const weights = 'adapter_model.safetensors';
      await copyFile(path.join(from, weights), path.join(folder, weights));
      const text = JSON.stringify({ ...config, lora_alpha: alpha });
      await writeFile(path.join(folder, 'adapter_config.json'), text);
      folders.push(folder);
    }
  }
  return folders;
}

const openStack = (options: StackOptions) =>
  Stack.open(path.join(FIXTURES, 'models', MODEL), options);

interface Planned {
  ask: Ask;
  /** Which answer it must give: content (or base), prompt, scale, sampling. */
  promptIndex: number;
}

function sampling(promptIndex: number): NonNullable<Ask['sampling']> {
  return { maxTokens: TOKENS, temperature: promptIndex % 2 === 1 ? 0.8 : 0, seed: 77n };
}

describe(`adapters change while requests run (seed ${SEED})`, () => {
  const random = new Random(SEED);
  const prompts = Array.from({ length: PROMPTS }, (_, i) =>
    Array.from({ length: 5 + 9 * i }, () => random.int(4, 303)),
  );
  /** Tokens of three choices by digest (or base), scale and prompt; asked alone. */
  const alone = new Map<string, number[][]>();
  const keyOf = (digest: string | undefined, scale: number, promptIndex: number) =>
    `${digest ?? 'base'} ${scale} ${promptIndex}`;
  let budget = 0;
  let dir = '';
  let contents: string[] = [];
  let stack: Stack;

  beforeAll(async () => {
    dir = await mkdtemp(path.join(tmpdir(), 'loramux-stress-'));
    contents = await writeContents(dir);
    const reference = await openStack({ engine: { prefixCaching: false } });
    const names = contents.map((folder) => path.basename(folder));
    for (const [i, name] of names.entries()) await reference.put(name, contents[i]!);
    for (const adapter of [undefined, ...names]) {
      const generation = adapter === undefined ? undefined : reference.adapters.resolve(adapter);
      for (const scale of adapter === undefined ? [1] : SCALES) {
        for (const [i, prompt] of prompts.entries()) {
          const answer = await reference.ask({
            prompt,
            adapter,
            scale,
            n: 3,
            sampling: sampling(i),
          }).answer;
          alone.set(keyOf(generation?.generation.digest, scale, i), answer.tokens);
        }
      }
    }
    const sizes = names.map((name) => reference.adapters.resolve(name).generation.residentBytes);
    // The two largest fit, three never do.
    budget = sizes
      .sort((x, y) => y - x)
      .slice(0, 2)
      .reduce((sum, bytes) => sum + bytes, 0);
    await reference.close();
    stack = await openStack({
      maxSlots: 2,
      maxAdapterBytes: budget,
      // Small: choices are preempted, and requests pass each other only for a moment.
      engine: { numBlocks: 10, maxModelLen: 96, maxSequences: 12, adapterWaitMsMax: 30 },
    });
  });
  afterAll(async () => {
    await stack?.close();
    await rm(dir, { recursive: true, force: true });
  });

  function plan(registered: readonly string[]): Planned {
    const promptIndex = random.int(0, PROMPTS - 1);
    const adapter =
      registered.length === 0 || random.chance(0.15) ? undefined : random.pick(registered);
    return {
      promptIndex,
      ask: {
        prompt: prompts[promptIndex]!,
        adapter,
        scale: adapter === undefined ? 1 : random.pick(SCALES),
        n: random.chance(0.3) ? random.int(2, 3) : 1,
        sampling: sampling(promptIndex),
      },
    };
  }

  function check(planned: Planned, generation: AdapterGeneration | undefined, answer: Answer) {
    const { ask, promptIndex } = planned;
    const expected = alone.get(keyOf(generation?.digest, ask.scale ?? 1, promptIndex))!;
    const label = `${ask.adapter ?? 'base'} prompt ${promptIndex}`;
    expect(answer.finishes, label).toHaveLength(ask.n ?? 1);
    for (const { index, reason, error } of answer.finishes) {
      expect(error, label).toBeUndefined();
      expect(['length', 'cancelled'], label).toContain(reason);
      const tokens = answer.tokens[index]!;
      // A cancelled choice has the beginning of the same tokens.
      expect(tokens, label).toEqual(expected[index]!.slice(0, tokens.length));
      if (reason === 'length') expect(tokens.length, label).toBe(TOKENS);
    }
  }

  it('every request ends with its own tokens, and nothing is left', async () => {
    const inFlight = new Set<Promise<void>>();
    const writes = new Set<Promise<void>>();
    let numCancelled = 0;
    const write = (work: Promise<unknown>) => {
      // Two removals of one name may meet; the second finds nothing.
      const done = work.then(
        () => undefined,
        (error: unknown) => {
          if (!(error instanceof LoramuxError) || error.code !== 'adapter_not_found') throw error;
        },
      );
      const tracked = done.finally(() => writes.delete(tracked));
      writes.add(tracked);
    };
    for (const name of NAMES) await stack.put(name, random.pick(contents));
    for (let i = 0; i < REQUESTS; i++) {
      if (random.chance(0.15)) write(stack.put(random.pick(NAMES), random.pick(contents)));
      if (random.chance(0.08)) write(stack.adapters.remove(random.pick(NAMES)));
      const registered = NAMES.filter((name) => stack.adapters.get(name) !== undefined);
      if (registered.length === 0) write(stack.put(NAMES[0]!, contents[0]!));
      const planned = plan(registered);
      const { adapter } = planned.ask;
      const generation =
        adapter === undefined ? undefined : stack.adapters.resolve(adapter).generation;
      const { handle, answer } = stack.ask(planned.ask);
      const done = answer.then((got) => check(planned, generation, got));
      const tracked = done.finally(() => inFlight.delete(tracked));
      inFlight.add(tracked);
      if (random.chance(0.2)) {
        numCancelled += 1;
        // Before it runs, while it runs, or after it ended.
        const after = random.int(0, 3);
        void (async () => {
          for (let turn = 0; turn < after * 20; turn++) await new Promise(setImmediate);
          handle.cancel();
        })();
      }
      if (inFlight.size >= IN_FLIGHT_MAX || random.chance(0.05)) await Promise.race(inFlight);
    }
    await Promise.all(inFlight);
    await Promise.all(writes);
    expect(numCancelled).toBeGreaterThan(0);
    expect(await stack.violations()).toEqual([]);
    const { evictions, loadFailures, residentBytes } = stack.residency.stats();
    expect(evictions).toBeGreaterThan(10);
    expect(loadFailures).toBe(0);
    expect(residentBytes).toBeLessThanOrEqual(budget);
    expect(stack.engine.stats().preemptions).toBeGreaterThan(0);
    expect(stack.adapters.stats().holds).toBe(0);

    // Without names nothing keeps a generation: neither its file nor its slot.
    for (const name of NAMES) {
      if (stack.adapters.get(name) !== undefined) await stack.adapters.remove(name);
    }
    expect(stack.adapters.stats()).toMatchObject({ names: 0, generations: 0, holds: 0 });
    expect(stack.residency.stats()).toMatchObject({ resident: 0, residentBytes: 0, waiting: 0 });
  });
});
