import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { importModel } from '../../../../src/importer/import.ts';
import { quantizeRows } from '../../../../src/importer/quantize/blocks.ts';
import { quantizeModel } from '../../../../src/importer/quantize/quantize.ts';
import { widenToFloat32 } from '../../../../src/importer/quantize/widen.ts';
import { readSafetensorsHeader } from '../../../../src/importer/safetensors/header.ts';
import { synthesizeModel } from '../../../../src/importer/synth/model.ts';
import {
  floatToBf16,
  floatToF16,
  NormalSource,
  Sfc32,
} from '../../../../src/importer/synth/random.ts';
import { decodeModel } from '../onnx/decode.ts';

function normals(count: number, seed: number): Float32Array {
  const values = new Float32Array(count);
  new NormalSource(new Sfc32(seed), 'F32', 0, 0.1).fill(new Uint8Array(values.buffer));
  return values;
}

describe('quantizeRows', () => {
  const ROWS = 5;
  it.each(
    ([4, 8] as const).flatMap((bits) =>
      [true, false].flatMap((symmetric) =>
        [32, 80, 100].map((inFeatures) => ({ bits, symmetric, inFeatures, groupSize: 32 })),
      ),
    ),
  )('keeps every weight within half a step: %j', (options) => {
    const { bits, symmetric, inFeatures, groupSize } = options;
    const weights = normals(ROWS * inFeatures, 42);
    const { packed, scales, zeroPoints } = quantizeRows(weights, options);
    const blocks = Math.ceil(inFeatures / groupSize);
    const top = 2 ** bits - 1;
    expect(scales.length).toBe(ROWS * blocks);
    const level = (row: number, i: number): number => {
      const index = (row * blocks * groupSize + i) * (bits / 8);
      const byte = packed[Math.floor(index)]!;
      return bits === 8 ? byte : (byte >> (i % 2 === 0 ? 0 : 4)) & 15;
    };
    const zeroPoint = (row: number, block: number): number => {
      if (symmetric) return 2 ** (bits - 1);
      const perRow = zeroPoints.length / ROWS;
      const byte = zeroPoints[row * perRow + Math.floor((block * bits) / 8)]!;
      return bits === 8 ? byte : (byte >> (4 * (block % 2))) & 15;
    };
    for (let row = 0; row < ROWS; row++) {
      for (let i = 0; i < blocks * groupSize; i++) {
        const block = Math.floor(i / groupSize);
        const scale = scales[row * blocks + block]!;
        const q = level(row, i);
        const value = (q - zeroPoint(row, block)) * scale;
        if (i >= inFeatures) {
          expect(Math.abs(value)).toBe(0);
          continue;
        }
        // The end of the range that has no level of its own may be a whole step away.
        const clamped = q === 0 || q === top;
        const error = Math.abs(value - weights[row * inFeatures + i]!);
        expect(error).toBeLessThanOrEqual(Math.abs(scale) * (clamped ? 1 : 0.5) * (1 + 1e-5));
      }
    }
  });

  it('quantizes zeros to zeros', () => {
    for (const symmetric of [true, false]) {
      const options = { bits: 4, groupSize: 16, symmetric, inFeatures: 16 } as const;
      const { scales, packed, zeroPoints } = quantizeRows(new Float32Array(16), options);
      expect(Math.abs(scales[0]!)).toBe(0);
      expect(new Set(packed)).toEqual(new Set([symmetric ? 0x88 : 0]));
      expect([...zeroPoints]).toEqual([0]);
    }
  });
});

describe('widenToFloat32', () => {
  const values = [0, -0, 1, -2.5, 65_504, 6e-8, 2 ** -14, 1 / 3, -1e-5, Number.POSITIVE_INFINITY];
  it('inverts rounding for what is representable, at any alignment', () => {
    for (const [dtype, round] of [
      ['F16', floatToF16],
      ['BF16', floatToBf16],
    ] as const) {
      const bytes = Buffer.alloc(values.length * 2 + 1).subarray(1);
      values.forEach((value, i) => {
        bytes.writeUInt16LE(round(value), 2 * i);
      });
      const wide = new Float32Array(values.length);
      widenToFloat32(bytes, dtype, wide);
      expect([...wide].map(round)).toEqual(values.map(round));
      wide.forEach((value, i) => {
        if (Number.isFinite(value)) {
          const step = Math.abs(values[i]!) * 2 ** (dtype === 'F16' ? -11 : -9) + 2 ** -25;
          expect(Math.abs(value - values[i]!)).toBeLessThanOrEqual(step);
        }
      });
    }
  });

  it('rounds ties to even and overflows to infinity', () => {
    expect(floatToBf16(1 + 2 ** -8)).toBe(0x3f80);
    expect(floatToBf16(1 + 3 * 2 ** -8)).toBe(0x3f82);
    expect(floatToF16(1 + 2 ** -11)).toBe(0x3c00);
    expect(floatToF16(2 - 2 ** -12)).toBe(0x4000);
    expect(floatToF16(65_520)).toBe(0x7c00);
    expect(floatToF16(Number.NaN) & 0x7fff).toBe(0x7e00);
  });
});

describe('quantizeModel', () => {
  let root = '';
  let source = '';
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'loramux-quantize-'));
    source = join(root, 'source');
    const config = {
      model_type: 'qwen2',
      architectures: ['Qwen2ForCausalLM'],
      hidden_size: 48,
      intermediate_size: 80,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      vocab_size: 300,
      max_position_embeddings: 64,
      rms_norm_eps: 1e-5,
      tie_word_embeddings: true,
    };
    await writeFile(join(root, 'config.json'), JSON.stringify(config));
    await synthesizeModel(join(root, 'config.json'), source, { seed: 5, dtype: 'BF16' });
  });
  afterEach(async () => {
    await rm(root, { recursive: true });
  });

  it('writes a directory that imports as MatMulNBits', async () => {
    const out = join(root, 'out');
    // What a killed run leaves behind does not stay.
    await mkdir(out);
    await writeFile(join(out, 'model.safetensors.1.partial'), 'x');
    const seen: string[] = [];
    const result = await quantizeModel(source, out, {
      bits: 4,
      symmetric: false,
      lmHead: true,
      onProgress: (done, total, label) => {
        expect(done).toBeLessThanOrEqual(total);
        seen.push(label);
      },
    });
    expect(result.written).toBe(true);
    expect(seen).toContain('model.layers.1.mlp.down_proj');
    const files = ['config.json', 'generation_config.json', 'model.safetensors'];
    expect((await readdir(out)).sort()).toEqual([
      ...files,
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    const model = await importModel(out);
    const graph = decodeModel(model.native.modelBytes);
    const products = graph.nodes.filter((node) => node.opType === 'MatMulNBits');
    expect(products.length).toBe(15);
    const q = products.find((node) => node.name === 'model.layers.0.self_attn.q_proj')!;
    expect(q.attributes).toEqual({ K: 48, N: 48, bits: 4, block_size: 32, accuracy_level: 4 });
    expect(q.inputs).toEqual([
      'model.layers.0.input_layernorm:0',
      'model.layers.0.self_attn.q_proj.qweight',
      'model.layers.0.self_attn.q_proj.scales',
      'model.layers.0.self_attn.q_proj.zero_points',
      '',
      'model.layers.0.self_attn.q_proj.bias.f32:0',
    ]);
    expect(graph.initializers.get('lm_head.qweight')!.shape).toEqual([300, 2, 16]);
    expect(graph.initializers.has('model.embed_tokens.weight')).toBe(true);
  });

  it('notices that the work is done, and a changed source', async () => {
    const out = join(root, 'out');
    const options = { bits: 8 } as const;
    const first = await quantizeModel(source, out, options);
    const again = await quantizeModel(source, out, options);
    expect(again).toEqual({ ...first, written: false });
    await expect(quantizeModel(source, out, { bits: 4 })).rejects.toThrow('another model');

    const path = join(source, 'model.safetensors');
    const bytes = await readFile(path);
    const { tensors } = await readSafetensorsHeader(path);
    const at = tensors.get('model.layers.1.mlp.up_proj.weight')!.begin + 1_000;
    bytes[at] = bytes[at]! ^ 1;
    await writeFile(path, bytes);
    await expect(quantizeModel(source, out, options)).rejects.toThrow('another model');
  });

  it('refuses weights that are not finite, and leaves no finished directory', async () => {
    const path = join(source, 'model.safetensors');
    const bytes = await readFile(path);
    const { tensors } = await readSafetensorsHeader(path);
    bytes.writeUInt16LE(0x7fc0, tensors.get('model.layers.0.mlp.up_proj.weight')!.begin + 64);
    await writeFile(path, bytes);
    const out = join(root, 'out');
    await expect(quantizeModel(source, out, { bits: 8 })).rejects.toThrow('NaN');
    expect((await readdir(out)).filter((name) => /config\.json$|safetens/.test(name))).toEqual([
      'generation_config.json',
      'tokenizer_config.json',
    ]);
  });

  it('refuses what it cannot do', async () => {
    const out = join(root, 'out');
    await expect(quantizeModel(source, out, { bits: 8, groupSize: 48 })).rejects.toMatchObject({
      code: 'config_invalid',
    });
    await quantizeModel(source, out, { bits: 8 });
    await expect(quantizeModel(out, join(root, 'twice'), { bits: 8 })).rejects.toThrow('already');
    await expect(quantizeModel(source, root, { bits: 8 })).rejects.toThrow('another model');
  });
});
