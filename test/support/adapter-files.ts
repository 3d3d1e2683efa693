/** Makes small PEFT LoRA directories in code, and a tiny base model to match them. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describeModules, type ModuleDescription, modulePath } from '../../src/importer/index.ts';
import { buildSafetensorsHeader, type TensorSpec } from '../../src/importer/safetensors/writer.ts';
import type { LoraModule } from '../../src/native/addon-types.ts';
import { Random } from './random.ts';

export const FIXTURES = fileURLToPath(new URL('../fixtures', import.meta.url));

/** Two layers, hidden size 8, four query and two key-value heads of 2, MLP of 12. */
export const TINY_BASE = {
  hiddenSize: 8,
  intermediateSize: 12,
  numLayers: 2,
  numHeads: 4,
  numKvHeads: 2,
  headSize: 2,
  vocabSize: 32,
  qkNorm: false,
};
export const TINY_MODULES = describeModules(TINY_BASE);

/** The modules of a model under test/fixtures/models. */
export function fixtureModules(model: string): ModuleDescription[] {
  const config = JSON.parse(
    readFileSync(path.join(FIXTURES, 'models', model, 'config.json'), 'utf8'),
  ) as Record<string, number> & { model_type: string };
  return describeModules({
    hiddenSize: config.hidden_size!,
    intermediateSize: config.intermediate_size!,
    numLayers: config.num_hidden_layers!,
    numHeads: config.num_attention_heads!,
    numKvHeads: config.num_key_value_heads!,
    headSize: config.head_dim ?? config.hidden_size! / config.num_attention_heads!,
    vocabSize: config.vocab_size!,
    qkNorm: config.model_type === 'qwen3',
  });
}

export interface Tensor {
  name: string;
  dtype: TensorSpec['dtype'];
  shape: number[];
  bytes: Uint8Array;
}

export function f32(values: readonly number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer);
}

export function safetensors(
  tensors: readonly Tensor[],
  metadata: Record<string, string> = { format: 'pt' },
): Buffer {
  return Buffer.concat([buildSafetensorsHeader(tensors, metadata), ...tensors.map((t) => t.bytes)]);
}

export interface AdapterSpec {
  rank?: number;
  targets?: readonly LoraModule[];
  seed?: number;
}

/** Tensors of a plain LoRA for TINY_BASE, float32, values in [-1, 1). */
export function loraTensors(spec: AdapterSpec = {}): Tensor[] {
  const { rank = 2, targets = ['q_proj', 'v_proj'], seed = 1 } = spec;
  const random = new Random(seed);
  const tensors: Tensor[] = [];
  for (let layer = 0; layer < TINY_BASE.numLayers; layer++) {
    for (const target of targets) {
      const module = TINY_MODULES.find((m) => m.path === modulePath(layer, target))!;
      const shapes = { A: [rank, module.inFeatures!], B: [module.outFeatures!, rank] };
      for (const [letter, shape] of Object.entries(shapes)) {
        const values = Array.from({ length: shape[0]! * shape[1]! }, () => random.next() * 2 - 1);
        const name = `base_model.model.${module.path}.lora_${letter}.weight`;
        tensors.push({ name, dtype: 'F32', shape, bytes: f32(values) });
      }
    }
  }
  return tensors;
}

export function loraConfig(spec: AdapterSpec = {}, extra: Record<string, unknown> = {}): object {
  const { rank = 2, targets = ['q_proj', 'v_proj'] } = spec;
  return {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    r: rank,
    lora_alpha: rank * 2,
    target_modules: targets,
    bias: 'none',
    inference_mode: true,
    ...extra,
  };
}

/** A temporary folder that goes away with `remove`. */
export class TempDir {
  readonly path = mkdtempSync(path.join(tmpdir(), 'loramux-test-'));
  #count = 0;

  join(...parts: string[]): string {
    return path.join(this.path, ...parts);
  }

  /** A path that does not exist yet. */
  fresh(suffix = ''): string {
    return this.join(`${this.#count++}${suffix}`);
  }

  /** Writes adapter_config.json and adapter_model.safetensors into a new folder below `under`. */
  adapter(config: object | string, weights: Uint8Array, under = '.'): string {
    const dir = this.join(under, `adapter-${this.#count++}`);
    mkdirSync(dir, { recursive: true });
    const text = typeof config === 'string' ? config : JSON.stringify(config);
    writeFileSync(path.join(dir, 'adapter_config.json'), text);
    writeFileSync(path.join(dir, 'adapter_model.safetensors'), weights);
    return dir;
  }

  remove(): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}
