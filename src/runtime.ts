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
  type AdapterService,
  createAdapterService,
  createResidency,
  type SlotResidency,
} from './adapters/index.ts';
import { KV_BLOCK_TOKENS, planKvCache, splitAdapter } from './config/relations.ts';
import type { Config } from './config/schema.ts';
import { createEngine, type RunningEngine } from './engine/index.ts';
import { LoramuxError, toLoramuxError } from './errors.ts';
import { type ImportedModel, importModel } from './importer/index.ts';
import { createNativeSession, type NativeSession } from './native/index.ts';
import type { Teardown } from './teardown.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer/tokenizer.ts';

const MIB = 2 ** 20;

export interface Runtime {
  /** The base's name in requests. */
  readonly modelName: string;
  readonly imported: ImportedModel;
  readonly tokenizer: Tokenizer;
  readonly session: NativeSession;
  readonly adapters: AdapterService;
  readonly residency: SlotResidency;
  readonly engine: RunningEngine;
}

export interface RuntimeHooks {
  /** Told what is being done while the server starts. */
  readonly onPhase?: (phase: string) => void;
  /** Something went wrong that no request can be told about. */
  readonly onWarning?: (message: string, error: unknown) => void;
}

/** Registers the adapters of --adapter; their folders need not lie under the adapter root. */
export async function preloadAdapters(
  adapters: AdapterService,
  entries: readonly string[],
): Promise<void> {
  for (const entry of entries) {
    const { name, folder } = splitAdapter(entry);
    const files = ['adapter_config.json', 'adapter_model.safetensors'].map((file) => ({
      from: path.join(folder, file),
      to: path.join(adapters.uploadDir, `${randomUUID()}-${file}`),
    }));
    try {
      for (const { from, to } of files) await copyFile(from, to);
    } catch (cause) {
      throw new LoramuxError(
        'config_invalid',
        `--adapter ${entry}: ${folder} must hold adapter_config.json and ` +
          `adapter_model.safetensors (${cause instanceof Error ? cause.message : String(cause)})`,
        { cause },
      );
    }
    const [configFile, weightsFile] = files;
    try {
      await adapters.put(name, {
        kind: 'files',
        configPath: configFile!.to,
        weightsPath: weightsFile!.to,
      });
    } catch (thrown) {
      const error = toLoramuxError(thrown);
      throw new LoramuxError(error.code, `--adapter ${entry}: ${error.message}`, { cause: error });
    }
  }
}

/** The adapter store and the slots of the session. */
async function openAdapters(
  config: Config,
  base: {
    modelName: string;
    imported: ImportedModel;
    session: NativeSession;
    onWarning: (message: string, error: unknown) => void;
  },
  teardown: Teardown,
): Promise<Pick<Runtime, 'adapters' | 'residency'>> {
  const { modelName, imported, session, onWarning } = base;
  const maxResidentBytes = config.adapterMemoryMb * MIB;
  const adapters = await createAdapterService({
    dataDir: path.resolve(config.dataDir),
    adapterRoot: config.adapterRoot,
    baseModelName: modelName,
    modules: imported.metadata.modules,
    maxResidentBytes,
    maxAdapters: config.maxAdapters,
    maxAdapterBytes: config.maxAdapterMb * MIB,
    maxRank: config.maxLoraRank,
    onWarning,
  });
  teardown.add(() => adapters.close());

  const residency = createResidency({
    native: session,
    images: adapters,
    maxSlots: config.maxLoras,
    maxBytes: maxResidentBytes,
    onEvent: (event) => {
      if (event.kind === 'load_failed' || event.kind === 'free_refused') {
        onWarning(`adapter ${event.digest}: ${event.kind}`, event.error);
      }
    },
  });
  // Before the session, whose memory the loads write.
  teardown.add(() => residency.close());

  return { adapters, residency };
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
  const { onPhase = () => {}, onWarning = () => {} } = hooks;
  const modelDir = path.resolve(config.model);
  const modelName = config.servedModelName ?? path.basename(modelDir);
  onPhase('reading the model');
  const imported = await importModel(modelDir);
  const tokenizer = await loadTokenizer(modelDir);
  const shape = imported.metadata.config;
  const { numBlocks, maxModelLen } = planKvCache(config, shape);
  const { maxTokensPerStep, maxLogitRowsPerStep, maxLoras } = config;

  onPhase('loading the weights');
  const session = await createNativeSession({
    model: imported.native,
    intraOpThreads: config.threads ?? availableParallelism(),
    numBlocks,
    blockSize: KV_BLOCK_TOKENS,
    kvDtype: config.kvDtype,
    maxSlots: maxLoras,
    maxTokensPerStep,
    maxLogitRowsPerStep,
    ...(config.isa !== undefined && { isa: config.isa }),
  });
  teardown.add(() => session.close());

  onPhase('opening the adapter store');
  const { adapters, residency } = await openAdapters(
    config,
    { modelName, imported, session, onWarning },
    teardown,
  );

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
    onDefect: (error) => onWarning('a listener of the engine threw', error),
  });
  teardown.add(() => engine.close());

  return { modelName, imported, tokenizer, session, adapters, residency, engine };
}
