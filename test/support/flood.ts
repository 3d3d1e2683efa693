/**
 * Thousands of token streams at once, over server-sent events and WebSockets, with readers that are
 * slow, stop for a while, or vanish. Every stream is compared token by token with its answer alone.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  type SynthAdapter,
  synthesizeAdapters,
  synthesizeModel,
} from '../../src/importer/index.ts';
import { FloodSocket } from './flood-sockets.ts';
import { sseStream } from './flood-sse.ts';
import type { Flood, FloodOptions, FloodReport, Question } from './flood-stream.ts';
import { Random } from './random.ts';

/** Log-probabilities that make the chunks of slow streams long. */
const SLOW_LOGPROBS = 20;

const SHAPE = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 320,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  hidden_act: 'silu',
  tie_word_embeddings: false,
  bos_token_id: 1,
  eos_token_id: 2,
};

/** A model whose steps take no time beside the sockets, and adapters for it. */
export async function floodModel(
  dir: string,
  adapters: number,
): Promise<{ modelDir: string; adapters: readonly SynthAdapter[] }> {
  await mkdir(dir, { recursive: true });
  const shape = path.join(dir, 'shape.json');
  await writeFile(shape, JSON.stringify(SHAPE));
  const modelDir = path.join(dir, 'flood');
  // Packed weights: a token's bits do not depend on the batch, so neither do answers.
  await synthesizeModel(shape, modelDir, { dtype: 'BF16' });
  const made = await synthesizeAdapters(modelDir, path.join(dir, 'adapters'), {
    count: adapters,
    ranks: [4, 8],
  });
  return { modelDir, adapters: made };
}

/** Asks every question alone. */
async function askAlone(options: FloodOptions, tokens: number): Promise<Question[]> {
  const { url, models, questions, seed } = options;
  const random = new Random(seed);
  const asked: Question[] = [];
  for (let i = 0; i < questions; i++) {
    const body = {
      model: models[i % models.length]!,
      prompt: Array.from({ length: random.int(1, 40) }, () => random.int(4, 300)),
      max_tokens: tokens,
      ignore_eos: true,
      temperature: 1,
      seed: i,
    };
    const ids: number[] = [];
    const pieces: string[] = [];
    const socket = await FloodSocket.open(url);
    await socket.generate(body, undefined, (frame) => {
      if (frame.type !== 'token' || frame.token_id === undefined) return;
      pieces.push(frame.text);
      ids.push(frame.token_id);
    });
    await socket.close();
    if (ids.length !== tokens) throw new Error(`question ${i} has ${ids.length} tokens`);
    asked.push({ body, pieces, ids });
  }
  return asked;
}

/** Runs the flood until all of its streams have ended. */
export async function runFlood(options: FloodOptions): Promise<FloodReport> {
  const random = new Random(options.seed);
  const usual = await askAlone(options, options.tokens);
  const long = (await askAlone(options, options.slowTokens)).map((question) => ({
    ...question,
    body: { ...question.body, logprobs: SLOW_LOGPROBS },
  }));
  const report: FloodReport = {
    started: 0,
    finished: 0,
    vanished: 0,
    slowReader: 0,
    queueFull: 0,
    idleClosed: 0,
    tokens: 0,
    lost: 0,
    doubled: 0,
    wrong: 0,
    cut: 0,
    errors: {},
    openMax: 0,
  };
  const endMs = performance.now() + options.seconds * 1000;
  const flood: Flood = {
    options,
    report,
    random,
    get goesOn() {
      return performance.now() < endMs;
    },
    question: (slow) => random.pick(slow ? long : usual),
    reader() {
      const draw = random.next();
      if (draw < 0.05) return 'slow';
      if (draw < 0.1) return 'stops';
      return draw < 0.2 ? 'vanishes' : 'steady';
    },
  };
  let open = 0;
  /** One place after the other gets its next stream as soon as the last one ended. */
  const place = async (stream: () => Promise<void>) => {
    for (let round = 0; round < options.rounds && flood.goesOn; round++) {
      open += 1;
      report.openMax = Math.max(report.openMax, open);
      await stream();
      open -= 1;
    }
  };
  const socketPlaces = async () => {
    let opened = FloodSocket.open(options.url);
    /** The socket, or a new one in the place of one that vanished. */
    const current = async (): Promise<FloodSocket> => {
      const promise = opened;
      const socket = await promise;
      if (!socket.closed) return socket;
      if (opened === promise) opened = socket.close().then(() => FloodSocket.open(options.url));
      return current();
    };
    const own = Array.from({ length: options.perSocket }, () =>
      place(async () => (await current()).stream(flood)),
    );
    await Promise.all(own);
    await (await opened).close();
  };
  await Promise.all([
    ...Array.from({ length: options.sse }, () => place(() => sseStream(flood))),
    ...Array.from({ length: options.sockets }, socketPlaces),
  ]);
  return report;
}
