/** Text files -> token sequences to measure on. */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { LoramuxError } from '../../errors.ts';
import { isJsonObject, parseJson } from '../json.ts';

/** Tokens that are run through the model from an empty cache. */
export interface TextSequence {
  tokenIds: Int32Array;
  /** Positions from here on are compared; what comes before is context only. */
  compareFrom: number;
  /** Token that follows the last one in the text, -1 where the text ends. */
  nextId: number;
}

/** What is asked of a tokenizer. */
export interface TextEncoder {
  encode(text: string, options: { addSpecialTokens: boolean }): Promise<Int32Array>;
}

export interface TextOptions {
  /** Tokens of a window, at least 2. */
  windowTokens: number;
  /** Positions to compare at most; sequences beyond are left out. */
  maxPositions: number;
}

export const EVALUATION_FILE_BYTES_MAX = 64 * 2 ** 20;

/**
 * Reads what a model is measured on.
 *
 * A `.jsonl` file holds one `{"prompt": ..., "completion": ...}` per line: each line is a sequence of
 * its own, and the positions that predict the completion are compared. Any other file is plain text:
 * it is cut into windows of `windowTokens`, each started with the tokens that the tokenizer puts
 * before a text, and all positions are compared.
 * @throws LoramuxError config_invalid when the file cannot be read or gives no position
 */
export async function readSequences(
  file: string,
  tokenizer: TextEncoder,
  options: TextOptions,
): Promise<TextSequence[]> {
  const text = await readText(file);
  const sequences =
    path.extname(file) === '.jsonl'
      ? await recordSequences(file, text, tokenizer, options)
      : await windowSequences(text, tokenizer, options);
  if (sequences.length === 0) {
    throw new LoramuxError('config_invalid', `${file} has no text to measure on.`);
  }
  return sequences;
}

/** Positions that `sequence` has compared. */
export function positionsOf(sequence: TextSequence): number {
  return sequence.tokenIds.length - sequence.compareFrom;
}

async function readText(file: string): Promise<string> {
  try {
    const { size } = await stat(file);
    if (size > EVALUATION_FILE_BYTES_MAX) {
      throw new Error(`it has ${size} bytes, at most ${EVALUATION_FILE_BYTES_MAX} are read`);
    }
    return await readFile(file, 'utf8');
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new LoramuxError('config_invalid', `${file} cannot be measured on: ${why}`, { cause });
  }
}

async function windowSequences(
  text: string,
  tokenizer: TextEncoder,
  options: TextOptions,
): Promise<TextSequence[]> {
  const [prefix, tokenIds] = await Promise.all([
    prefixOf(tokenizer),
    tokenizer.encode(text, { addSpecialTokens: false }),
  ]);
  const step = options.windowTokens - prefix.length;
  if (step < 1) {
    throw new LoramuxError(
      'config_invalid',
      `A window of ${options.windowTokens} tokens has no room beside the ${prefix.length} that ` +
        'begin a text.',
    );
  }
  const sequences: TextSequence[] = [];
  let left = options.maxPositions;
  for (let at = 0; at < tokenIds.length && left > 0; at += step) {
    const part = tokenIds.subarray(at, at + Math.min(step, Math.max(1, left - prefix.length)));
    sequences.push({
      tokenIds: Int32Array.from([...prefix, ...part]),
      compareFrom: 0,
      nextId: tokenIds[at + part.length] ?? -1,
    });
    left -= prefix.length + part.length;
  }
  return sequences;
}

/** Tokens that the tokenizer puts before a text, such as a beginning of sequence. */
async function prefixOf(tokenizer: TextEncoder): Promise<Int32Array> {
  const [bare, full] = await Promise.all([
    tokenizer.encode('a', { addSpecialTokens: false }),
    tokenizer.encode('a', { addSpecialTokens: true }),
  ]);
  const at = bare.length === 0 ? -1 : full.indexOf(bare[0]!);
  return full.subarray(0, Math.max(0, at));
}

async function recordSequences(
  file: string,
  text: string,
  tokenizer: TextEncoder,
  options: TextOptions,
): Promise<TextSequence[]> {
  const sequences: TextSequence[] = [];
  let left = options.maxPositions;
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '' || left <= 0) continue;
    const { prompt, completion } = recordOf(line, `${file}:${index + 1}`);
    const [context, answer] = await Promise.all([
      tokenizer.encode(prompt, { addSpecialTokens: true }),
      tokenizer.encode(completion, { addSpecialTokens: false }),
    ]);
    if (context.length === 0 || answer.length === 0) {
      throw new LoramuxError(
        'config_invalid',
        `${file}:${index + 1}: prompt and completion must have tokens.`,
      );
    }
    sequences.push({
      tokenIds: Int32Array.from([...context, ...answer.subarray(0, -1)]),
      compareFrom: context.length - 1,
      nextId: answer.at(-1)!,
    });
    left -= answer.length;
  }
  return sequences;
}

function recordOf(line: string, where: string): { prompt: string; completion: string } {
  try {
    const record = parseJson(line);
    if (!isJsonObject(record)) throw new TypeError('it is not an object');
    const { prompt, completion, ...others } = record;
    if (typeof prompt !== 'string') throw new TypeError('prompt must be a string');
    if (typeof completion !== 'string') throw new TypeError('completion must be a string');
    const [other] = Object.keys(others);
    if (other !== undefined) throw new TypeError(`${other} is not known`);
    return { prompt, completion };
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new LoramuxError('config_invalid', `${where}: ${why}`, { cause });
  }
}
