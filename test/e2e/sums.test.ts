/**
 * Weighted sums of adapters in the whole stack: against PEFT, and the same bits whatever the order of
 * the list and whatever runs beside them.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseSafetensorsHeader } from '../../src/importer/index.ts';
import { maxAbsDifference } from '../support/native-generate.ts';
import { type Ask, FIXTURES, Stack, type StackOptions } from '../support/stack.ts';
import { BLOCK_SIZE, type ChunkSpec, packStep } from '../support/step-packets.ts';

interface SumCase {
  readonly adapters: readonly { readonly name: string; readonly weight: number }[];
  readonly promptIds: number[];
  readonly greedyIds: number[];
  readonly logits: string;
}

const MODEL = 'llama3';
/** The bar for float32 logits. */
const LOGIT_ERROR_MAX = 1e-4;
const cases: SumCase[] = JSON.parse(
  readFileSync(path.join(FIXTURES, 'goldens', 'sums.json'), 'utf8'),
).cases;
const names = [...new Set(cases.flatMap(({ adapters }) => adapters.map(({ name }) => name)))];
const LENT = ['qv-r4', 'all-r8-rslora', 'pattern-r16'];

const folderOf = (name: string) =>
  path.join(FIXTURES, LENT.includes(name) ? 'adapters' : 'sums', MODEL, name);

async function openStack(options: StackOptions = {}): Promise<Stack> {
  const stack = await Stack.open(path.join(FIXTURES, 'models', MODEL), {
    maxSlots: names.length,
    ...options,
  });
  for (const name of names) await stack.put(name, folderOf(name));
  return stack;
}

/** Brings all adapters in, so that requests for them meet in one step. */
const warm = (stack: Stack) =>
  stack.askAll(names.map((adapter) => ({ prompt: [1], adapter, sampling: { maxTokens: 1 } })));

function goldenLogits(tensor: string): Float32Array {
  const bytes = readFileSync(path.join(FIXTURES, 'goldens', 'sums.safetensors'));
  const { begin, end } = parseSafetensorsHeader(bytes, bytes.length).tensors.get(tensor)!;
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset + begin, bytes.byteOffset + end));
}

const askFor = ({ adapters, promptIds, greedyIds }: SumCase): Ask => ({
  prompt: promptIds,
  adapters: adapters.map(({ name, weight }) => [name, weight] as const),
  sampling: { maxTokens: greedyIds.length, logprobs: 2 },
});

describe('sums of 2 to 8 adapters', () => {
  let stack: Stack;
  beforeAll(async () => {
    stack = await openStack();
  });
  afterAll(() => stack?.close());

  it('are those of PEFT, in one step with each other, single adapters and the base', async () => {
    expect(cases.map(({ adapters }) => adapters.length)).toEqual([2, 3, 5, 8]);
    const slots = new Map<string, number>();
    await warm(stack);
    const { generations } = resolved(stack, names);
    for (const [i, slot] of (stack.residency.tryAcquire(generations) as number[]).entries()) {
      slots.set(names[i]!, slot);
    }
    const chunks = cases.map(({ adapters, promptIds }, i): ChunkSpec => {
      const blocksEach = Math.ceil(promptIds.length / BLOCK_SIZE);
      return {
        tokens: promptIds,
        cached: 0,
        blocks: Array.from({ length: blocksEach }, (_, k) => i * blocksEach + k),
        adapters: adapters.map(({ name, weight }) => [slots.get(name)!, weight] as const),
        rows: promptIds.map((_, at) => ({ at })),
      };
    });
    const [, second] = chunks;
    const beside = [{ adapters: [] }, { adapters: [[slots.get('qv-r4')!, 1] as const] }].map(
      (one, i): ChunkSpec => ({ ...second!, ...one, blocks: [40 + 2 * i, 41 + 2 * i], rows: [] }),
    );
    const { logits } = await stack.session.step(packStep([...beside, ...chunks]), true);
    let offset = 0;
    for (const { adapters, logits: tensor } of cases) {
      const expected = goldenLogits(tensor);
      const got = logits!.subarray(offset, offset + expected.length);
      offset += expected.length;
      const label = `${adapters.length} adapters`;
      expect(maxAbsDifference(got, expected), label).toBeLessThanOrEqual(LOGIT_ERROR_MAX);
    }
    stack.residency.release(generations);
  });

  it('generate the tokens of PEFT, all together', async () => {
    await warm(stack);
    const single = names.map((adapter): Ask => ({ prompt: [5, 6, 7], adapter }));
    const answers = await stack.askAll([...cases.map(askFor), ...single, { prompt: [5, 6, 7] }]);
    for (const [i, { adapters, greedyIds }] of cases.entries()) {
      expect(answers[i]!.tokens[0], `${adapters.length} adapters`).toEqual(greedyIds);
    }
    expect(stack.engine.stats().maxAdaptersInOneStep).toBe(names.length);
    expect(await stack.violations()).toEqual([]);
  });
});

function resolved(stack: Stack, all: readonly string[]) {
  return { generations: all.map((name) => stack.adapters.resolve(name).generation) };
}

type Part = readonly [name: string, weight: number];

const listOf = (ask: Ask) => ask.adapters as unknown as [Part, Part, ...Part[]];

describe('the order of a list', () => {
  it('changes neither bits nor what is in the cache', async () => {
    const stack = await openStack();
    const last = cases.at(-1)!;
    // Longer than a block, so that there is something to share.
    const ask = askFor(last);
    const [first] = await stack.askAll([ask]);
    expect(first!.cachedPromptTokens).toBe(0);
    const reversed = await stack.ask({ ...ask, adapters: [...ask.adapters!].reverse() }).answer;
    expect(reversed.cachedPromptTokens).toBe(BLOCK_SIZE);
    // Bit by bit, also where nothing comes from the cache.
    const alone = await openStack({ engine: { prefixCaching: false } });
    const again = await alone.ask({ ...ask, adapters: [...ask.adapters!].reverse() }).answer;
    expect(reversed.tokens).toEqual(first!.tokens);
    expect(again.logprobs).toEqual(first!.logprobs);
    // The same sum with an adapter in two parts.
    const [[name, weight], ...others] = listOf(ask);
    const halves = [...others, [name, weight / 2], [name, weight / 2]] as const;
    const split = await alone.ask({ ...ask, adapters: halves }).answer;
    expect(split.logprobs).toEqual(first!.logprobs);
    await alone.close();
    await stack.close();
  });

  it('and other weights are another sum', async () => {
    const stack = await openStack();
    const ask = askFor(cases[0]!);
    const [[one, first], [two, second]] = listOf(ask);
    const sums: NonNullable<Ask['adapters']>[] = [
      listOf(ask),
      [
        [one, first + 1e-3],
        [two, second],
      ],
      [[two, second]],
      [
        [two, first],
        [one, second],
      ],
    ];
    const answers = [];
    for (const adapters of sums) answers.push(await stack.ask({ ...ask, adapters }).answer);
    for (const { cachedPromptTokens } of answers) expect(cachedPromptTokens).toBe(0);
    const seen = new Set(answers.map(({ logprobs }) => JSON.stringify(logprobs)));
    expect(seen.size).toBe(sums.length);
    await stack.close();
  });
});
