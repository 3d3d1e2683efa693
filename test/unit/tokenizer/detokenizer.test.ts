import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BYTE_RUN_MAX } from '../../../src/tokenizer/detokenizer.ts';
import { loadTokenizer, type Tokenizer } from '../../../src/tokenizer/tokenizer.ts';
import { fc } from '../../support/properties.ts';
import { ALL_KINDS, writeTokenizer } from './files.ts';

interface Decoded {
  ids: number[];
  decoded: string;
  decodedSkipSpecial: string;
}

interface Goldens {
  name: string;
  cases: (Decoded & { text: string; idsNoSpecial: number[] })[];
  decodes: (Decoded & { prefixes: string[] })[];
}

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'loramux-tokenizer-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const pieces = (tokenizer: Tokenizer, ids: readonly number[], skipSpecialTokens: boolean) => {
  const stream = tokenizer.createDetokenizer({ skipSpecialTokens });
  return [...ids.map((id) => stream.push(id)), stream.flush()];
};

const HIGH_OR_LOW_SURROGATE_ALONE =
  /[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/;

async function checkEveryPrefix(tokenizer: Tokenizer, ids: readonly number[], skip: boolean) {
  for (let end = 0; end <= ids.length; end++) {
    const prefix = ids.slice(0, end);
    const parts = pieces(tokenizer, prefix, skip);
    expect(parts.join('')).toBe(await tokenizer.decode(prefix, { skipSpecialTokens: skip }));
    for (const part of parts) expect(part).not.toMatch(HIGH_OR_LOW_SURROGATE_ALONE);
  }
}

describe.each(Object.keys(ALL_KINDS))('detokenizer: %s', (kind) => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    const target = path.join(dir, kind.replaceAll(/\W+/g, '-'));
    tokenizer = await loadTokenizer(await writeTokenizer(target, ALL_KINDS[kind]!()));
  });

  it('gives the full decode of every prefix of random ids, also outside the vocabulary', async () => {
    const id = fc.integer({ min: 0, max: tokenizer.vocabSize + 2 });
    await fc.assert(
      fc.asyncProperty(fc.array(id, { maxLength: 40 }), fc.boolean(), (ids, skip) =>
        checkEveryPrefix(tokenizer, ids, skip),
      ),
      { numRuns: 120 },
    );
  });

  it('gives the full decode of encoded text', async () => {
    const text = fc.string({ unit: 'grapheme', maxLength: 24 });
    await fc.assert(
      fc.asyncProperty(text, async (value) => {
        const ids = Array.from(await tokenizer.encode(value, { addSpecialTokens: true }));
        await checkEveryPrefix(tokenizer, ids, true);
      }),
      { numRuns: 60 },
    );
  });
});

describe('detokenizer', () => {
  const load = async (kind: string) =>
    loadTokenizer(await writeTokenizer(path.join(dir, `x-${kind}`), ALL_KINDS[kind]!()));

  it('holds back the bytes of an incomplete character', async () => {
    const tokenizer = await load('byte-level');
    const ids = Array.from(await tokenizer.encode('é 你', { addSpecialTokens: false }));
    const parts = pieces(tokenizer, ids, true);
    expect(parts.join('')).toBe('é 你');
    expect(parts.join('')).not.toContain('\ufffd');
    expect(parts.filter((part) => part === '').length).toBeGreaterThan(0);
  });

  it('keeps the leading space of a continuation and drops that of a text start', async () => {
    const tokenizer = await load('byte-fallback');
    const [he] = await tokenizer.encode('he', { addSpecialTokens: false });
    const start = tokenizer.createDetokenizer({ skipSpecialTokens: true, context: [1] });
    expect(start.push(he!)).toBe('he');
    const next = tokenizer.createDetokenizer({ skipSpecialTokens: true, context: [1, he!] });
    expect(next.push(he!)).toBe(' he');
  });

  it('streams a valid run of byte tokens that is longer than the hold-back limit', async () => {
    const tokenizer = await load('byte-fallback');
    const text = 'က'.repeat(BYTE_RUN_MAX);
    const ids = Array.from(Buffer.from(text), (byte) => 3 + byte);
    const parts = pieces(tokenizer, ids, true);
    expect(parts.join('')).toBe(text);
    const longestWait = parts
      .join('|')
      .split(/[^|]+/)
      .reduce((max, gap) => Math.max(max, gap.length), 0);
    expect(longestWait).toBeLessThanOrEqual(BYTE_RUN_MAX + 2);
  });

  it('turns a run that cannot become valid into U+FFFD at once', async () => {
    const tokenizer = await load('byte-fallback');
    const stream = tokenizer.createDetokenizer({ skipSpecialTokens: true });
    expect(stream.push(3 + 0xf0)).toBe('');
    expect(stream.push(3 + 0xff)).toBe('\ufffd\ufffd');
    expect(stream.push(3 + 0x41)).toBe('\ufffd');
  });

  it('shows half characters of single tokens as bytes', async () => {
    const tokenizer = await load('byte-fallback');
    expect(tokenizer.tokenText(3 + 0xf0)).toBe('bytes:\\xf0');
    expect(tokenizer.tokenText(3 + 0x41)).toBe('A');
    expect(tokenizer.tokenText(9999)).toBe('token_id:9999');
  });

  it('says what is wrong with a missing or broken file', async () => {
    await expect(loadTokenizer(path.join(dir, 'absent'))).rejects.toMatchObject({
      code: 'tokenizer_invalid',
    });
    const broken = await writeTokenizer(path.join(dir, 'broken'), { model: { type: 'Nope' } });
    await expect(loadTokenizer(broken)).rejects.toMatchObject({ code: 'tokenizer_invalid' });
  });
});

describe('tokenizer files of the fixture models', async () => {
  const root = fileURLToPath(new URL('../../fixtures/', import.meta.url));
  const models = await readdir(path.join(root, 'models')).catch(() => [] as string[]);

  it('finds the fixture models', () => {
    expect(models.length).toBeGreaterThan(0);
  });

  it.each(models)('%s: every prefix of random ids equals the full decode', async (name) => {
    const tokenizer = await loadTokenizer(path.join(root, 'models', name));
    const id = fc.integer({ min: 0, max: tokenizer.vocabSize - 1 });
    await fc.assert(
      fc.asyncProperty(fc.array(id, { maxLength: 40 }), fc.boolean(), (ids, skip) =>
        checkEveryPrefix(tokenizer, ids, skip),
      ),
      { numRuns: 25 },
    );
  });

  it('equals the Python library on text, ids and random ids', async () => {
    const goldens = JSON.parse(
      await readFile(path.join(root, 'goldens/tokenizer.json'), 'utf8'),
    ) as { tokenizers: Goldens[] };
    expect(goldens.tokenizers.length).toBeGreaterThan(0);
    for (const { name, cases, decodes } of goldens.tokenizers) {
      const tokenizer = await loadTokenizer(path.join(root, 'tokenizers', name));
      for (const { text, ids, idsNoSpecial } of cases) {
        const encode = async (addSpecialTokens: boolean) =>
          Array.from(await tokenizer.encode(text, { addSpecialTokens }));
        expect(await encode(true), `${name} ${text}`).toEqual(ids);
        expect(await encode(false), `${name} ${text}`).toEqual(idsNoSpecial);
      }
      for (const { ids, decoded, decodedSkipSpecial } of [...cases, ...decodes]) {
        expect(pieces(tokenizer, ids, false).join(''), name).toBe(decoded);
        expect(pieces(tokenizer, ids, true).join(''), name).toBe(decodedSkipSpecial);
      }
      for (const { ids, prefixes } of decodes) {
        const got = ids.map((_, n) => pieces(tokenizer, ids.slice(0, n + 1), true).join(''));
        expect(got, name).toEqual(prefixes);
      }
    }
  });
});
