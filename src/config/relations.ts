/** What must hold between limits, and what follows from them once the model is known. */
import { LoramuxError } from '../errors.ts';
import type { KvDtype, LoraDtype } from '../native/addon-types.ts';
import type { Config } from './schema.ts';

export const KV_BLOCK_TOKENS = 16;
export const KV_CACHE_MB_DEFAULT = 512;
/**
 * Without a size of its own, the cache of a small model ends at this many times what a full batch of
 * longest sequences takes: room to keep prefixes, without memory that can never pay.
 */
export const KV_CACHE_BATCHES_DEFAULT = 4;

const MIB = 2 ** 20;

function refuse(message: string): never {
  throw new LoramuxError('config_invalid', message);
}

/** @throws LoramuxError config_invalid */
export function checkRelations(config: Config): void {
  const { maxSequences } = config;
  if (config.maxTokensPerStep < maxSequences) {
    refuse(
      `--max-tokens-per-step is ${config.maxTokensPerStep}, less than ` +
        `--max-sequences, ${maxSequences}: every running sequence needs a token per step; raise one or ` +
        'lower the other',
    );
  }
  if (config.maxLogitRowsPerStep < maxSequences) {
    refuse(
      `--max-logit-rows-per-step is ${config.maxLogitRowsPerStep}, less than ` +
        `--max-sequences, ${maxSequences}: every running sequence needs a row per step`,
    );
  }
  if (config.kvCacheMb !== undefined && config.numBlocks !== undefined) {
    refuse('--kv-cache-mb and --num-blocks both set the size of the KV cache; give one of them');
  }
  if (config.maxAdapterMb > config.adapterMemoryMb) {
    refuse(
      `--max-adapter-mb is ${config.maxAdapterMb}, more than ` +
        `--adapter-memory-mb, ${config.adapterMemoryMb}: such an adapter could be uploaded but never run`,
    );
  }
  if (config.headersTimeoutMs > config.requestTimeoutMs) {
    refuse(
      '--headers-timeout-ms is more than --request-timeout-ms; the headers are part of the request',
    );
  }
  for (const adapter of config.adapter) splitAdapter(adapter);
  checkFleet(config);
}

/** What only a shared registry uses must not be given without one. */
function checkFleet(config: Config): void {
  const { redisUrl, blobStore, s3Endpoint, s3PathStyle } = config;
  if (redisUrl === undefined) {
    const needsRedis = [
      [config.redisAtStart !== 'wait', '--redis-at-start'],
      [config.redisWaitReplicas > 0, '--redis-wait-replicas'],
      [blobStore !== 'redis', '--blob-store'],
    ] as const;
    for (const [given, flag] of needsRedis) {
      if (given) refuse(`${flag} is for a registry in Redis; give --redis too, or leave it out`);
    }
  } else if (!/^rediss?:\/\/./.test(redisUrl)) {
    refuse('--redis (or LORAMUX_REDIS_URL) must begin with redis:// or rediss://');
  }
  if ((s3Endpoint !== undefined || s3PathStyle) && !blobStore.startsWith('s3://')) {
    refuse('--s3-endpoint and --s3-path-style are for a --blob-store s3://BUCKET/PREFIX');
  }
  if (config.replicaTtlMs < 2 * config.registryReconcileMs) {
    refuse(
      `--replica-ttl-ms is ${config.replicaTtlMs}, less than twice --registry-reconcile-ms, ` +
        `${config.registryReconcileMs}: replicas would vanish between two signs of life`,
    );
  }
  if (redisUrl !== undefined && config.maxAdapterMb > config.diskCacheMb) {
    refuse(
      `--max-adapter-mb is ${config.maxAdapterMb}, more than --disk-cache-mb, ` +
        `${config.diskCacheMb}: such an adapter could never be fetched`,
    );
  }
  if (blobStore === 'redis' && redisUrl !== undefined && config.maxAdapterMb > config.redisBlobMb) {
    refuse(
      `--max-adapter-mb is ${config.maxAdapterMb}, more than --redis-blob-mb, ` +
        `${config.redisBlobMb}: such an adapter could not be shared; raise one, lower the other, ` +
        'or choose another --blob-store',
    );
  }
}

/** NAME=FOLDER in two. @throws LoramuxError config_invalid */
export function splitAdapter(value: string): { name: string; folder: string } {
  const at = value.indexOf('=');
  if (at <= 0 || at === value.length - 1) {
    refuse(`--adapter (or LORAMUX_ADAPTER) is ${JSON.stringify(value)}; it must be NAME=FOLDER`);
  }
  return { name: value.slice(0, at), folder: value.slice(at + 1) };
}

/** What the size of the KV cache depends on. */
export interface KvShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  readonly maxPositionEmbeddings: number;
  /** Dynamic rope scaling stretches the trained length by its factor. */
  readonly rope?: { readonly dynamic?: { readonly factor: number } };
}

/** Element type of adapters in slots, as `--lora-dtype` has it. */
export function slotDtype(
  loraDtype: Config['loraDtype'],
  { packedWeights }: { packedWeights: boolean },
): LoraDtype {
  if (loraDtype !== 'auto') return loraDtype;
  return packedWeights ? 'bfloat16' : 'float32';
}

/** Element type of the KV cache, as `--kv-dtype` has it. */
export function cacheDtype(
  kvDtype: Config['kvDtype'],
  { packedWeights }: { packedWeights: boolean },
): KvDtype {
  if (kvDtype !== 'auto') return kvDtype;
  return packedWeights ? 'bf16' : 'f32';
}

export interface KvPlan {
  readonly numBlocks: number;
  readonly maxModelLen: number;
}

const KV_ELEMENT_BYTES = { f32: 4, bf16: 2, int8: 1 } as const;
/** Scale of one token of one head, keys or values; see KvHeadBytes in paged_attention.h. */
const KV_SCALE_BYTES = { f32: 0, bf16: 0, int8: 4 } as const;

/** Bytes of one block: keys and values of 16 tokens in all layers. */
export function kvBlockBytes(shape: KvShape, kvDtype: KvDtype): number {
  const headBytes = shape.headSize * KV_ELEMENT_BYTES[kvDtype] + KV_SCALE_BYTES[kvDtype];
  return 2 * shape.numLayers * shape.numKvHeads * KV_BLOCK_TOKENS * headBytes;
}

/** Block count and context length for a model. @throws LoramuxError config_invalid */
export function planKvCache(config: Config, shape: KvShape, kvDtype: KvDtype): KvPlan {
  const blockBytes = kvBlockBytes(shape, kvDtype);
  const cacheMb = config.kvCacheMb ?? KV_CACHE_MB_DEFAULT;
  const fitting = Math.floor((cacheMb * MIB) / blockBytes);
  const positions = Math.floor(shape.maxPositionEmbeddings * (shape.rope?.dynamic?.factor ?? 1));
  const longest = Math.ceil((config.maxModelLen ?? positions) / KV_BLOCK_TOKENS);
  const useful =
    config.kvCacheMb === undefined
      ? KV_CACHE_BATCHES_DEFAULT * config.maxSequences * longest
      : Number.POSITIVE_INFINITY;
  // Slot numbers are int32.
  const slotsMax = Math.floor((2 ** 31 - 1) / KV_BLOCK_TOKENS);
  const numBlocks = Math.min(config.numBlocks ?? Math.min(fitting, useful), slotsMax);
  if (numBlocks < 1) {
    refuse(
      `--kv-cache-mb is ${cacheMb}, but one block of 16 tokens takes ` +
        `${Math.ceil(blockBytes / MIB)} MiB for this model; raise it`,
    );
  }
  const capacity = numBlocks * KV_BLOCK_TOKENS;
  const { maxModelLen } = config;
  if (maxModelLen === undefined) {
    return { numBlocks, maxModelLen: Math.min(positions, capacity) };
  }
  if (maxModelLen > positions) {
    refuse(`--max-model-len is ${maxModelLen}, but the model is made for ${positions} positions`);
  }
  if (maxModelLen > capacity) {
    refuse(
      `--max-model-len is ${maxModelLen}, but the KV cache holds ${capacity} tokens; raise ` +
        `--kv-cache-mb to ${Math.ceil((Math.ceil(maxModelLen / KV_BLOCK_TOKENS) * blockBytes) / MIB)} or lower it`,
    );
  }
  return { numBlocks, maxModelLen };
}
