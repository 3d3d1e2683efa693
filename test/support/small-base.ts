/** A small base with random weights and a vocabulary of bytes. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { synthesizeModel } from '../../src/importer/index.ts';

const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  bos_token_id: 1,
  eos_token_id: 2,
  hidden_act: 'silu',
  hidden_size: 64,
  intermediate_size: 160,
  max_position_embeddings: 4096,
  num_attention_heads: 4,
  num_hidden_layers: 2,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
  vocab_size: 300,
};

/** @returns the model's folder, and how to remove it */
export async function makeSmallBase(seed = 1): Promise<{ dir: string; end(): Promise<void> }> {
  const folder = await mkdtemp(path.join(tmpdir(), 'loramux-small-'));
  const config = path.join(folder, 'config.json');
  await writeFile(config, JSON.stringify(CONFIG));
  const dir = path.join(folder, 'small');
  await synthesizeModel(config, dir, { seed, dtype: 'F32' });
  return { dir, end: () => rm(folder, { recursive: true, force: true }) };
}
