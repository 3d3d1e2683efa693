/**
 * Composition below HTTP: model, native session, adapters, residency and engine.
 *
 * Built in this order and taken down in the reverse one. The native session goes after the last step
 * and the last adapter load, since both use its memory.
 */
import { randomUUID } from 'node:crypto';
import { copyFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import {
  type AdapterRegistry,
  type AdapterService,
  createAdapterService,
  createResidency,
  type FleetOptions,
  type ResidencyEvent,
  type SlotResidency,
} from './adapters/index.ts';
import { type ChatService, createChat, readTemplateFile } from './chat/chat-service.ts';
import { readModelChat } from './chat/model-templates.ts';
import {
  cacheDtype,
  KV_BLOCK_TOKENS,
  planKvCache,
  slotDtype,
  splitAdapter,
} from './config/relations.ts';
import type { Config } from './config/schema.ts';
import { createEngine, type RunningEngine } from './engine/index.ts';
import { LoramuxError, toLoramuxError } from './errors.ts';
import { createGrammars, GrammarPool, type Grammars, MaskMemory } from './grammar/index.ts';
import { type ImportedModel, importModel } from './importer/index.ts';
import { exists } from './importer/json-file.ts';
import { createNativeSession, type LoraDtype, SupervisedSession } from './native/index.ts';
import type { Teardown } from './teardown.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer/tokenizer.ts';

const MIB = 2 ** 20;
const ADAPTER_FILES = ['adapter_config.json', 'adapter_model.safetensors'];
/** Copied where they are. */
const CHAT_FILES = ['chat_template.jinja', 'tokenizer_config.json'];

export interface Runtime {
  /** The base's name in requests. */
  readonly modelName: string;
  readonly imported: ImportedModel;
  readonly tokenizer: Tokenizer;
  readonly chat: ChatService;
  readonly session: SupervisedSession;
  readonly grammars: Grammars;
  readonly grammarPool: GrammarPool;
  readonly adapters: AdapterRegistry;
  readonly residency: SlotResidency;
  readonly engine: RunningEngine;
}

export interface RuntimeHooks {
  /** Told what is being done while the server starts. */
  readonly onPhase?: (phase: string) => void;
  /** Something went wrong that no request can be told about. */
  readonly onWarning?: (message: string, error: unknown) => void;
  readonly onNotice?: (message: string) => void;
  /** Opens a native session; tests put their own faults around the real one. */
  readonly openSession?: typeof createNativeSession;
  /** Told of loads and evictions; must be quick. */
  readonly onResidency?: (event: ResidencyEvent) => void;
}

/** Registers the adapters of --adapter; their folders need not lie under the adapter root. */
export async function preloadAdapters(
  adapters: AdapterService,
  entries: readonly string[],
  signal?: AbortSignal,
): Promise<void> {
  for (const entry of entries) {
    if (signal?.aborted) throw new LoramuxError('shutting_down', 'The start was given up.');
    const { name, folder } = splitAdapter(entry);
    const copied = new Map<string, string>();
    const copy = async (file: string) => {
      const to = path.join(adapters.uploadDir, `${randomUUID()}-${file}`);
      await copyFile(path.join(folder, file), to);
      copied.set(file, to);
    };
    try {
      for (const file of ADAPTER_FILES) await copy(file);
      for (const file of CHAT_FILES) if (await exists(path.join(folder, file))) await copy(file);
    } catch (cause) {
      throw new LoramuxError(
        'config_invalid',
        `--adapter ${entry}: ${folder} must hold adapter_config.json and ` +
          `adapter_model.safetensors (${cause instanceof Error ? cause.message : String(cause)})`,
        { cause },
      );
    }
    const [configPath, weightsPath] = ADAPTER_FILES.map((file) => copied.get(file)!);
    const [chatTemplatePath, tokenizerConfigPath] = CHAT_FILES.map((file) => copied.get(file));
    try {
      // At every start again: a rollback or a split of the content must outlive it.
      await adapters.put(
        name,
        {
          kind: 'files',
          configPath: configPath!,
          weightsPath: weightsPath!,
          chatTemplatePath,
          tokenizerConfigPath,
        },
        { onlyNewContent: true },
      );
    } catch (thrown) {
      const error = toLoramuxError(thrown);
      throw new LoramuxError(error.code, `--adapter ${entry}: ${error.message}`, { cause: error });
    }
  }
}

/** The adapter registry and the slots of the session. */
async function openAdapters(
  config: Config,
  base: {
    modelName: string;
    imported: ImportedModel;
    session: SupervisedSession;
    loraDtype: LoraDtype;
  },
  hooks: Required<Pick<RuntimeHooks, 'onWarning' | 'onResidency'>>,
  teardown: Teardown,
): Promise<Pick<Runtime, 'adapters' | 'residency'>> {
  const { modelName, imported, session, loraDtype } = base;
  const { onWarning, onResidency } = hooks;
  const maxResidentBytes = config.adapterMemoryMb * MIB;
  const adapters = await createAdapterService({
    dataDir: path.resolve(config.dataDir),
    adapterRoot: config.adapterRoot,
    baseModelName: modelName,
    modules: imported.metadata.modules,
    maxResidentBytes,
    loraDtype,
    hostCacheBytes: config.hostCacheMb * MIB,
    maxAdapters: config.maxAdapters,
    maxGenerations: config.maxGenerations,
    maxAdapterBytes: config.maxAdapterMb * MIB,
    maxRank: config.maxLoraRank,
    maxArchiveEntries: config.maxArchiveEntries,
    sources: {
      remote: config.remoteSources,
      allowPrivate: config.allowPrivateSources,
      hubEndpoint: config.hubEndpoint,
      hubToken: config.hubToken,
      timeoutMs: config.sourceTimeoutMs,
    },
    fleet: fleetOf(config),
    onWarning,
  });
  teardown.add(() => adapters.close());

  const residency = createResidency({
    native: session,
    images: adapters,
    maxSlots: config.maxLoras,
    maxBytes: maxResidentBytes,
    loraDtype,
    maxConcurrentLoads: config.maxConcurrentLoads,
    onEvent: (event) => {
      onResidency(event);
      if (event.kind === 'load_failed' || event.kind === 'free_refused') {
        onWarning(`adapter ${event.digest}: ${event.kind}`, event.error);
      } else if (event.kind === 'pin_left_out') {
        onWarning(`adapter ${event.digest} is pinned and not kept resident`, event.reason);
      }
    },
  });
  // Before the session, whose memory the loads write.
  teardown.add(() => residency.close());
  // Before that, since loads may wait for a session that is being opened again.
  teardown.add(() => session.stop());
  // Before that, since loads may wait for a transfer from somebody who hangs.
  teardown.add(() => adapters.stop());
  const pin = () => residency.setPins(adapters.pinnedGenerations());
  adapters.onChange(pin);
  pin();
  return { adapters, residency };
}

/** The shared registry, if one is configured. */
function fleetOf(config: Config): FleetOptions | undefined {
  if (config.redisUrl === undefined) return undefined;
  return {
    redisUrl: config.redisUrl,
    prefix: config.redisPrefix,
    schemaVersion: config.redisSchemaVersion,
    atStart: config.redisAtStart,
    timeoutMs: config.redisTimeoutMs,
    waitReplicas: config.redisWaitReplicas,
    reconcileMs: config.registryReconcileMs,
    replicaTtlMs: config.replicaTtlMs,
    blobStore: config.blobStore,
    redisBlobBytes: config.redisBlobMb * MIB,
    blobGraceMs: config.blobGraceMs,
    diskCacheBytes: config.diskCacheMb * MIB,
    s3Endpoint: config.s3Endpoint,
    s3PathStyle: config.s3PathStyle,
  };
}

/** The chat templates of the model, or that of --chat-template. */
async function openChat(
  config: Config,
  modelDir: string,
  adapters: AdapterService,
): Promise<ChatService> {
  const model = await readModelChat(modelDir);
  const { chatTemplate: file, trustRequestChatTemplate: trustRequests } = config;
  if (file === undefined) return createChat({ model, trustRequests, adapters });
  const templates = await readTemplateFile(path.resolve(file));
  return createChat({ model: { ...model, templates }, trustRequests, adapters });
}

/** Why answers of this model cannot be constrained, if so. */
function refusalOf(imported: ImportedModel, tokenizer: Tokenizer): string | undefined {
  if (imported.metadata.eosTokenIds.length === 0) {
    return 'The model has no end-of-sequence token, so no answer of a given form could end.';
  }
  if (tokenizer.hasTokenBytes) return undefined;
  return "The model's tokenizer decodes in a way in which tokens have no bytes of their own.";
}

/**
 * Builds everything but HTTP; each part adds its end to `teardown`.
 * @throws LoramuxError; the caller runs the teardown
 */
export async function createRuntime(
  config: Config,
  hooks: RuntimeHooks,
  teardown: Teardown,
): Promise<Runtime> {
  const { onPhase = () => {}, onWarning = () => {}, onResidency = () => {} } = hooks;
  const { onNotice = () => {}, openSession = createNativeSession } = hooks;
  const modelDir = path.resolve(config.model);
  const modelName = config.servedModelName ?? path.basename(modelDir);
  onPhase('reading the model');
  const { weights, weightsGroupSize } = config;
  const imported = await importModel(modelDir, { weights, weightsGroupSize });
  const tokenizer = await loadTokenizer(modelDir);
  const shape = imported.metadata.config;
  const packing = { packedWeights: imported.native.packedWeights === true };
  const loraDtype = slotDtype(config.loraDtype, packing);
  const kvDtype = cacheDtype(config.kvDtype, packing);
  const { numBlocks, maxModelLen } = planKvCache(config, shape, kvDtype);
  const { maxTokensPerStep, maxLogitRowsPerStep, maxLoras } = config;

  const masks = new MaskMemory(shape.vocabSize, config.maxSequences);
  onPhase('loading the weights');
  const open = () =>
    openSession({
      model: imported.native,
      intraOpThreads: config.threads ?? availableParallelism(),
      numBlocks,
      blockSize: KV_BLOCK_TOKENS,
      kvDtype,
      maxSlots: maxLoras,
      loraDtype,
      maxTokensPerStep,
      maxLogitRowsPerStep,
      tokenMasks: {
        words: masks.words,
        slots: masks.slots,
        stride: masks.stride,
        waitMs: config.grammarMaskWaitMs,
      },
      ...(config.isa !== undefined && { isa: config.isa }),
    });
  const { stepTimeoutMs, maxSessionRestarts: maxRestarts } = config;
  const session = await SupervisedSession.start(open, {
    stepTimeoutMs,
    maxRestarts,
    onWarning,
    onNotice,
  });
  teardown.add(() => session.close());

  const grammarPool = new GrammarPool({
    setup: {
      modelDir,
      vocabSize: shape.vocabSize,
      stopTokenIds: imported.metadata.eosTokenIds,
    },
    masks,
    compileMsMax: config.grammarCompileMs,
    cachedMax: config.grammarCacheEntries,
    onWarning,
  });
  teardown.add(() => grammarPool.close());
  const grammars = createGrammars(grammarPool, refusalOf(imported, tokenizer));

  onPhase('opening the adapter store');
  const { adapters, residency } = await openAdapters(
    config,
    { modelName, imported, session, loraDtype },
    { onWarning, onResidency },
    teardown,
  );

  const chat = await openChat(config, modelDir, adapters);
  teardown.add(() => chat.close());
  const engine = createEngine(session, residency, {
    numBlocks,
    maxModelLen,
    blockSize: KV_BLOCK_TOKENS,
    maxSequences: config.maxSequences,
    maxTokensPerStep,
    maxLogitRowsPerStep,
    maxQueuedRequests: config.maxQueuedRequests,
    adapterWaitMsMax: config.adapterWaitMs,
    prefixCaching: config.prefixCaching,
    dynamicRopeMaxPositions: shape.rope.dynamic?.maxPositions,
    vocabSize: shape.vocabSize,
    masks: grammarPool,
    onDefect: (error) => onWarning('a listener of the engine threw', error),
  });
  teardown.add(() => engine.close());

  return {
    modelName,
    imported,
    tokenizer,
    chat,
    session,
    grammars,
    grammarPool,
    adapters,
    residency,
    engine,
  };
}
