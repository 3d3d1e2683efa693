/** Native sessions on the fixture models, and adapter images straight from PEFT's own files. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { importModel, parseSafetensorsHeader } from '../../src/importer/index.ts';
import {
  type AdapterImage,
  type AdapterTensorPair,
  type CreateNativeSessionOptions,
  createNativeSession,
  LORA_MODULES,
  type NativeModel,
  type NativeSession,
} from '../../src/native/index.ts';
import { BLOCK_SIZE } from './step-packets.ts';

const fixtures = fileURLToPath(new URL('../fixtures/', import.meta.url));

export interface GoldenCase {
  adapter: string | null;
  prompt: string;
  promptIds: number[];
  greedyIds: number[];
  greedyLogprobs: number[];
  logits: string;
}

export async function fixtureModel(name: string): Promise<NativeModel> {
  return (await importModel(`${fixtures}models/${name}`, { weights: 'float32' })).native;
}

export async function fixtureOptions(
  name: string,
  overrides: Partial<CreateNativeSessionOptions> = {},
): Promise<CreateNativeSessionOptions> {
  return {
    model: await fixtureModel(name),
    intraOpThreads: 2,
    numBlocks: 64,
    blockSize: BLOCK_SIZE,
    kvDtype: 'f32',
    maxSlots: 4,
    maxTokensPerStep: 512,
    maxLogitRowsPerStep: 256,
    ...overrides,
  };
}

export async function fixtureSession(
  name: string,
  overrides: Partial<CreateNativeSessionOptions> = {},
): Promise<NativeSession> {
  return createNativeSession(await fixtureOptions(name, overrides));
}

export function goldenCases(name: string): GoldenCase[] {
  const json = JSON.parse(readFileSync(`${fixtures}goldens/${name}.json`, 'utf8'));
  return json.cases as GoldenCase[];
}

/** float32 [rows, vocab], flattened. */
export function goldenLogits(name: string, tensor: string): Float32Array {
  const bytes = readFileSync(`${fixtures}goldens/${name}.safetensors`);
  const entry = parseSafetensorsHeader(bytes, bytes.length).tensors.get(tensor)!;
  return new Float32Array(
    bytes.buffer.slice(bytes.byteOffset + entry.begin, bytes.byteOffset + entry.end),
  );
}

/**
 * A PEFT adapter whose modules all have the config's rank and alpha (no patterns): its tensors are
 * already laid out as the kernels want them.
 */
export function fixtureImage(model: string, adapter: string): AdapterImage {
  const folder = `${fixtures}adapters/${model}/${adapter}`;
  const path = `${folder}/adapter_model.safetensors`;
  const config = JSON.parse(readFileSync(`${folder}/adapter_config.json`, 'utf8'));
  const bytes = readFileSync(path);
  const { tensors } = parseSafetensorsHeader(bytes, bytes.length);
  const pairs: AdapterTensorPair[] = [];
  for (const [name, a] of tensors) {
    const match = /layers\.(\d+)\.\w+\.(\w+)\.lora_A\.weight$/.exec(name);
    if (match === null) continue;
    const rank = a.shape[0]!;
    pairs.push({
      layer: Number(match[1]),
      module: (LORA_MODULES as readonly string[]).indexOf(match[2]!),
      rank,
      scale: config.lora_alpha / (config.use_rslora ? Math.sqrt(rank) : rank),
      dtype: a.dtype as AdapterTensorPair['dtype'],
      offsetA: a.begin,
      offsetB: tensors.get(name.replace('lora_A', 'lora_B'))!.begin,
    });
  }
  return { path, fileBytes: bytes.length, pairs };
}
