/**
 * The canonical adapter file: a safetensors file whose bytes depend on the adapter's content alone.
 * Tensors `layers.<L>.<module>.A` [rank, in] and `.B` [out, rank] come sorted by layer, module and
 * letter; `__metadata__.loramux` holds the canonical JSON (sorted keys, no spaces); the header is
 * padded with spaces so that the data begins on 64 bytes. A generation's digest is the SHA-256 of
 * the whole file, so `sha256sum` checks one. docs/adapters.md describes the format.
 */
import { createHash } from 'node:crypto';
import { LoramuxError } from '../../errors.ts';
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from '../../importer/json.ts';
import type { SafetensorsHeader } from '../../importer/safetensors/header.ts';
import type { ModuleDescription } from '../../importer/types.ts';
import {
  type AdapterTensorPair,
  LORA_MODULES,
  type LoraDtype,
  type LoraModule,
} from '../../native/addon-types.ts';

export const CANONICAL_VERSION = 1;
/** Bytes of the JSON header of any adapter file; 1,000 adapted modules take about 300 KB. */
export const MAX_ADAPTER_HEADER_BYTES = 8 * 1024 * 1024;
const METADATA_KEY = 'loramux';
const ALIGNMENT = 64;
const LENGTH_BYTES = 8;

export type CanonicalDtype = AdapterTensorPair['dtype'];
export const CANONICAL_DTYPE_BYTES: Readonly<Record<CanonicalDtype, number>> = {
  F32: 4,
  F16: 2,
  BF16: 2,
};

/** One low-rank pair of an adapter. */
export interface CanonicalModule {
  readonly layer: number;
  /** Index into LORA_MODULES. */
  readonly module: number;
  readonly rank: number;
  readonly scale: number;
  readonly dtype: CanonicalDtype;
  readonly inFeatures: number;
  readonly outFeatures: number;
}

export interface CanonicalHeader {
  /** Length field and JSON, a multiple of 64 bytes. */
  readonly bytes: Buffer;
  readonly fileBytes: number;
}

/** Digest over the shapes of every adaptable module: adapters of one base fit no other shape. */
export function baseShapesDigest(modules: readonly ModuleDescription[]): string {
  const hash = createHash('sha256');
  for (const { path, layer, module, inFeatures, outFeatures } of modules) {
    if (layer === undefined || module === undefined) continue;
    hash.update(`${path} ${layer} ${module} ${inFeatures} ${outFeatures}\n`);
  }
  return hash.digest('hex');
}

/** How adapters lie in slots: kernels/include/loramux/lora_weights.h. */
const SLOT_LAYOUT: Readonly<
  Record<
    LoraDtype,
    {
      readonly elementBytes: number;
      /** What inputs of A, and ranks and outputs of B, are padded to a multiple of. */
      readonly inputs: number;
      readonly ranks: number;
      readonly outputs: number;
      /** Inputs or outputs that share a float32 scale per rank; without end where there is none. */
      readonly group: number;
    }
  >
> = {
  float32: { elementBytes: 4, inputs: 1, ranks: 1, outputs: 1, group: Infinity },
  bfloat16: { elementBytes: 2, inputs: 32, ranks: 2, outputs: 16, group: Infinity },
  int8: { elementBytes: 1, inputs: 64, ranks: 4, outputs: 16, group: 1024 },
};
const SCALE_BYTES = 4;

/** Bytes the pairs take in adapter memory, each tensor with its scales on a multiple of 64 bytes. */
export function residentBytesOf(modules: readonly CanonicalModule[], dtype: LoraDtype): number {
  const layout = SLOT_LAYOUT[dtype];
  const upTo = (count: number, multiple: number): number => Math.ceil(count / multiple) * multiple;
  const bytes = (ranks: number, features: number, multiple: number): number => {
    const scales = layout.group === Infinity ? 0 : Math.ceil(features / layout.group) * SCALE_BYTES;
    return upTo(ranks * (upTo(features, multiple) * layout.elementBytes + scales), ALIGNMENT);
  };
  return modules.reduce(
    (sum, { rank, inFeatures, outFeatures }) =>
      sum +
      bytes(rank, inFeatures, layout.inputs) +
      bytes(upTo(rank, layout.ranks), outFeatures, layout.outputs),
    0,
  );
}

/**
 * @param modules sorted by layer, then module
 * @param metadata what else the file keeps, by keys in order
 */
export function buildCanonicalHeader(
  modules: readonly CanonicalModule[],
  base: string,
  metadata: Readonly<Record<string, string>> = {},
): CanonicalHeader {
  const manifest = {
    base,
    modules: modules.map((m) => ({
      in: m.inFeatures,
      layer: m.layer,
      module: LORA_MODULES[m.module],
      out: m.outFeatures,
      rank: m.rank,
      scale: m.scale,
    })),
    version: CANONICAL_VERSION,
  };
  const json: Record<string, unknown> = {
    __metadata__: { [METADATA_KEY]: JSON.stringify(manifest), ...metadata },
  };
  let offset = 0;
  for (const m of modules) {
    for (const [name, shape] of tensorsOf(m)) {
      const end = offset + shape[0] * shape[1] * CANONICAL_DTYPE_BYTES[m.dtype];
      json[name] = { dtype: m.dtype, shape, data_offsets: [offset, end] };
      offset = end;
    }
  }
  const text = JSON.stringify(json);
  const unpadded = LENGTH_BYTES + Buffer.byteLength(text);
  const bytes = Buffer.alloc(Math.ceil(unpadded / ALIGNMENT) * ALIGNMENT, ' ');
  bytes.writeBigUInt64LE(BigInt(bytes.length - LENGTH_BYTES), 0);
  bytes.write(text, LENGTH_BYTES);
  return { bytes, fileBytes: bytes.length + offset };
}

function tensorsOf(m: CanonicalModule): [name: string, shape: [number, number]][] {
  const stem = `layers.${m.layer}.${LORA_MODULES[m.module]}`;
  return [
    [`${stem}.A`, [m.rank, m.inFeatures]],
    [`${stem}.B`, [m.outFeatures, m.rank]],
  ];
}

/**
 * The load plan of a canonical file.
 * @throws LoramuxError store_corrupt when the header is not one that buildCanonicalHeader wrote for
 *   this base.
 */
export function readCanonicalPairs(header: SafetensorsHeader, base: string): AdapterTensorPair[] {
  const manifest = parseManifest(header);
  if (manifest.version !== CANONICAL_VERSION) throw corrupt('its version is not known');
  if (manifest.base !== base) throw corrupt('it was made for a base model of another shape');
  const list = manifest.modules;
  if (!Array.isArray(list)) throw corrupt('its module list is missing');
  if (list.length * 2 !== header.tensors.size) throw corrupt('its tensors are not those it lists');
  return list.map((entry) => {
    const layer = count(entry, 'layer');
    const rank = count(entry, 'rank');
    const name = isJsonObject(entry) ? entry.module : undefined;
    const module = LORA_MODULES.indexOf(name as LoraModule);
    const scale = isJsonObject(entry) ? entry.scale : undefined;
    if (module < 0 || typeof scale !== 'number') throw corrupt('its module list is malformed');
    const shape = { inFeatures: count(entry, 'in'), outFeatures: count(entry, 'out') };
    const [a, b] = tensorsOf({ layer, module, rank, scale, dtype: 'F32', ...shape }).map(
      ([tensorName, expected]) => {
        const tensor = header.tensors.get(tensorName);
        if (tensor === undefined || String(tensor.shape) !== String(expected)) {
          throw corrupt(`tensor ${tensorName} is missing or misshapen`);
        }
        return tensor;
      },
    );
    const dtype = a!.dtype;
    if (dtype !== b!.dtype || !isCanonicalDtype(dtype)) throw corrupt('a dtype is not allowed');
    return { layer, module, rank, scale, dtype, offsetA: a!.begin, offsetB: b!.begin };
  });
}

/** Element types an adapter may have. */
export function isCanonicalDtype(dtype: string): dtype is CanonicalDtype {
  return Object.hasOwn(CANONICAL_DTYPE_BYTES, dtype);
}

function parseManifest(header: SafetensorsHeader): JsonObject {
  let manifest: JsonValue;
  try {
    manifest = parseJson(header.metadata.get(METADATA_KEY) ?? '');
  } catch (cause) {
    throw corrupt('its metadata is not JSON', cause);
  }
  if (!isJsonObject(manifest)) throw corrupt('its metadata is not an object');
  return manifest;
}

function count(entry: JsonValue, field: string): number {
  const value = isJsonObject(entry) ? entry[field] : undefined;
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw corrupt(`its module list has no valid ${field}`);
  }
  return value;
}

function corrupt(what: string, cause?: unknown): LoramuxError {
  return new LoramuxError(
    'store_corrupt',
    `A stored adapter file is damaged: ${what}. Upload the adapter again.`,
    cause === undefined ? {} : { cause },
  );
}
