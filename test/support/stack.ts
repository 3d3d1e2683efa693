/** The real stack without HTTP: importer, native session, adapter service, residency, engine. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type AdapterImages,
  type AdapterService,
  createAdapterService,
  createResidency,
  type ResidencyEvent,
  type SlotResidency,
} from '../../src/adapters/index.ts';
import {
  createEngine,
  type EngineHandle,
  type EngineOptions,
  engineViolations,
  type FinishEvent,
  type RunningEngine,
  type SamplingParams,
  type TokenLogprobs,
} from '../../src/engine/index.ts';
import { importModel, type WeightsMode } from '../../src/importer/index.ts';
import {
  createNativeSession,
  type Isa,
  type KvDtype,
  type LoraDtype,
  type NativeSession,
} from '../../src/native/index.ts';

export const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url));

export interface StackOptions {
  engine?: Partial<EngineOptions>;
  kvDtype?: KvDtype;
  maxSlots?: number;
  maxAdapterBytes?: number;
  threads?: number;
  isa?: Isa;
  /** Default float32, whatever the checkpoint has. */
  weights?: WeightsMode;
  /** Element type of adapters in slots; default float32. */
  loraDtype?: LoraDtype;
}

export interface Ask {
  prompt: readonly number[];
  /** Registered name; undefined is the base. */
  adapter?: string | undefined;
  scale?: number;
  /** Several with their weights, instead of one. */
  adapters?: readonly (readonly [name: string, weight: number])[];
  n?: number;
  sampling?: Partial<SamplingParams>;
}

export interface Answer {
  /** Per choice. */
  tokens: number[][];
  logprobs: TokenLogprobs[][];
  finishes: FinishEvent[];
  promptLogprobs: (TokenLogprobs | null)[] | undefined;
  cachedPromptTokens: number;
}

export interface Asked {
  handle: EngineHandle;
  answer: Promise<Answer>;
}

export const GREEDY: SamplingParams = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  seed: 1n,
  logitBias: undefined,
  maxTokens: 32,
  stopTokenIds: new Set<number>(),
  minTokens: 0,
  logprobs: 0,
  promptLogprobs: undefined,
};

export class Stack {
  readonly dataDir: string;
  readonly session: NativeSession;
  readonly adapters: AdapterService & AdapterImages;
  readonly residency: SlotResidency;
  readonly engine: RunningEngine;
  readonly events: ResidencyEvent[] = [];
  #asked = 0;

  private constructor(
    dataDir: string,
    session: NativeSession,
    adapters: AdapterService & AdapterImages,
    options: { maxSlots: number; maxBytes: number; loraDtype: LoraDtype; engine: EngineOptions },
  ) {
    this.dataDir = dataDir;
    this.session = session;
    this.adapters = adapters;
    this.residency = createResidency({
      native: session,
      images: adapters,
      maxSlots: options.maxSlots,
      maxBytes: options.maxBytes,
      loraDtype: options.loraDtype,
      onEvent: (event) => this.events.push(event),
    });
    this.engine = createEngine(session, this.residency, options.engine);
  }

  static async open(modelDir: string, options: StackOptions = {}): Promise<Stack> {
    const imported = await importModel(modelDir, { weights: options.weights ?? 'float32' });
    const { config } = imported.metadata;
    const engine: EngineOptions = {
      numBlocks: 512,
      maxModelLen: 512,
      maxSequences: 64,
      maxTokensPerStep: 512,
      maxLogitRowsPerStep: 256,
      dynamicRopeMaxPositions: config.rope.dynamic?.maxPositions,
      vocabSize: config.vocabSize,
      ...options.engine,
    };
    const maxSlots = options.maxSlots ?? 8;
    const maxBytes = options.maxAdapterBytes ?? 256 * 1024 ** 2;
    const loraDtype = options.loraDtype ?? 'float32';
    const dataDir = await mkdtemp(path.join(tmpdir(), 'loramux-stack-'));
    const session = await createNativeSession({
      model: imported.native,
      intraOpThreads: options.threads ?? 2,
      numBlocks: engine.numBlocks,
      blockSize: 16,
      kvDtype: options.kvDtype ?? 'f32',
      maxSlots,
      loraDtype,
      maxTokensPerStep: engine.maxTokensPerStep!,
      maxLogitRowsPerStep: engine.maxLogitRowsPerStep!,
      ...(options.isa === undefined ? {} : { isa: options.isa }),
    });
    const adapters = await createAdapterService({
      dataDir,
      adapterRoot: path.parse(dataDir).root,
      baseModelName: 'base',
      modules: imported.metadata.modules,
      maxResidentBytes: maxBytes,
      loraDtype,
    });
    return new Stack(dataDir, session, adapters, { maxSlots, maxBytes, loraDtype, engine });
  }

  async put(name: string, folder: string): Promise<void> {
    await this.adapters.put(name, { kind: 'directory', path: folder });
  }

  /** Submits without waiting. */
  ask(ask: Ask): Asked {
    const n = ask.n ?? 1;
    const one = ask.adapter === undefined ? [] : [[ask.adapter, ask.scale ?? 1] as const];
    const adapters = (ask.adapters ?? one).map(([name, weight]) => ({
      generation: this.adapters.resolve(name).generation,
      weight,
    }));
    const releases = adapters.map(({ generation }) => this.adapters.hold(generation));
    const answer: Answer = {
      tokens: Array.from({ length: n }, () => []),
      logprobs: Array.from({ length: n }, () => []),
      finishes: [],
      promptLogprobs: undefined,
      cachedPromptTokens: 0,
    };
    const { promise, resolve } = deferred<Answer>();
    const handle = this.engine.submit(
      {
        id: `ask-${this.#asked++}`,
        promptTokenIds: Int32Array.from(ask.prompt),
        adapters,
        sampling: { ...GREEDY, ...ask.sampling },
        n,
        cacheSalt: '',
        arrivalMs: performance.now(),
      },
      {
        onPromptLogprobs: (logprobs) => {
          answer.promptLogprobs = logprobs;
        },
        onToken: ({ index, tokenId, logprobs }) => {
          answer.tokens[index]!.push(tokenId);
          if (logprobs !== undefined) answer.logprobs[index]!.push(logprobs);
        },
        onFinish: (finish) => {
          answer.finishes.push(finish);
          if (answer.finishes.length < n) return;
          answer.cachedPromptTokens = handle.cachedPromptTokens;
          for (const release of releases) release();
          resolve(answer);
        },
      },
    );
    return { handle, answer: promise };
  }

  async askAll(asks: readonly Ask[]): Promise<Answer[]> {
    return Promise.all(asks.map((ask) => this.ask(ask).answer));
  }

  /** What must hold when nothing runs; empty when all is well. */
  async violations(): Promise<string[]> {
    await this.engine.idle();
    const found = [...engineViolations(this.engine.snapshot(), true)];
    const { blocksReferenced, running, waiting } = this.engine.stats();
    if (blocksReferenced !== 0) found.push(`${blocksReferenced} blocks are still referenced`);
    if (running + waiting !== 0) found.push(`${running} run and ${waiting} wait`);
    const { referenced } = this.residency.stats();
    if (referenced !== 0) found.push(`${referenced} adapters are still referenced`);
    return found;
  }

  async close(): Promise<void> {
    await this.engine.close();
    await this.residency.close();
    await this.session.close();
    await this.adapters.close();
    await rm(this.dataDir, { recursive: true, force: true });
  }
}

function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => undefined;
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
