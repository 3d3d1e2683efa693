/**
 * Adapters with known answers: random LoRA contents for a fixture model, each with the exact
 * log-probabilities it gives alone. Answers are the same in any batch, bit for bit, so comparing them
 * exactly says which content answered.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { synthesizeAdapters } from '../../src/importer/index.ts';
import { type Json, startTestServer } from './server.ts';
import { FIXTURES } from './stack.ts';

export const CONTENT_MODEL = 'llama2';
export const CONTENT_MODEL_DIR = path.join(FIXTURES, 'models', CONTENT_MODEL);
/** Asked of every content. */
export const CONTENT_PROMPT = [5, 9, 33, 7, 101, 64];
const TOKENS = 6;

export interface Content {
  readonly dir: string;
  /** What the server calls it. */
  readonly generation: string;
  /** `answerOf` of its completion. */
  readonly answer: string;
}

/** The request whose answer tells contents apart. */
export const askBody = (model: string, more: object = {}): object => ({
  model,
  prompt: CONTENT_PROMPT,
  max_tokens: TOKENS,
  temperature: 0,
  ignore_eos: true,
  logprobs: 0,
  skip_special_tokens: false,
  ...more,
});

/** The log-probabilities of a completion as one text. */
export const answerOf = (body: Json): string =>
  (body.choices[0].logprobs.token_logprobs as number[]).join(' ');

export interface Contents {
  readonly list: readonly Content[];
  /** The answer of the base. */
  readonly base: string;
  byGeneration(generation: string): Content;
  remove(): Promise<void>;
}

/** Makes `count` contents and asks each alone, on a server of its own. */
export async function makeContents(
  count: number,
  options: { ranks?: readonly number[]; seed?: number } = {},
): Promise<Contents> {
  const folder = await mkdtemp(path.join(tmpdir(), 'loramux-contents-'));
  const adapters = await synthesizeAdapters(CONTENT_MODEL_DIR, folder, {
    count,
    ranks: options.ranks ?? [2, 4, 8],
    stdB: 0.2,
    ...(options.seed !== undefined && { seed: options.seed }),
  });
  const server = await startTestServer(['--model', CONTENT_MODEL_DIR]);
  const list: Content[] = [];
  try {
    const base = await server.call('POST', '/v1/completions', askBody(CONTENT_MODEL));
    for (const { dir } of adapters) {
      const put = await server.upload('content', dir);
      if (put.status > 201) throw new Error(`PUT answered ${JSON.stringify(put)}`);
      const { status, body } = await server.call('POST', '/v1/completions', askBody('content'));
      if (status !== 200) throw new Error(`the content answered ${JSON.stringify(body)}`);
      list.push({ dir, generation: put.body.generation, answer: answerOf(body) });
    }
    const answers = new Set([answerOf(base.body), ...list.map(({ answer }) => answer)]);
    if (answers.size !== count + 1) throw new Error('two contents give the same answer');
    const byGeneration = new Map(list.map((content) => [content.generation, content]));
    return {
      list,
      base: answerOf(base.body),
      byGeneration(generation) {
        const found = byGeneration.get(generation);
        if (found === undefined) throw new Error(`no content has generation ${generation}`);
        return found;
      },
      remove: () => rm(folder, { recursive: true, force: true }),
    };
  } finally {
    await server.end();
  }
}
