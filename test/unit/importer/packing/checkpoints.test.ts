/** GPTQ and AWQ checkpoints, written by the tools' own code (test/fixtures/make/quantized.py). */
import { createHash } from 'node:crypto';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { importModel } from '../../../../src/importer/import.ts';
import type { JsonObject } from '../../../../src/importer/json.ts';
import { packModel } from '../../../../src/importer/packing/pack-model.ts';
import { readSafetensorsHeader } from '../../../../src/importer/safetensors/header.ts';
import { SafetensorsWriter } from '../../../../src/importer/safetensors/writer.ts';
import type { PackedSpec } from '../../../../src/importer/types.ts';
import { halfToFloat, unpackBlob } from '../../../support/packed-blob.ts';

const FIXTURES = fileURLToPath(new URL('../../../fixtures/quantized/', import.meta.url));

let root = '';
let number = 0;
const fresh = () => join(root, String(number++));
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'loramux-levels-'));
});
afterAll(async () => {
  await rm(root, { recursive: true });
});

/** A copy of a fixture whose tensors and quantization_config may be changed. */
async function changed(
  name: string,
  change: (tensors: Map<string, Buffer>, config: JsonObject) => void,
): Promise<string> {
  const dir = fresh();
  await cp(join(FIXTURES, name), dir, { recursive: true });
  const weights = join(dir, 'model.safetensors');
  const bytes = await readFile(weights);
  const { tensors } = await readSafetensorsHeader(weights);
  const data = new Map(
    [...tensors].map(([key, { begin, end }]) => [key, Buffer.from(bytes.subarray(begin, end))]),
  );
  const path = join(dir, 'config.json');
  const config = JSON.parse(await readFile(path, 'utf8')) as JsonObject;
  change(data, config.quantization_config as JsonObject);
  await writeFile(path, JSON.stringify(config));
  const specs = [...data.keys()].map((key) => {
    const found = tensors.get(key);
    return found === undefined
      ? { name: key, dtype: 'F16' as const, shape: [data.get(key)!.length / 2] }
      : { name: key, ...found };
  });
  const writer = await SafetensorsWriter.create(weights, specs);
  for (const { name: key } of specs) await writer.write(data.get(key)!);
  await writer.close();
  return dir;
}

/** [out, in] of the fixtures' linear layers. */
const SIZES: Record<string, [number, number]> = {
  q_proj: [64, 64],
  k_proj: [32, 64],
  v_proj: [32, 64],
  o_proj: [64, 64],
  gate_proj: [96, 64],
  up_proj: [96, 64],
  down_proj: [64, 96],
};

async function readTensors(dir: string): Promise<Map<string, Buffer>> {
  const path = join(dir, 'model.safetensors');
  const bytes = await readFile(path);
  const { tensors } = await readSafetensorsHeader(path);
  return new Map([...tensors].map(([name, t]) => [name, bytes.subarray(t.begin, t.end)]));
}

const digestOf = (weights: Float32Array<ArrayBuffer>): string =>
  createHash('sha256').update(new Uint8Array(weights.buffer)).digest('hex');

/** SHA-256 of every linear layer's weights, float32 [out, in], as the packed directory has them. */
async function digests(dir: string, spec: PackedSpec): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const [name, blob] of await readTensors(dir)) {
    const stem = name.replace(/\.packed$/, '');
    const size = SIZES[stem.split('.').at(-1)!];
    if (stem !== name && size !== undefined)
      found[stem] = digestOf(unpackBlob(blob, spec, ...size));
  }
  return found;
}

async function expectedDigests(name: string): Promise<Record<string, string>> {
  const text = await readFile(join(FIXTURES, name, 'expected.json'), 'utf8');
  return JSON.parse(text) as Record<string, string>;
}

describe('GPTQ and AWQ checkpoints', () => {
  it.each([
    ['gptq-4bit', { format: 'int4', groupSize: 32, zeroPoints: false }],
    ['gptq-4bit-zeros', { format: 'int4', groupSize: 32, zeroPoints: true }],
    // One group: as long as the longest input, rounded up.
    ['gptq-4bit-column', { format: 'int4', groupSize: 256, zeroPoints: true }],
    ['awq', { format: 'int4', groupSize: 32, zeroPoints: true }],
  ] as const)('%s keeps its weights to the bit', async (name, spec) => {
    const result = await packModel(join(FIXTURES, name), fresh(), {});
    expect(result).toMatchObject({ written: true, clampedLevels: 0 });
    expect(result.packing.linears).toEqual(spec);
    const head = { format: 'int8', groupSize: 256, zeroPoints: false, rotated: true };
    expect(result.packing.lmHead).toEqual(head);
    expect(await digests(result.dir, spec)).toEqual(await expectedDigests(name));
    expect((await importModel(result.dir)).metadata.weights).toBe('int4');
  });

  it('keeps levels of 8 bits, but for those of -128, which it counts', async () => {
    const spec = { format: 'int8', groupSize: 32, zeroPoints: false } as const;
    const source = join(FIXTURES, 'gptq-8bit');
    const result = await packModel(source, fresh(), { format: 'int8' });
    expect(result.packing).toEqual({ linears: spec, lmHead: spec });

    const before = await readTensors(source);
    const after = await readTensors(result.dir);
    let clamped = 0;
    for (const [path, digest] of Object.entries(await expectedDigests('gptq-8bit'))) {
      const [rows, inputs] = SIZES[path.split('.').at(-1)!]!;
      const levels = before.get(`${path}.qweight`)!;
      const exact = new Float32Array(rows * inputs);
      const kept = new Float32Array(rows * inputs);
      for (let row = 0; row < rows; row++) {
        for (let i = 0; i < inputs; i++) {
          // One byte an input, four inputs of an output side by side.
          const level = levels[((i >> 2) * rows + row) * 4 + (i & 3)]! - 128;
          const scale = before.get(`${path}.scales`)!.readUInt16LE(2 * ((i >> 5) * rows + row));
          exact[row * inputs + i] = level * halfToFloat(scale);
          kept[row * inputs + i] = Math.max(level, -127) * halfToFloat(scale);
          if (level === -128) clamped++;
        }
      }
      expect(digestOf(exact)).toBe(digest);
      expect(digestOf(unpackBlob(after.get(`${path}.packed`)!, spec, rows, inputs))).toBe(
        digestOf(kept),
      );
    }
    expect(clamped).toBeGreaterThan(0);
    expect(result.clampedLevels).toBe(clamped);
  });

  it('reads the second form of zero points', async () => {
    const dir = await changed('gptq-4bit-zeros', (tensors, config) => {
      config.checkpoint_format = 'gptq_v2';
      for (const [name, data] of tensors) {
        if (!name.endsWith('.qzeros')) continue;
        const plusOne = (half: number) => (half + 1) & 15;
        data.forEach((byte, i) => {
          data[i] = plusOne(byte & 15) | (plusOne(byte >> 4) << 4);
        });
      }
    });
    const result = await packModel(dir, fresh(), {});
    const spec = result.packing.linears;
    expect(await digests(result.dir, spec)).toEqual(await expectedDigests('gptq-4bit-zeros'));
  });

  it('accepts the zero biases that older tools wrote, and no others', async () => {
    const name = 'model.layers.0.mlp.up_proj.bias';
    const zeros = await changed('gptq-4bit', (tensors) => tensors.set(name, Buffer.alloc(192)));
    const result = await packModel(zeros, fresh(), {});
    expect(await digests(result.dir, result.packing.linears)).toEqual(
      await expectedDigests('gptq-4bit'),
    );
    const bias = await changed('gptq-4bit', (tensors) => tensors.set(name, Buffer.alloc(192, 1)));
    await expect(packModel(bias, fresh(), {})).rejects.toThrow('up_proj has a bias');
  });

  it('cannot be served as they are, and say how', async () => {
    for (const name of ['gptq-4bit', 'awq']) {
      const dir = join(FIXTURES, name);
      const refused = importModel(dir);
      await expect(refused).rejects.toMatchObject({ code: 'model_import_required' });
      await expect(refused).rejects.toThrow(`loramux import ${dir} --out`);
    }
  });

  it('are refused where their weights cannot be expressed', async () => {
    const unsupported = (dir: string, message: string) =>
      expect(packModel(dir, fresh(), {})).rejects.toMatchObject({
        code: 'model_quantization_unsupported',
        message: expect.stringContaining(message),
      });
    await unsupported(join(FIXTURES, 'gptq-4bit-act-order'), 'activation order');
    const asymmetric = await changed('gptq-4bit-zeros', (_, config) => {
      config.sym = true;
    });
    await unsupported(asymmetric, 'zero points although');
    const narrow = await changed('gptq-4bit', (_, config) => {
      config.group_size = 16;
    });
    await expect(packModel(narrow, fresh(), {})).rejects.toMatchObject({
      code: 'model_weights_invalid',
    });
    const broken = await changed('awq', (tensors) => {
      tensors.get('model.layers.0.mlp.up_proj.scales')!.writeUInt16LE(0x7c00, 8);
    });
    await expect(packModel(broken, fresh(), {})).rejects.toThrow('scales has NaN');
  });

  it('are refused where tensors are missing, of another type or in groups of odd sizes', async () => {
    const zeros = 'model.layers.0.mlp.up_proj.qzeros';
    const without = await changed('gptq-4bit', (tensors) => tensors.delete(zeros));
    await expect(packModel(without, fresh(), {})).rejects.toMatchObject({
      code: 'model_weights_invalid',
      message: expect.stringContaining(zeros),
    });
    const typed = await changed('gptq-4bit', () => {});
    const weights = join(typed, 'model.safetensors');
    const bytes = (await readFile(weights)).toString('latin1');
    await writeFile(weights, bytes.replace('"dtype":"I32"', '"dtype":"F32"'), 'latin1');
    await expect(packModel(typed, fresh(), {})).rejects.toMatchObject({
      code: 'safetensors_dtype_unsupported',
    });
    // One group all the same, so that shapes agree.
    const odd = await changed('gptq-4bit-column', (_, config) => {
      config.group_size = 100;
    });
    await expect(packModel(odd, fresh(), {})).rejects.toMatchObject({
      code: 'model_quantization_unsupported',
      message: expect.stringContaining('not 100'),
    });
  });

  it('are not packed to another format', async () => {
    const dir = join(FIXTURES, 'gptq-4bit');
    for (const options of [{ format: 'int8' }, { groupSize: 64 }, { zeroPoints: true }] as const) {
      await expect(packModel(dir, fresh(), options)).rejects.toThrow('levels are kept');
    }
    const same = await packModel(dir, fresh(), { format: 'int4', groupSize: 32, lmHead: 'bf16' });
    expect(same.packing.lmHead.format).toBe('bf16');
  });
});
