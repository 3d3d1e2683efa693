/** Batches of equal requests through the engine, timed step by step. */
import { GREEDY, type Stack } from '../test/support/stack.ts';
import { median } from './statistics.ts';

export interface BatchShape {
  readonly promptTokens: number;
  readonly outputTokens: number;
}

export interface BatchTimes {
  /** From the submission until every request has its first token. */
  readonly promptMs: number;
  /** Each later step: from one token of every request to the next of every request. */
  readonly stepMs: readonly number[];
  /** Generated tokens by row. */
  readonly tokens: readonly (readonly number[])[];
}

/** A prompt of token ids that differ from row to row. */
export function promptOf(row: number, length: number, vocabSize: number): Int32Array {
  return Int32Array.from({ length }, (_, i) => (300 + row * 131 + i * 17) % vocabSize);
}

/**
 * Submits one request for each adapter name (undefined: the base) at once and waits for the end.
 */
export async function runBatch(
  stack: Stack,
  rows: readonly (string | undefined)[],
  { promptTokens, outputTokens }: BatchShape,
  vocabSize: number,
): Promise<BatchTimes> {
  const steps = new Array<number>(outputTokens).fill(0);
  const tokens = rows.map((): number[] => []);
  const start = performance.now();
  await Promise.all(
    rows.map((adapter, row) =>
      request(stack, adapter, promptOf(row, promptTokens, vocabSize), outputTokens, (tokenId) => {
        const now = performance.now();
        const index = tokens[row]!.push(tokenId) - 1;
        steps[index] = Math.max(steps[index]!, now);
      }),
    ),
  );
  return {
    promptMs: steps[0]! - start,
    stepMs: steps.slice(1).map((end, i) => end - steps[i]!),
    tokens,
  };
}

/** Decode steps of the whole batch, tokens per second at the median step. */
export function decodeRate(times: BatchTimes): number {
  return (times.tokens.length * 1000) / median(times.stepMs);
}

/** One request through the engine; resolves when it ends. */
export function request(
  stack: Stack,
  adapter: string | undefined,
  promptTokenIds: Int32Array,
  maxTokens: number,
  onToken: (tokenId: number) => void,
): Promise<void> {
  const record = adapter === undefined ? undefined : stack.adapters.resolve(adapter);
  const release = record === undefined ? undefined : stack.adapters.hold(record.generation);
  return new Promise((resolve, reject) => {
    stack.engine.submit(
      {
        id: `bench-${Math.random()}`,
        promptTokenIds,
        adapters: record === undefined ? [] : [{ generation: record.generation, weight: 1 }],
        sampling: { ...GREEDY, logprobs: undefined, maxTokens, minTokens: maxTokens },
        n: 1,
        cacheSalt: '',
        arrivalMs: performance.now(),
      },
      {
        onToken: ({ tokenId }) => onToken(tokenId),
        onFinish: ({ error }) => {
          release?.();
          if (error === undefined) resolve();
          else reject(error);
        },
      },
    );
  });
}
