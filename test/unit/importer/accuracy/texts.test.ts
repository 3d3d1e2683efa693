/** Text files -> sequences: windows, records, limits, refusals. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  readSequences,
  type TextEncoder,
  type TextOptions,
} from '../../../../src/importer/accuracy/texts.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'loramux-texts-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** A token per letter, its char code; 1 begins a text. */
const letters: TextEncoder = {
  encode: async (text, { addSpecialTokens }) =>
    Int32Array.from([
      ...(addSpecialTokens ? [1] : []),
      ...Array.from(text, (c) => c.charCodeAt(0)),
    ]),
};
const bare: TextEncoder = { encode: (text) => letters.encode(text, { addSpecialTokens: false }) };

async function read(
  name: string,
  text: string,
  options: Partial<TextOptions> = {},
  encoder = letters,
) {
  const file = path.join(folder, name);
  await writeFile(file, text);
  const sequences = await readSequences(file, encoder, {
    windowTokens: 4,
    maxPositions: 1000,
    ...options,
  });
  return sequences.map(({ tokenIds, compareFrom, nextId }) => [
    String.fromCharCode(...tokenIds).replace('\u0001', '^'),
    compareFrom,
    nextId < 0 ? '' : String.fromCharCode(nextId),
  ]);
}

describe('plain text', () => {
  it('is cut into windows that begin as a text begins, each knowing what follows it', async () => {
    expect(await read('a.txt', 'abcdefgh')).toEqual([
      ['^abc', 0, 'd'],
      ['^def', 0, 'g'],
      ['^gh', 0, ''],
    ]);
    expect(await read('a.txt', 'abcdefgh', {}, bare)).toEqual([
      ['abcd', 0, 'e'],
      ['efgh', 0, ''],
    ]);
  });

  it('ends at the limit of positions', async () => {
    expect(await read('a.txt', 'abcdefgh', { maxPositions: 6 })).toEqual([
      ['^abc', 0, 'd'],
      ['^d', 0, 'e'],
    ]);
  });

  it('is refused when empty, missing, or with a window that the beginning fills', async () => {
    await expect(read('a.txt', '')).rejects.toMatchObject({ code: 'config_invalid' });
    await expect(read('a.txt', 'abc', { windowTokens: 1 })).rejects.toThrow(/no room/);
    const missing = path.join(folder, 'missing.txt');
    await expect(
      readSequences(missing, letters, { windowTokens: 4, maxPositions: 9 }),
    ).rejects.toThrow(/missing\.txt cannot be measured on/);
  });
});

describe('records', () => {
  const line = (prompt: unknown, completion: unknown) => JSON.stringify({ prompt, completion });

  it('compares the positions that predict the completion', async () => {
    expect(await read('a.jsonl', `${line('ab', 'cd')}\n\n${line('e', 'f')}\n`)).toEqual([
      ['^abc', 2, 'd'],
      ['^e', 1, 'f'],
    ]);
  });

  it('ends at the limit of positions', async () => {
    const text = [line('ab', 'cd'), line('e', 'f'), line('g', 'h')].join('\n');
    expect(await read('a.jsonl', text, { maxPositions: 3 })).toHaveLength(2);
  });

  it.each([
    ['{', /a\.jsonl:2: /],
    ['[]', /a\.jsonl:2: it is not an object/],
    [line('a', 1), /completion must be a string/],
    [line(undefined, 'a'), /prompt must be a string/],
    ['{"prompt":"a","completion":"b","weight":1}', /weight is not known/],
    ['{"prompt":"a","prompt":"b","completion":"c"}', /repeated/],
    [line('a', ''), /must have tokens/],
  ])('refuses %s', async (text, message) => {
    await expect(read('a.jsonl', `${line('a', 'b')}\n${text}`)).rejects.toMatchObject({
      code: 'config_invalid',
      message: expect.stringMatching(message),
    });
  });
});
