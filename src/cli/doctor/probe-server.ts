/** A runtime without HTTP on a temporary data folder, for checks that ask a model. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { loadConfig } from '../../config/load.ts';
import { toLoramuxError } from '../../errors.ts';
import { createGenerator } from '../../generation/generator.ts';
import type { GenerationRequest, Prompt } from '../../generation/types.ts';
import { createRuntime, preloadAdapters } from '../../runtime.ts';
import { Teardown } from '../../teardown.ts';

export interface Question {
  readonly prompt: Prompt;
  /** null asks the base. */
  readonly adapter: string | null;
  readonly maxTokens: number;
}

export interface Answer {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly logprobs: readonly number[];
}

/** Answers all questions at once, greedily, end-of-sequence tokens included. */
export type Ask = (questions: readonly Question[]) => Promise<Answer[]>;

const NO_OBSERVER = { prompt() {}, scheduled() {}, token() {}, end() {} };

function requestOf(question: Question, model: string): GenerationRequest {
  return {
    model,
    adapter:
      question.adapter === null
        ? { kind: 'model', weight: 1 }
        : { kind: 'one', ref: { by: 'name', name: question.adapter }, weight: 1 },
    prompts: [question.prompt],
    n: 1,
    echo: false,
    addSpecialTokens: true,
    skipSpecialTokens: true,
    stop: [],
    includeStopInOutput: false,
    ignoreEos: question.prompt.kind === 'tokens',
    stopTokenIds: [],
    cacheSalt: '',
    sampling: {
      temperature: 0,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      seed: undefined,
      logitBias: undefined,
      maxTokens: question.maxTokens,
      minTokens: 0,
      logprobs: 0,
    },
  };
}

/**
 * Loads a model with adapters (`name=folder`), runs `work`, and takes everything down.
 * @throws LoramuxError when it cannot be loaded, and what `work` throws
 */
export async function withModel<T>(
  model: string,
  adapters: readonly string[],
  work: (ask: Ask) => Promise<T>,
): Promise<T> {
  const dataDir = await mkdtemp(path.join(tmpdir(), 'loramux-doctor-'));
  const teardown = new Teardown();
  teardown.add(() => rm(dataDir, { recursive: true, force: true }));
  try {
    // The known answers are float32's.
    const flags = {
      model,
      dataDir,
      servedModelName: 'base',
      numBlocks: '1024',
      weights: 'float32',
    };
    const runtime = await createRuntime(loadConfig({ flags, env: {} }), {}, teardown);
    await preloadAdapters(runtime.adapters, adapters);
    const { metadata } = runtime.imported;
    const generator = createGenerator({
      model: {
        name: 'base',
        vocabSize: metadata.config.vocabSize,
        eosTokenIds: metadata.eosTokenIds,
      },
      tokenizer: runtime.tokenizer,
      adapters: runtime.adapters,
      prefetch: (generation) => runtime.residency.prefetch(generation),
      engine: runtime.engine,
      grammars: runtime.grammars,
      limits: { maxChoices: 1, streamBufferBytes: Number.MAX_SAFE_INTEGER },
      observe: () => NO_OBSERVER,
    });
    const one = async (question: Question): Promise<Answer> => {
      const answer = { text: '', tokenIds: [] as number[], logprobs: [] as number[] };
      const { signal } = new AbortController();
      const generation = await generator.start(requestOf(question, 'base'), signal);
      for (;;) {
        const events = await generation.next();
        if (events === undefined) return answer;
        for (const event of events) {
          if (event.type === 'error') throw event.error;
          answer.text += event.text;
          if (event.type !== 'token') continue;
          answer.tokenIds.push(event.tokenId);
          answer.logprobs.push(event.logprobs?.logprob ?? Number.NaN);
        }
      }
    };
    return await work((questions) => Promise.all(questions.map(one)));
  } catch (error) {
    throw toLoramuxError(error);
  } finally {
    await teardown.run();
  }
}
