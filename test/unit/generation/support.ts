/** A generator over the fake engine and a tokenizer whose tokens are single characters. */
import type { AdapterRecord } from '../../../src/adapters/types.ts';
import { LoramuxError } from '../../../src/errors.ts';
import type { Outcome } from '../../../src/generation/generation-run.ts';
import { createGenerator, type GeneratorLimits } from '../../../src/generation/generator.ts';
import type {
  Generation,
  GenerationEvent,
  GenerationRequest,
} from '../../../src/generation/types.ts';
import type { Tokenizer } from '../../../src/tokenizer/tokenizer.ts';
import type { FakeEngine } from '../../support/fake-engine.ts';
import { FakeGrammars } from '../../support/fake-grammars.ts';

export const EOS = 0;

/** Token id = character code; 0 is the end-of-sequence token, which has no text. */
export const characters: Tokenizer = {
  vocabSize: 256,
  encode: async (text) => Int32Array.from(text, (char) => char.charCodeAt(0)),
  decode: async (ids) => Array.from(ids, (id) => String.fromCharCode(id)).join(''),
  spelling: (id) => (id < 256 ? `<${id}>` : undefined),
  hasTokenBytes: true,
  tokenBytes: (id) => (id === EOS ? undefined : Uint8Array.of(id)),
  tokenText: (id) => (id === EOS ? '<eos>' : String.fromCharCode(id)),
  createDetokenizer: ({ skipSpecialTokens }) => ({
    push: (id) => (id === EOS ? (skipSpecialTokens ? '' : '<eos>') : String.fromCharCode(id)),
    flush: () => '',
  }),
};

export const codes = (text: string) => Array.from(text, (char) => char.charCodeAt(0));

export const record = (name: string): AdapterRecord => ({
  name,
  generation: { digest: name.padEnd(64, '0'), rank: 8, residentBytes: 1024 },
  createdAt: 1_700_000_000,
  source: 'upload',
  targetModules: ['q_proj', 'v_proj'],
  fileBytes: 2048,
  revision: 1,
  updatedAt: 1_700_000_000,
  pinned: false,
  split: undefined,
  numGenerations: 1,
});

export interface Harness {
  readonly engine: FakeEngine;
  readonly grammars: FakeGrammars;
  readonly held: { count: number };
  readonly outcomes: Outcome[];
  /** Digests of adapters that were to be brought nearer. */
  readonly prefetched: string[];
  start(request: Partial<GenerationRequest>, signal?: AbortSignal): Promise<Generation>;
  run(request: Partial<GenerationRequest>): Promise<GenerationEvent[]>;
}

export const request = (partial: Partial<GenerationRequest>): GenerationRequest => ({
  model: 'base',
  adapter: { kind: 'model', weight: 1 },
  prompts: [{ kind: 'text', text: 'Q' }],
  n: 1,
  echo: false,
  addSpecialTokens: true,
  skipSpecialTokens: true,
  stop: [],
  includeStopInOutput: false,
  ignoreEos: false,
  stopTokenIds: [],
  cacheSalt: '',
  ...partial,
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
    maxTokens: 16,
    minTokens: 0,
    logprobs: undefined,
    ...partial.sampling,
  },
});

export async function drain(generation: Generation): Promise<GenerationEvent[]> {
  const all: GenerationEvent[] = [];
  for (;;) {
    const events = await generation.next();
    if (events === undefined) return all;
    all.push(...events);
  }
}

export function harness(
  engine: FakeEngine,
  limits: Partial<GeneratorLimits> = {},
  recordOf: (name: string) => AdapterRecord = record,
): Harness {
  const grammars = new FakeGrammars();
  const held = { count: 0 };
  const outcomes: Outcome[] = [];
  const prefetched: string[] = [];
  const generator = createGenerator({
    model: { name: 'base', vocabSize: 256, eosTokenIds: [EOS] },
    tokenizer: characters,
    engine,
    grammars,
    adapters: {
      resolve: (name) => {
        if (name.startsWith('adapter-')) return recordOf(name);
        throw new LoramuxError('adapter_not_found', name);
      },
      resolveGeneration: (digest) => {
        throw new LoramuxError('generation_not_found', digest);
      },
      hold: () => {
        held.count += 1;
        return () => {
          held.count -= 1;
        };
      },
    },
    prefetch: ({ digest }) => {
      prefetched.push(digest);
    },
    limits: { maxChoices: 8, streamBufferBytes: 1 << 20, ...limits },
    observe: () => ({
      prompt() {},
      scheduled() {},
      token() {},
      end: (outcome) => outcomes.push(outcome),
    }),
  });
  const start: Harness['start'] = (partial, signal = new AbortController().signal) =>
    generator.start(request(partial), signal);
  return {
    engine,
    grammars,
    held,
    outcomes,
    prefetched,
    start,
    run: async (partial) => drain(await start(partial)),
  };
}

export const textOf = (events: readonly GenerationEvent[], index = 0): string =>
  events.map((e) => (e.type !== 'error' && e.index === index ? e.text : '')).join('');
