/** What becomes of each tensor of a checkpoint that is being packed. */
import { LoramuxError } from '../../errors.ts';
import type { FloatDtype, PackResult } from '../../native/addon-types.ts';
import { packWeights } from '../../native/pack.ts';
import type { TensorSpec } from '../safetensors/writer.ts';
import type { PackedSpec, Packing } from '../types.ts';
import {
  adaptableLinears,
  EMBEDDING,
  expectedTensors,
  hasOwnLmHead,
  hasQuantizedLmHead,
  type LinearSpec,
  lmHeadLinear,
  packedName,
  packedTensor,
} from '../weights.ts';
import { PANEL_COLUMNS, packedBytes, packedShape } from './format.ts';
import { levelsOf, packLevelsOf } from './levels.ts';
import { CHUNK_BYTES, type CheckpointSource } from './source.ts';

export interface Job {
  /** The tensor it makes. */
  spec: TensorSpec;
  sourceBytes: number;
  label: string;
  /** Its bytes, in order. */
  run(context: JobContext): AsyncGenerator<Uint8Array>;
}

export interface JobContext {
  source: CheckpointSource;
  threads: number;
  /** Levels of -128 that became -127 so far. */
  clamped: number;
}

/** Blobs first: their sizes are multiples of 64, so all of them lie on 64 bytes. */
export function planJobs(source: CheckpointSource, packing: Packing): Job[] {
  const { config, checkpoint } = source.model;
  const { tensors } = checkpoint;
  const levels = config.quantization !== undefined;
  const jobs: Job[] = [];
  const taken = new Set<string>();
  for (const spec of adaptableLinears(config)) {
    jobs.push(
      levels ? levelsJob(source, spec, packing.linears) : floatJob(source, spec, packing.linears),
    );
    for (const name of levelsOf(spec, tensors)) taken.add(name);
    taken.add(`${spec.path}.weight`);
  }
  const head = lmHeadLinear(config);
  if (levels && hasQuantizedLmHead(tensors)) {
    jobs.push(levelsJob(source, head, packing.lmHead));
  } else {
    const own = hasOwnLmHead(config, tensors);
    jobs.push(floatJob(source, head, packing.lmHead, own ? `${head.path}.weight` : EMBEDDING));
  }
  for (const name of levelsOf(head, tensors)) taken.add(name);
  taken.add(`${head.path}.weight`);
  for (const { name } of expectedTensors(config, tensors)) {
    if (!taken.has(name) && tensors.has(name)) jobs.push(copyJob(source, name));
  }
  return jobs;
}

function copyJob(source: CheckpointSource, name: string): Job {
  const { dtype, shape } = source.tensor(name);
  return {
    spec: { name, dtype, shape },
    sourceBytes: source.bytes(name),
    label: name,
    run: () => source.chunks(name),
  };
}

function blobSpec(spec: LinearSpec, packed: PackedSpec): TensorSpec {
  const { shape } = packedTensor(spec, packed);
  return { name: packedName(spec.path), dtype: 'U8', shape };
}

/** A piece is read while the one before is packed. */
function floatJob(
  source: CheckpointSource,
  spec: LinearSpec,
  packed: PackedSpec,
  name = `${spec.path}.weight`,
): Job {
  const dtype = source.tensor(name).dtype as FloatDtype;
  return {
    spec: blobSpec(spec, packed),
    sourceBytes: source.bytes(name),
    label: spec.path,
    async *run({ threads }) {
      const shape = packedShape(packed, spec);
      const blob = new Uint8Array(packedBytes(shape));
      const rowBytes = source.bytes(name) / shape.n;
      const panelBytes = rowBytes * PANEL_COLUMNS;
      const chunkBytes = panelBytes * Math.max(1, Math.floor(CHUNK_BYTES / panelBytes));
      let packing: Promise<PackResult> | undefined;
      let firstRow = 0;
      for await (const weights of source.chunks(name, chunkBytes)) {
        if (packing !== undefined) refuseNonFinite(await packing, name);
        const rows = weights.byteLength / rowBytes;
        packing = packWeights({ shape, weights, dtype, firstRow, rows, blob, threads });
        // Looked at in the next round; should reading fail first, that is the error.
        packing.catch(() => {});
        firstRow += rows;
      }
      if (packing !== undefined) refuseNonFinite(await packing, name);
      yield blob;
    },
  };
}

function levelsJob(source: CheckpointSource, spec: LinearSpec, packed: PackedSpec): Job {
  const names = levelsOf(spec, source.model.checkpoint.tensors);
  return {
    spec: blobSpec(spec, packed),
    sourceBytes: names.reduce((sum, name) => sum + source.bytes(name), 0),
    label: spec.path,
    async *run(context) {
      yield await packLevelsOf(context, spec, packedShape(packed, spec));
    },
  };
}

function refuseNonFinite({ finite }: PackResult, name: string): void {
  if (finite) return;
  throw new LoramuxError(
    'model_weights_invalid',
    `${name} has NaN, infinite or too large values; it cannot be packed.`,
  );
}
