import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { importModel } from '../../../../src/importer/import.ts';
import type { JsonObject } from '../../../../src/importer/json.ts';
import { packedBytes } from '../../../../src/importer/packing/format.ts';
import { packModel } from '../../../../src/importer/packing/pack-model.ts';
import { readSafetensorsHeader } from '../../../../src/importer/safetensors/header.ts';
import { SafetensorsWriter } from '../../../../src/importer/safetensors/writer.ts';
import { synthesizeModel } from '../../../../src/importer/synth/model.ts';
import { decodeModel } from '../onnx/decode.ts';

/** Odd sizes: neither the columns nor the inputs fill their panels. */
const CONFIG: JsonObject = {
  model_type: 'qwen2',
  architectures: ['Qwen2ForCausalLM'],
  hidden_size: 48,
  intermediate_size: 88,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 301,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
};

let root = '';
let source = '';
let out = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'loramux-pack-'));
  source = join(root, 'source');
  out = join(root, 'out');
  await writeFile(join(root, 'config.json'), JSON.stringify(CONFIG));
  await synthesizeModel(join(root, 'config.json'), source, { seed: 5, dtype: 'BF16' });
});
afterEach(async () => {
  await rm(root, { recursive: true });
});

async function tensorsOf(dir: string) {
  const path = join(dir, 'model.safetensors');
  const bytes = await readFile(path);
  const { tensors } = await readSafetensorsHeader(path);
  const data = (name: string) => bytes.subarray(tensors.get(name)!.begin, tensors.get(name)!.end);
  return { path, bytes, tensors, data };
}

describe('packModel', () => {
  it('writes blobs on 64 bytes, everything else as it was', async () => {
    await mkdir(out);
    // What a killed run leaves behind does not stay.
    await writeFile(join(out, 'model.safetensors.1.partial'), 'x');
    const seen: string[] = [];
    const result = await packModel(source, out, {
      format: 'int4',
      groupSize: 32,
      zeroPoints: true,
      onProgress: (done, total, label) => {
        expect(done).toBeLessThanOrEqual(total);
        seen.push(label);
      },
    });
    expect(result).toMatchObject({ written: true, clampedLevels: 0 });
    expect(seen).toContain('model.layers.1.mlp.down_proj');
    expect((await readdir(out)).sort()).toEqual([
      'config.json',
      'generation_config.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    const config = JSON.parse(await readFile(join(out, 'config.json'), 'utf8')) as JsonObject;
    expect(config.quantization_config).toEqual({
      quant_method: 'loramux',
      layout: 3,
      format: 'int4',
      group_size: 32,
      zero_points: true,
      rotated: true,
      lm_head: { format: 'int8', group_size: 256, zero_points: false, rotated: true },
      source_digest: result.sourceDigest,
    });

    const packed = await tensorsOf(out);
    const before = await tensorsOf(source);
    const blobs = [...packed.tensors].filter(([name]) => name.endsWith('.packed'));
    expect(blobs.length).toBe(15);
    for (const [name, { dtype, begin }] of blobs) {
      expect([dtype, begin % 64], name).toEqual(['U8', 0]);
    }
    const shape = { format: 'int4', n: 88, k: 48, group: 32, zeroPoints: true } as const;
    const up = packed.tensors.get('model.layers.1.mlp.up_proj.packed')!;
    expect(up.shape).toEqual([packedBytes(shape)]);
    const kept = [...packed.tensors.keys()].filter((name) => !name.endsWith('.packed'));
    expect(kept).toContain('model.embed_tokens.weight');
    expect(kept).toContain('model.layers.0.self_attn.q_proj.bias');
    for (const name of kept) expect(packed.data(name)).toEqual(before.data(name));
    expect(kept.length + 14).toBe(before.tensors.size);
  });

  it('gives equal bytes whatever the threads, the shards and the run', async () => {
    const sharded = join(root, 'sharded');
    await synthesizeModel(join(root, 'config.json'), sharded, {
      seed: 5,
      dtype: 'BF16',
      maxShardBytes: 40_000,
    });
    const options = { format: 'int8', groupSize: 64 } as const;
    const first = await packModel(source, out, { ...options, threads: 1 });
    const again = await packModel(sharded, join(root, 'again'), { ...options, threads: 3 });
    expect(again.sourceDigest).toBe(first.sourceDigest);
    expect((await tensorsOf(again.dir)).bytes).toEqual((await tensorsOf(out)).bytes);
  });

  it('keeps bfloat16 weights bit for bit, in panels', async () => {
    await packModel(source, out, { format: 'bf16' });
    const name = 'model.layers.0.mlp.up_proj';
    const weight = (await tensorsOf(source)).data(`${name}.weight`);
    const blob = (await tensorsOf(out)).data(`${name}.packed`);
    // [panels][k / 2][16 columns][2], k padded to 64.
    const at = (row: number, i: number): number =>
      2 * ((row >> 4) * 64 * 16 + (i >> 1) * 32 + (row & 15) * 2 + (i & 1));
    for (let row = 0; row < 88; row++) {
      for (let i = 0; i < 48; i++) {
        expect(blob.readUInt16LE(at(row, i))).toBe(weight.readUInt16LE(2 * (row * 48 + i)));
      }
    }
  });

  it('notices that the work is done, and a changed source', async () => {
    const options = { format: 'int8' } as const;
    const first = await packModel(source, out, options);
    const again = await packModel(source, out, options);
    expect(again).toEqual({ ...first, written: false });
    await expect(packModel(source, out, { format: 'int4' })).rejects.toThrow('another model');

    const { path, bytes, tensors } = await tensorsOf(source);
    const at = tensors.get('model.layers.1.mlp.up_proj.weight')!.begin + 1_000;
    bytes[at] = bytes[at]! ^ 1;
    await writeFile(path, bytes);
    await expect(packModel(source, out, options)).rejects.toThrow('another model');
  });

  it('refuses weights that are not finite, and leaves no finished directory', async () => {
    const { path, bytes, tensors } = await tensorsOf(source);
    for (const [name, message] of [
      ['model.layers.0.mlp.up_proj.weight', 'up_proj.weight has NaN'],
      ['model.embed_tokens.weight', 'embed_tokens.weight has NaN'],
    ] as const) {
      const broken = Buffer.from(bytes);
      broken.writeUInt16LE(0x7fc0, tensors.get(name)!.begin + 64);
      await writeFile(path, broken);
      for (const format of ['bf16', 'int8', 'int4'] as const) {
        await expect(packModel(source, out, { format })).rejects.toThrow(message);
        const left = (await readdir(out)).filter((file) => /config\.json$|safetens/.test(file));
        expect(left).toEqual(['generation_config.json', 'tokenizer_config.json']);
      }
    }
  });

  it('refuses what it cannot do', async () => {
    const invalid = { code: 'config_invalid' };
    await expect(packModel(source, out, { format: 'int8', groupSize: 48 })).rejects.toMatchObject(
      invalid,
    );
    await expect(packModel(source, out, {})).rejects.toThrow('name the format');
    await packModel(source, out, { format: 'int8' });
    const twice = packModel(out, join(root, 'twice'), { format: 'int8' });
    await expect(twice).rejects.toThrow('already');
    await expect(packModel(source, root, { format: 'int8' })).rejects.toThrow('another model');
    const busy = join(root, 'busy');
    await mkdir(busy);
    await writeFile(join(busy, 'notes.txt'), 'mine');
    await expect(packModel(source, busy, { format: 'int8' })).rejects.toThrow('other files');
    expect(await readdir(busy)).toEqual(['notes.txt']);
  });

  it('says when the target cannot be written', async () => {
    const file = join(root, 'file');
    await writeFile(file, '');
    for (const target of [file, join(file, 'below')]) {
      await expect(packModel(source, target, { format: 'int8' })).rejects.toMatchObject({
        code: 'config_invalid',
        message: expect.stringContaining(`${target} cannot be written: E`),
      });
    }
  });

  it('lets one at a time write a directory', async () => {
    const packs = (['int8', 'int4'] as const).map((format) => packModel(source, out, { format }));
    const results = await Promise.allSettled(packs);
    const done = results.findIndex(({ status }) => status === 'fulfilled');
    expect(results[1 - done]).toMatchObject({
      status: 'rejected',
      reason: { code: 'config_invalid', message: expect.stringContaining('in use') },
    });
    const format = (['int8', 'int4'] as const)[done]!;
    expect((await importModel(out)).metadata.weights).toBe(format);
    // Free again: this one finds the work done.
    expect(await packModel(source, out, { format })).toMatchObject({ written: false });
  });
});

describe('importModel of a packed directory', () => {
  it('uses the blobs as they lie in the file', async () => {
    await packModel(source, out, { format: 'int8', lmHead: 'bf16' });
    const model = await importModel(out);
    expect(model.metadata.weights).toBe('int8');
    expect(model.native.packedWeights).toBe(true);
    const { initializers, nodes } = decodeModel(model.native.modelBytes);
    const { tensors } = await readSafetensorsHeader(join(out, 'model.safetensors'));
    const name = 'model.layers.1.self_attn.k_proj.packed';
    const { shape, begin, end } = tensors.get(name)!;
    expect(initializers.get(name)).toEqual({
      dtype: 2,
      shape,
      location: 'model.safetensors',
      offset: begin,
      length: end - begin,
    });
    expect(nodes.find((node) => node.name === 'lm_head')!.attributes.format).toBe(0);
  });

  it('takes no other weights than those it has', async () => {
    await packModel(source, out, { format: 'int4' });
    await expect(
      importModel(out, { weights: 'int4', weightsGroupSize: 64 }),
    ).resolves.toBeDefined();
    const invalid = { code: 'config_invalid' };
    await expect(importModel(out, { weights: 'int8' })).rejects.toMatchObject(invalid);
    await expect(importModel(out, { weights: 'float32' })).rejects.toMatchObject(invalid);
    await expect(importModel(out, { weightsGroupSize: 32 })).rejects.toMatchObject(invalid);
  });

  it('asks for a new import of what an older version wrote', async () => {
    await packModel(source, out, { format: 'int8' });
    const path = join(out, 'config.json');
    const config = JSON.parse(await readFile(path, 'utf8')) as JsonObject;
    for (const quantization of [
      { quant_method: 'loramux', bits: 8, group_size: 128, symmetric: true, lm_head: false },
      { ...(config.quantization_config as JsonObject), layout: 2 },
      { ...(config.quantization_config as JsonObject), layout: 4 },
    ]) {
      await writeFile(path, JSON.stringify({ ...config, quantization_config: quantization }));
      const refused = importModel(out);
      await expect(refused).rejects.toMatchObject({ code: 'model_import_required' });
      await expect(refused).rejects.toThrow('loramux import');
    }
  });

  it('refuses weights that are not whole, or not those of the config', async () => {
    await packModel(source, out, { format: 'int8' });
    const weights = join(out, 'model.safetensors');
    const whole = await readFile(weights);
    for (const [bytes, message] of [
      [whole.subarray(0, -1), 'it is truncated'],
      [Buffer.concat([whole, Buffer.alloc(1)]), 'it has trailing bytes'],
      [whole.subarray(0, 100), 'its header claims'],
      [Buffer.alloc(0), 'it has 0 bytes'],
    ] as const) {
      await writeFile(weights, bytes);
      const refused = importModel(out);
      await expect(refused).rejects.toMatchObject({ code: 'safetensors_invalid' });
      await expect(refused).rejects.toThrow(message);
    }
    await writeFile(weights, whole);
    await expect(importModel(out)).resolves.toBeDefined();

    const path = join(out, 'config.json');
    const config = JSON.parse(await readFile(path, 'utf8')) as JsonObject;
    const packing = config.quantization_config as JsonObject;
    const { rotated: _, ...unrotated } = packing;
    for (const [changed, code] of [
      // Blobs of other settings, some of the same sizes.
      [unrotated, 'model_weights_invalid'],
      [{ ...packing, group_size: 512 }, 'model_weights_invalid'],
      [{ ...packing, group_size: 32 }, 'model_weights_invalid'],
      [{ ...packing, format: 'bf16', group_size: 0 }, 'model_config_unsupported'],
      [{ ...packing, group_size: 48 }, 'model_config_unsupported'],
      [{ ...packing, group_size: -1 }, 'model_config_unsupported'],
      [{ ...packing, format: 'int3' }, 'model_config_unsupported'],
      [{ ...packing, zero_points: true }, 'model_config_unsupported'],
      [{ ...packing, lm_head: 'int8' }, 'model_config_unsupported'],
      [{ ...packing, extra: 1 }, 'model_config_unsupported'],
    ] as const) {
      await writeFile(path, JSON.stringify({ ...config, quantization_config: changed }));
      await expect(importModel(out), JSON.stringify(changed)).rejects.toMatchObject({ code });
    }
    // The weights of another packing, under this one's config.
    const other = await packModel(source, join(root, 'other'), { format: 'int8', groupSize: 512 });
    await writeFile(path, JSON.stringify(config));
    await copyFile(join(other.dir, 'model.safetensors'), weights);
    await expect(importModel(out)).rejects.toThrow('not packed as its config.json says');
  });

  it('refuses blobs that do not lie on 64 bytes', async () => {
    await packModel(source, out, { format: 'bf16' });
    const { path, tensors, data } = await tensorsOf(out);
    const { metadata } = await readSafetensorsHeader(path);
    const contents = new Map([...tensors.keys()].map((name) => [name, Buffer.from(data(name))]));
    const specs = [...tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
    // Biases of a few bytes first: the file is sound, but the blobs are not where they were.
    specs.reverse();
    const writer = await SafetensorsWriter.create(path, specs, Object.fromEntries(metadata), 8);
    for (const { name } of specs) await writer.write(contents.get(name)!);
    await writer.close();
    const refused = importModel(out);
    await expect(refused).rejects.toMatchObject({ code: 'model_weights_invalid' });
    await expect(refused).rejects.toThrow('no multiple of 64');
  });
});
