import { copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { importModel } from '../../../src/importer/import.ts';
import type { JsonObject } from '../../../src/importer/json.ts';
import { readSafetensorsHeader } from '../../../src/importer/safetensors/header.ts';
import { SafetensorsWriter, type TensorSpec } from '../../../src/importer/safetensors/writer.ts';
import { synthesizeModel } from '../../../src/importer/synth/model.ts';
import type { ImportedModel } from '../../../src/importer/types.ts';
import { LORA_MODULES } from '../../../src/native/addon-types.ts';
import { modelFamilies } from '../../support/model-families.ts';
import { decodeModel } from './onnx/decode.ts';

const BASE: JsonObject = {
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 300,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  bos_token_id: 1,
  eos_token_id: [2, 3],
};
const FAMILIES = modelFamilies(BASE);
FAMILIES.qwen3!.head_dim = 16;

let root = '';
/** Writes a checkpoint of a family and gives its directory. */
async function checkpoint(
  name: string,
  config: JsonObject,
  options: Parameters<typeof synthesizeModel>[2] = {},
): Promise<string> {
  const dir = join(root, name);
  await writeFile(join(root, `${name}.json`), JSON.stringify(config));
  await synthesizeModel(join(root, `${name}.json`), dir, { seed: 1, dtype: 'F32', ...options });
  return dir;
}

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'loramux-import-'));
});
afterAll(async () => {
  await rm(root, { recursive: true });
});

const count = (model: ImportedModel, opType: string): number =>
  decodeModel(model.native.modelBytes).nodes.filter((node) => node.opType === opType).length;

describe('importModel', () => {
  it.each(Object.keys(FAMILIES))('builds the graph of %s', async (family) => {
    const model = await importModel(await checkpoint(family, FAMILIES[family]!));
    const graph = decodeModel(model.native.modelBytes);
    expect(graph.inputs).toEqual(['input_ids', 'logit_rows']);
    expect(graph.outputs).toEqual(['logits']);
    const loras = graph.nodes.filter((node) => node.opType === 'SegmentedLora');
    expect(loras.map(({ attributes: a }) => [a.layer, a.module])).toEqual(
      [0, 1].flatMap((layer) => LORA_MODULES.map((_, module) => [layer, module])),
    );
    // An adapter reads the same input as the base product it is added to.
    for (const lora of loras) {
      const base = graph.nodes.find((node) => node.outputs[0] === lora.inputs[1])!;
      expect(base.opType).toBe('Gemm');
      expect(base.inputs[0]).toBe(lora.inputs[0]);
      expect(base.attributes).toEqual({ transB: 1 });
    }
    const attention = graph.nodes.filter((node) => node.opType === 'PagedAttention');
    expect(attention.map((node) => node.inputs.length)).toEqual(
      family === 'qwen3' ? [5, 5] : [3, 3],
    );
    const headSize = family === 'qwen3' ? 16 : 8;
    expect(attention[1]!.attributes).toEqual({
      layer: 1,
      num_heads: 4,
      num_kv_heads: 2,
      head_size: headSize,
      sliding_window: family === 'mistral' ? 16 : 0,
      softmax_scale: Math.fround(headSize ** -0.5),
      norm_eps: Math.fround(1e-5),
    });
    const biased = graph.nodes.filter((n) => n.opType === 'Gemm' && n.inputs.length === 3);
    expect(biased.length).toBe(family === 'llama' ? 14 : family === 'qwen2' ? 6 : 0);
  });

  it('points external data at the bytes of the tensors', async () => {
    const dir = await checkpoint('offsets', FAMILIES.llama!);
    const model = await importModel(dir);
    const header = await readSafetensorsHeader(join(dir, 'model.safetensors'));
    const { initializers } = decodeModel(model.native.modelBytes);
    expect(initializers.size).toBe(header.tensors.size);
    for (const [name, tensor] of header.tensors) {
      expect(initializers.get(name)).toEqual({
        dtype: 1,
        shape: tensor.shape,
        location: 'model.safetensors',
        offset: tensor.begin,
        length: tensor.end - tensor.begin,
      });
    }
    expect(model.native.externalDataDir).toBe(model.dir);
  });

  it('reports what the other layers need', async () => {
    const { metadata, native } = await importModel(await checkpoint('meta', FAMILIES.qwen3!));
    expect(metadata).toMatchObject({ eosTokenIds: [2, 3], bosTokenId: 1, dtype: 'F32' });
    expect([...native.moduleShapes]).toEqual([
      ...[32, 64, 32, 32, 32, 32, 64, 32],
      ...[32, 48, 32, 48, 48, 32],
    ]);
    expect(native.rope.invFreq.length).toBe(8);
    const o = metadata.modules.find(({ path }) => path === 'model.layers.1.self_attn.o_proj');
    expect(o).toEqual({
      path: 'model.layers.1.self_attn.o_proj',
      kind: 'linear',
      layer: 1,
      module: 3,
      inFeatures: 64,
      outFeatures: 32,
    });
  });

  it('widens half precision and shares tied weights', async () => {
    const wide = await importModel(await checkpoint('wide', FAMILIES.qwen2!));
    expect(count(wide, 'Cast')).toBe(0);
    for (const dtype of ['F16', 'BF16'] as const) {
      const model = await importModel(
        await checkpoint(`half-${dtype}`, FAMILIES.qwen2!, { dtype }),
        { weights: 'float32' },
      );
      const graph = decodeModel(model.native.modelBytes);
      // One per tensor, and one for the embedding's rows; the head reuses the embedding's weight.
      expect(count(model, 'Cast')).toBe(graph.initializers.size + 1);
      expect(graph.initializers.has('lm_head.weight')).toBe(false);
      const head = graph.nodes.find((node) => node.name === 'lm_head')!;
      expect(head.inputs[1]).toBe('model.embed_tokens.weight.f32:0');
      const gather = graph.nodes.find((node) => node.name === 'model.embed_tokens')!;
      expect(gather.inputs).toEqual(['model.embed_tokens.weight', 'input_ids']);
    }
  });

  it('reads shards, and has one digest for one content', async () => {
    const whole = await importModel(await checkpoint('whole', FAMILIES.mistral!));
    const sharded = await importModel(
      await checkpoint('sharded', FAMILIES.mistral!, { maxShardBytes: 20_000 }),
    );
    const other = await importModel(await checkpoint('other', FAMILIES.mistral!, { seed: 2 }));
    const locations = new Set(
      [...decodeModel(sharded.native.modelBytes).initializers.values()].map((i) => i.location),
    );
    expect(locations.size).toBeGreaterThan(2);
    expect(sharded.metadata.weightDigest).toBe(whole.metadata.weightDigest);
    expect(other.metadata.weightDigest).not.toBe(whole.metadata.weightDigest);
  });

  it("resolves the hub cache's symbolic links to where the blobs are", async () => {
    const dir = await checkpoint('linked', FAMILIES.llama!);
    const snapshot = join(root, 'hub', 'snapshots', 'abc');
    const blobs = join(root, 'hub', 'blobs');
    await mkdir(snapshot, { recursive: true });
    await mkdir(blobs);
    await copyFile(join(dir, 'model.safetensors'), join(blobs, '0123'));
    await copyFile(join(dir, 'config.json'), join(snapshot, 'config.json'));
    await symlink('../../blobs/0123', join(snapshot, 'model.safetensors'));
    const model = await importModel(snapshot);
    const { initializers } = decodeModel(model.native.modelBytes);
    expect(initializers.get('model.norm.weight')!.location).toBe('0123');
    expect(model.native.externalDataDir.endsWith('/blobs')).toBe(true);
  });
});

describe('the graph over packed weights', () => {
  const PACKED = { weights: 'int8', weightsGroupSize: 128 } as const;

  it.each(Object.keys(FAMILIES))('has five nodes a layer: %s', async (family) => {
    const model = await importModel(
      await checkpoint(`packed-${family}`, FAMILIES[family]!),
      PACKED,
    );
    expect(model.metadata.weights).toBe('int8');
    expect(model.native.packedWeights).toBe(true);
    const graph = decodeModel(model.native.modelBytes);
    expect(graph.inputs).toEqual(['input_ids', 'logit_rows']);
    expect(graph.outputs).toEqual(['logits']);
    expect(graph.nodes.map(({ opType }) => opType)).toEqual([
      'Gather',
      ...[0, 1].flatMap(() => [
        'PackedLinear',
        'PagedAttention',
        'PackedLinear',
        'PackedLinear',
        'PackedLinear',
      ]),
      'Gather',
      'PackedLinear',
    ]);
    const [qkv, o, gateUp, down] = graph.nodes.filter(({ opType }) => opType === 'PackedLinear');
    const heads = family === 'qwen3' ? 64 : 32;
    const common = {
      layer: 0,
      format: 1,
      group: 128,
      zero_points: 0,
      rotated: 1,
      activation_group: 256,
      norm_eps: Math.fround(1e-5),
    };
    expect([qkv!.attributes, o!.attributes, gateUp!.attributes, down!.attributes]).toEqual([
      {
        ...common,
        module: 0,
        parts: 3,
        k: 32,
        n0: heads,
        n1: heads / 2,
        n2: heads / 2,
        prologue: 1,
      },
      { ...common, module: 3, parts: 1, k: heads, n0: 32, n1: 0, n2: 0, prologue: 0 },
      { ...common, module: 4, parts: 2, k: 32, n0: 48, n1: 48, n2: 0, prologue: 1 },
      { ...common, module: 6, parts: 1, k: 48, n0: 32, n1: 0, n2: 0, prologue: 2 },
    ]);
    const layer = 'model.layers.0';
    const hidden = 'model.embed_tokens:0';
    const biases = (...names: string[]): string[] => names.map((name) => `${layer}.${name}.bias`);
    const qkvBias = biases('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj');
    expect(qkv!.inputs).toEqual([
      hidden,
      '',
      `${layer}.input_layernorm.weight`,
      `${layer}.self_attn.q_proj.weight`,
      `${layer}.self_attn.k_proj.weight`,
      `${layer}.self_attn.v_proj.weight`,
      ...(family === 'llama' || family === 'qwen2' ? qkvBias : []),
    ]);
    const oBias = family === 'llama' ? ['', '', ...biases('self_attn.o_proj')] : [];
    const attended = `${layer}.self_attn.attention:0`;
    expect(o!.inputs).toEqual([attended, hidden, '', `${layer}.self_attn.o_proj.weight`, ...oBias]);
    expect(gateUp!.inputs.slice(0, 5)).toEqual([
      o!.outputs[0],
      '',
      `${layer}.post_attention_layernorm.weight`,
      `${layer}.mlp.gate_proj.weight`,
      `${layer}.mlp.up_proj.weight`,
    ]);
    expect(down!.inputs.slice(0, 4)).toEqual([
      gateUp!.outputs[0],
      o!.outputs[0],
      '',
      `${layer}.mlp.down_proj.weight`,
    ]);
    const attention = graph.nodes.find(({ opType }) => opType === 'PagedAttention')!;
    const norms = ['q_norm', 'k_norm'].map((name) => `${layer}.self_attn.${name}.weight`);
    expect(attention.inputs).toEqual(
      family === 'qwen3' ? [qkv!.outputs[0], '', '', ...norms] : [qkv!.outputs[0]],
    );
  });

  it('ends with the rows that need logits, norm and head', async () => {
    for (const [family, weight] of [
      ['llama', 'lm_head.weight'],
      ['qwen2', 'model.embed_tokens.weight'],
    ] as const) {
      const dir = await checkpoint(`head-${family}`, FAMILIES[family]!);
      const graph = decodeModel((await importModel(dir, { weights: 'int4' })).native.modelBytes);
      const head = graph.nodes.at(-1)!;
      expect(head.inputs).toEqual(['logit_rows_gather:0', '', 'model.norm.weight', weight]);
      expect(head.outputs).toEqual(['logits']);
      // int4 layers, an int8 head.
      const { layer, module, format, group, n0, prologue } = head.attributes;
      expect([layer, module, format, group, n0, prologue]).toEqual([-1, -1, 1, 256, 300, 1]);
    }
  });

  it('is what bfloat16 checkpoints get unless they are asked for float32', async () => {
    const dir = await checkpoint('auto', FAMILIES.llama!, { dtype: 'BF16' });
    expect((await importModel(dir)).metadata.weights).toBe('bf16');
    expect((await importModel(dir, { weights: 'float32' })).metadata.weights).toBe('float32');
    const half = await checkpoint('auto-half', FAMILIES.llama!, { dtype: 'F16' });
    expect((await importModel(half)).metadata.weights).toBe('float32');
    const refused = importModel(half, { weightsGroupSize: 64 });
    await expect(refused).rejects.toMatchObject({ code: 'config_invalid' });
  });
});

describe('importModel refuses', () => {
  /** Rewrites the only weight file with changed tensor specs (values all zero). */
  async function rewrite(dir: string, change: (specs: TensorSpec[]) => TensorSpec[]) {
    const path = join(dir, 'model.safetensors');
    const { tensors } = await readSafetensorsHeader(path);
    const specs = change(
      [...tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape: [...shape] })),
    );
    const writer = await SafetensorsWriter.create(path, specs);
    await writer.write(new Uint8Array(writer.dataBytes));
    await writer.close();
  }
  let number = 0;
  const fresh = (config = FAMILIES.llama!): Promise<string> =>
    checkpoint(`refused-${number++}`, config);
  const invalid = { code: 'model_weights_invalid' };

  it('a missing tensor, a wrong shape, an unknown tensor, an integer weight', async () => {
    const dir = await fresh();
    await rewrite(dir, (specs) => specs.filter(({ name }) => !name.endsWith('0.mlp.up_proj.bias')));
    await expect(importModel(dir)).rejects.toMatchObject(invalid);
    await expect(importModel(dir)).rejects.toThrow('model.layers.0.mlp.up_proj.bias');

    const shape = await fresh();
    await rewrite(shape, (specs) =>
      specs.map((s) => (s.name === 'model.norm.weight' ? { ...s, shape: [32, 1] } : s)),
    );
    await expect(importModel(shape)).rejects.toThrow('model.norm.weight of shape [32, 1]');

    const extra = await fresh();
    await rewrite(extra, (specs) => [
      ...specs,
      { name: 'model.layers.0.self_attn.sinks', dtype: 'F32', shape: [4] },
    ]);
    await expect(importModel(extra)).rejects.toThrow('self_attn.sinks');

    const integer = await fresh();
    await rewrite(integer, (specs) =>
      specs.map((s) => (s.name === 'lm_head.weight' ? { ...s, dtype: 'I8' as const } : s)),
    );
    await expect(importModel(integer)).rejects.toMatchObject({
      code: 'safetensors_dtype_unsupported',
    });
  });

  it('but not the rotary buffers of old checkpoints', async () => {
    const dir = await fresh();
    await rewrite(dir, (specs) => [
      ...specs,
      { name: 'model.layers.0.self_attn.rotary_emb.inv_freq', dtype: 'F32', shape: [4] },
    ]);
    await expect(importModel(dir)).resolves.toBeDefined();
  });

  it('directories without weights, with pickles, with a broken index', async () => {
    const dir = await fresh();
    await rm(join(dir, 'model.safetensors'));
    await expect(importModel(dir)).rejects.toThrow('neither model.safetensors');
    await writeFile(join(dir, 'pytorch_model.bin'), '');
    await expect(importModel(dir)).rejects.toThrow('pickle');
    const index = join(dir, 'model.safetensors.index.json');
    for (const file of ['../x.safetensors', 'a/b.safetensors', 'x.bin', 1]) {
      await writeFile(index, JSON.stringify({ weight_map: { a: file } }));
      await expect(importModel(dir)).rejects.toMatchObject(invalid);
    }
    await writeFile(index, JSON.stringify({ weight_map: { a: 'gone.safetensors' } }));
    await expect(importModel(dir)).rejects.toThrow('lacks gone.safetensors');
    await expect(importModel(join(root, 'nowhere'))).rejects.toThrow('no config.json');
  });

  it('an index that contradicts its shards', async () => {
    const dir = await checkpoint('contradicting', FAMILIES.llama!, { maxShardBytes: 20_000 });
    const path = join(dir, 'model.safetensors.index.json');
    const text = await readFile(path, 'utf8');
    const index = JSON.parse(text) as { weight_map: Record<string, string> };
    const files = [...new Set(Object.values(index.weight_map))];
    index.weight_map['model.norm.weight'] = files[0]!;
    await writeFile(path, JSON.stringify(index));
    await expect(importModel(dir)).rejects.toThrow('its index does not say so');
    const missing = JSON.parse(text) as typeof index;
    missing.weight_map.ghost = files[0]!;
    await writeFile(path, JSON.stringify(missing));
    await expect(importModel(dir)).rejects.toThrow('lacks tensor ghost');
  });

  it('config.json that is no object or repeats a key', async () => {
    const dir = await fresh();
    for (const text of ['[]', '{', '{"model_type":"llama","model_type":"qwen2"}']) {
      await writeFile(join(dir, 'config.json'), text);
      await expect(importModel(dir)).rejects.toMatchObject({ code: 'model_config_unsupported' });
    }
  });
});
