import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readSafetensorsHeader } from '../../../../src/importer/safetensors/header.ts';
import { synthesizeAdapters } from '../../../../src/importer/synth/adapters.ts';
import { synthesizeModel } from '../../../../src/importer/synth/model.ts';
import { NormalSource, normalQuantile, Sfc32 } from '../../../../src/importer/synth/random.ts';
import { byteLevelAlphabet, synthTokenizer } from '../../../../src/importer/synth/tokenizer.ts';

let root = '';
let config = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'loramux-synth-'));
  config = join(root, 'shape.json');
  const json = {
    model_type: 'llama',
    architectures: ['LlamaForCausalLM'],
    hidden_size: 32,
    intermediate_size: 40,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: 270,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    bos_token_id: 1,
    eos_token_id: 2,
  };
  await writeFile(config, JSON.stringify(json));
});
afterAll(async () => {
  await rm(root, { recursive: true });
});

describe('NormalSource', () => {
  it('has the moments asked for, and repeats', () => {
    const draw = (seed: number) => {
      const values = new Float32Array(200_000);
      new NormalSource(new Sfc32(seed, 'x'), 'F32', 1, 2).fill(new Uint8Array(values.buffer));
      return values;
    };
    const values = draw(9);
    const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
    const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
    expect(mean).toBeCloseTo(1, 1);
    expect(Math.sqrt(variance)).toBeCloseTo(2, 1);
    expect(draw(9)).toEqual(values);
    expect(draw(10)).not.toEqual(values);
  });

  it('inverts the normal distribution', () => {
    expect(normalQuantile(0.5)).toBeCloseTo(0, 12);
    expect(normalQuantile(0.975)).toBeCloseTo(1.959963984540054, 7);
    expect(normalQuantile(0.001)).toBeCloseTo(-3.090232306167813, 7);
  });
});

describe('synthTokenizer', () => {
  it('gives every byte its own printable character, as GPT-2 does', () => {
    const alphabet = byteLevelAlphabet();
    expect(new Set(alphabet).size).toBe(256);
    expect(alphabet[0x41]).toBe('A');
    expect(alphabet[0x20]).toBe('Ġ');
    expect(alphabet[0x0a]).toBe('Ċ');
    expect(alphabet[0xad]).toBe('\u0143');
  });

  it('fills the vocabulary around the special tokens', () => {
    const { tokenizer } = synthTokenizer(
      300,
      [
        { id: 1, content: '<s>', role: 'bos_token' },
        { id: 299, content: '</s>', role: 'eos_token' },
      ],
      64,
    );
    const { vocab } = tokenizer.model as { vocab: Record<string, number> };
    expect(Object.values(vocab).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 300 }, (_, i) => i),
    );
    expect(vocab['<s>']).toBe(1);
    expect(vocab['</s>']).toBe(299);
    for (const character of byteLevelAlphabet()) expect(vocab[character]).toBeDefined();
    expect(() => synthTokenizer(255, [], 64)).toThrow(RangeError);
  });
});

describe('synthesizeModel', () => {
  it('is a function of the seed, whatever the sharding', async () => {
    const read = (dir: string, file = 'model.safetensors') => readFile(join(root, dir, file));
    const reports: number[] = [];
    const result = await synthesizeModel(config, join(root, 'a'), {
      seed: 3,
      onProgress: (done, total) => reports.push(done / total),
    });
    expect(reports.at(-1)).toBe(1);
    await synthesizeModel(config, join(root, 'b'), { seed: 3 });
    await synthesizeModel(config, join(root, 'c'), { seed: 4 });
    expect((await read('a')).equals(await read('b'))).toBe(true);
    expect((await read('a')).equals(await read('c'))).toBe(false);
    const header = await readSafetensorsHeader(join(root, 'a', 'model.safetensors'));
    expect(result.weightBytes).toBe(header.fileBytes - header.dataStart);
    expect(result.parameters).toBe(result.weightBytes / 2);
  });

  it('refuses unknown shapes and used directories', async () => {
    const refused = { code: 'config_invalid' };
    await expect(synthesizeModel('llama-9b', join(root, 'x'))).rejects.toMatchObject(refused);
    await synthesizeModel(config, join(root, 'used'));
    await expect(synthesizeModel(config, join(root, 'used'))).rejects.toMatchObject(refused);
  });
});

describe('synthesizeAdapters', () => {
  it('writes PEFT directories of the ranks and targets asked for', async () => {
    const base = join(root, 'base');
    await synthesizeModel(config, base);
    const adapters = await synthesizeAdapters(base, join(root, 'adapters'), {
      count: 3,
      ranks: [2, 7],
      targets: ['down_proj', 'q_proj'],
      dtype: 'BF16',
    });
    expect(adapters.map(({ name, rank }) => [name, rank])).toEqual([
      ['adapter-0', 2],
      ['adapter-1', 7],
      ['adapter-2', 2],
    ]);
    const { dir } = adapters[1]!;
    const { tensors } = await readSafetensorsHeader(join(dir, 'adapter_model.safetensors'));
    expect(tensors.size).toBe(8);
    expect(
      tensors.get('base_model.model.model.layers.1.mlp.down_proj.lora_A.weight'),
    ).toMatchObject({ dtype: 'BF16', shape: [7, 40] });
    expect(
      tensors.get('base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight')!.shape,
    ).toEqual([32, 7]);
    const json = JSON.parse(await readFile(join(dir, 'adapter_config.json'), 'utf8')) as unknown;
    expect(json).toMatchObject({
      peft_type: 'LORA',
      r: 7,
      lora_alpha: 14,
      target_modules: ['q_proj', 'down_proj'],
    });
  });

  it('refuses impossible requests', async () => {
    const base = join(root, 'base2');
    await synthesizeModel(config, base);
    for (const options of [
      { count: 0, ranks: [1] },
      { count: 1, ranks: [] },
      { count: 1, ranks: [0] },
      { count: 1, ranks: [1], targets: [] },
    ]) {
      await expect(synthesizeAdapters(base, join(root, 'no'), options)).rejects.toMatchObject({
        code: 'config_invalid',
      });
    }
  });
});
