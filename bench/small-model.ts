/** A checkpoint of another one's family and ways, small enough for checks in a moment. */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { synthesizeModel } from '../src/importer/index.ts';
import { cached, prepareModel } from './checkpoints.ts';

const LAYERS = 2;
const VOCABULARY = 2048;

/** Two layers of the same width with random weights; written now or before. */
export async function smallModel(model: string, cache: string): Promise<string> {
  const source = await prepareModel(model, cache);
  return cached(path.join(cache, `${path.basename(source)}-small`), async (work) => {
    const text = await readFile(path.join(source, 'config.json'), 'utf8');
    const config = JSON.parse(text) as Record<string, unknown>;
    const shape = `${work}.json`;
    await mkdir(path.dirname(shape), { recursive: true });
    const small = { ...config, num_hidden_layers: LAYERS, vocab_size: VOCABULARY };
    // Ids of the source's special tokens may lie beyond the smaller vocabulary.
    await writeFile(shape, JSON.stringify({ ...small, bos_token_id: 1, eos_token_id: 2 }));
    await synthesizeModel(shape, work, { dtype: 'BF16' });
    await rm(shape);
  });
}
