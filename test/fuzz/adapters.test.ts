/**
 * Damaged and hostile adapters through the whole service: each gets a 4xx and leaves nothing behind.
 * What is accepted all the same must be what an independent reading of the files calls a sound
 * adapter with the same targets: a flipped bit of a tensor, of a name nobody reads, of alpha.
 *
 * LORAMUX_FUZZ_SEED repeats or varies a run; LORAMUX_FUZZ_CASES makes it longer.
 */
import { readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PEFT_LORA_FIELDS } from '../../src/adapters/formats/peft-fields.ts';
import { type AdapterService, createAdapterService } from '../../src/adapters/index.ts';
import { LoramuxError } from '../../src/errors.ts';
import {
  loraConfig,
  loraTensors,
  safetensors,
  TempDir,
  TINY_MODULES,
} from '../support/adapter-files.ts';
import { type AdapterFiles, headerBytes, MUTATIONS } from '../support/adapter-mutations.ts';
import { Random } from '../support/random.ts';

const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 20_260_821);
const CASES = Number(process.env.LORAMUX_FUZZ_CASES ?? 2_000);

const TENSORS = loraTensors();
const GOOD: AdapterFiles = {
  config: Buffer.from(
    JSON.stringify(
      loraConfig(
        {},
        {
          base_model_name_or_path: 'some/base',
          lora_dropout: 0.05,
          revision: null,
          use_dora: false,
        },
      ),
    ),
  ),
  weights: safetensors(TENSORS),
};

const temp = new TempDir();
let service: AdapterService;
beforeAll(async () => {
  service = await createAdapterService({
    dataDir: temp.path,
    baseModelName: 'base',
    modules: TINY_MODULES,
    maxResidentBytes: 1e6,
    maxAdapterBytes: 1e6,
    convertThreads: 1,
  });
});
afterAll(async () => {
  await service.close();
  temp.remove();
});

function leftovers(): string[] {
  return ['blobs', 'names', 'tmp', 'uploads'].flatMap((folder) =>
    readdirSync(temp.join('adapters', folder)).map((file) => `${folder}/${file}`),
  );
}

/** Registers the files; returns the error, or undefined when they were accepted. */
async function put(files: AdapterFiles): Promise<unknown> {
  try {
    await service.put('fuzz', uploadOf(files));
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Whether a plain reading finds the expected tensors, finite, covering the file. GOOD's scale is 2. */
function soundWeights(weights: Buffer, scaleOfB = 2): boolean {
  const start = 8 + headerBytes(weights);
  const header = JSON.parse(weights.subarray(8, start).toString()) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const { __metadata__: _, ...tensors } = header;
  const stem = (name: string) => name.replace(/\.lora_([AB])\.[^.]+\.weight$/, '.lora_$1.weight');
  const names = Object.keys(tensors).map(stem);
  if (new Set(names).size !== TENSORS.length || names.length !== TENSORS.length) return false;
  const covered = new Uint8Array(weights.length - start);
  for (const expected of TENSORS) {
    const entry = tensors[Object.keys(tensors).find((name) => stem(name) === expected.name) ?? ''];
    if (entry === undefined || entry.dtype !== 'F32') return false;
    if (String(entry.shape) !== String(expected.shape)) return false;
    const [begin, end] = entry.data_offsets;
    const scale = expected.name.includes('lora_B') ? scaleOfB : 1;
    if (end - begin !== expected.bytes.length) return false;
    for (let at = begin; at < end; at++) covered[at]!++;
    for (let at = begin; at < end; at += 4) {
      // Scaled too, since the scale is folded into lora_B.
      if (!Number.isFinite(Math.fround(weights.readFloatLE(start + at) * scale))) return false;
    }
  }
  return covered.every((count) => count === 1);
}

/** Whether a plain reading finds a config that gives every module rank 2. */
function soundConfig(bytes: Buffer): boolean {
  const config = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  const ranks = Object.values(config.rank_pattern ?? {});
  const neutral = (value: unknown) =>
    value === undefined || value === null || value === false || String(value) === '';
  return (
    config.peft_type === 'LORA' &&
    ['CAUSAL_LM', null, undefined].includes(config.task_type) &&
    (config.r === 2 || ranks.length > 0) &&
    [...config.target_modules].sort().join() === 'q_proj,v_proj' &&
    Number.isFinite(config.lora_alpha ?? 8) &&
    neutral(config.use_dora) &&
    neutral(config.modules_to_save) &&
    neutral(config.target_parameters) &&
    neutral(config.arrow_config) &&
    (config.bias ?? 'none') === 'none' &&
    Object.keys(config).every((field) => Object.hasOwn(PEFT_LORA_FIELDS, field))
  );
}

describe('fuzzed adapters', () => {
  it('begin from one that is accepted', async () => {
    expect(await put(GOOD)).toBeUndefined();
    await service.remove('fuzz');
    expect(leftovers()).toEqual([]);
  });

  it(`${CASES} mutations, seed ${SEED}`, async () => {
    const kinds = Object.keys(MUTATIONS);
    const accepted = new Map<string, number>();
    for (let i = 0; i < CASES; i++) {
      const random = new Random(SEED + i);
      const kind = kinds[i % kinds.length]!;
      const files = MUTATIONS[kind]!(GOOD, random);
      const context = `${kind}, case ${i}, seed ${SEED}`;
      const error = await put(files);
      if (error === undefined) {
        accepted.set(kind, (accepted.get(kind) ?? 0) + 1);
        expect(soundWeights(files.weights, 0), context).toBe(true);
        expect(soundConfig(files.config), context).toBe(true);
        await service.remove('fuzz');
      } else {
        expect(error, context).toBeInstanceOf(LoramuxError);
        const { status, code } = error as LoramuxError;
        expect(status, `${context}: ${code} ${error}`).toBeGreaterThanOrEqual(400);
        expect(status, `${context}: ${code} ${error}`).toBeLessThan(500);
        if (kind === 'bits of the data') expect(soundWeights(files.weights), context).toBe(false);
      }
      expect(service.stats(), context).toMatchObject({ names: 0, generations: 0, pendingPuts: 0 });
    }
    await service.put('last', uploadOf(GOOD));
    await service.remove('last');
    expect(leftovers()).toEqual([]);
    // These can never be sound.
    for (const kind of ['weights cut off', 'weights extended', 'hostile length', 'overlap']) {
      expect(accepted.get(kind), kind).toBeUndefined();
    }
    expect(accepted.get('bits of the data')).toBeGreaterThan(10);
  });
});

function uploadOf({ config, weights }: AdapterFiles) {
  const configPath = path.join(service.uploadDir, 'config');
  const weightsPath = path.join(service.uploadDir, 'weights');
  writeFileSync(configPath, config);
  writeFileSync(weightsPath, weights);
  return { kind: 'files' as const, configPath, weightsPath };
}
