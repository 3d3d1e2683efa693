import { describe, expect, it } from 'vitest';
import { setSplit } from '../../../../src/adapters/registry/entry.ts';
import {
  decodeEntry,
  encodeEntry,
  MAX_ENTRY_BYTES,
  versionedFromJson,
  versionedToJson,
} from '../../../../src/adapters/registry/entry-codec.ts';
import type { NameEntry } from '../../../../src/adapters/registry/types.ts';
import { fc } from '../../../support/properties.ts';
import { keptGeneration, nameEntry, sha256 } from '../../../support/registry-entries.ts';

const ENTRY = setSplit(
  nameEntry('team/a', 'old', 'new'),
  { digest: sha256('old'), weight: 0.1 },
  1_800_000_000,
);

/** The entry's JSON with one value replaced (or, undefined, taken out) at a path. */
function altered(path: readonly (string | number)[], value: unknown): string {
  const json = JSON.parse(encodeEntry(ENTRY)) as unknown;
  let at = json as Record<string | number, unknown>;
  for (const step of path.slice(0, -1)) at = at[step] as Record<string | number, unknown>;
  if (value === undefined) delete at[path.at(-1)!];
  else at[path.at(-1)!] = value;
  return JSON.stringify(json);
}

describe('entry codec', () => {
  it('reads what it wrote, from text and from bytes', () => {
    const text = encodeEntry(ENTRY);
    expect(decodeEntry(text, 'team/a')).toEqual(ENTRY);
    expect(decodeEntry(Buffer.from(text), 'team/a')).toEqual(ENTRY);
    const plain = nameEntry('b', 'one');
    expect(decodeEntry(encodeEntry(plain), 'b')).toEqual(plain);
    expect('split' in decodeEntry(encodeEntry(plain), 'b')).toBe(true);
  });

  it('writes of a chat template only where there is one', () => {
    const [generation] = nameEntry('b', 'one').generations;
    const own = {
      ...nameEntry('b', 'one'),
      generations: [{ ...generation!, hasChatTemplate: true }],
    };
    const entry = own as NameEntry;
    const text = encodeEntry(entry);
    expect(decodeEntry(text, 'b')).toEqual(entry);
    expect(text.replace(',"hasChatTemplate":true', '')).toBe(encodeEntry(nameEntry('b', 'one')));
    const odd = text.replace('"hasChatTemplate":true', '"hasChatTemplate":false');
    expect(() => decodeEntry(odd, 'b')).toThrow('true or left out');
  });

  it('gives equal entries equal text, whatever the order of their fields', () => {
    const shuffled = Object.fromEntries(Object.entries(ENTRY).reverse()) as unknown as NameEntry;
    expect(encodeEntry(shuffled)).toBe(encodeEntry(ENTRY));
  });

  it('keeps any source and weight exactly', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary', maxLength: 60 }),
        fc.double({ min: Number.MIN_VALUE, max: 1 - Number.EPSILON, noNaN: true }),
        (source, weight) => {
          const entry: NameEntry = {
            ...ENTRY,
            generations: [keptGeneration('new', { source }), keptGeneration('old', { source: '' })],
            split: { digest: sha256('old'), weight },
          };
          expect(decodeEntry(encodeEntry(entry), 'team/a')).toEqual(entry);
        },
      ),
    );
  });

  it('refuses every damaged field', () => {
    const fields: [path: (string | number)[], wrong: unknown[]][] = [
      [['name'], [undefined, 7, '', 'b', '../x']],
      [['current'], [undefined, null, sha256('other')]],
      [['split'], [undefined, 'x', {}, [], { digest: sha256('new'), weight: 0.1 }]],
      [
        ['split', 'digest'],
        [undefined, sha256('other'), 1],
      ],
      [
        ['split', 'weight'],
        [undefined, 0, 1, -1, '0.1', null],
      ],
      [['split', 'more'], [1]],
      [['pinned'], [undefined, 0, 'true', null]],
      [['createdAt'], [undefined, -1, 0.5, '1', null]],
      [['updatedAt'], [undefined, -1, 1e300, '1']],
      [['generations'], [undefined, {}, [], [7]]],
      [
        ['generations', 0],
        [null, {}, []],
      ],
      [
        ['generations', 1, 'digest'],
        [undefined, sha256('new'), 'x', sha256('a').toUpperCase()],
      ],
      [
        ['generations', 1, 'fileBytes'],
        [undefined, -1, 0.5, 100, '4096', 2 ** 60],
      ],
      [
        ['generations', 1, 'headerBytes'],
        [undefined, -1, 5000],
      ],
      [
        ['generations', 1, 'headerDigest'],
        [undefined, '', 5],
      ],
      [
        ['generations', 1, 'rank'],
        [undefined, -1, 1.5],
      ],
      [
        ['generations', 1, 'residentBytes'],
        [undefined, -1, null],
      ],
      [
        ['generations', 1, 'targetModules'],
        [undefined, 'q_proj', [7], [''], Array(65).fill('q')],
      ],
      [
        ['generations', 1, 'base'],
        [undefined, '', 'x'.repeat(129)],
      ],
      [
        ['generations', 1, 'source'],
        [undefined, 'x'.repeat(4097), 1],
      ],
      [
        ['generations', 1, 'createdAt'],
        [undefined, -1],
      ],
      [['generations', 1, 'extra'], ['x']],
      [['extra'], [null]],
    ];
    for (const [path, wrong] of fields) {
      for (const value of wrong) {
        const text = altered(path, value);
        const context = `${path.join('.')} = ${JSON.stringify(value)}`;
        expect(() => decodeEntry(text, 'team/a'), context).toThrow();
      }
    }
  });

  it('refuses what is no JSON object, repeated keys and bad UTF-8', () => {
    const text = encodeEntry(ENTRY);
    for (const bad of ['', '{', 'null', '[]', '7', `${text}x`, `\ufeff${text}`]) {
      expect(() => decodeEntry(bad, 'team/a'), bad.slice(0, 20)).toThrow();
    }
    const repeated = text.replace('{"name"', '{"pinned":true,"name"');
    expect(() => decodeEntry(repeated, 'team/a')).toThrow(/repeated/);
    const bytes = Buffer.from(text);
    bytes[20] = 0xff;
    expect(() => decodeEntry(bytes, 'team/a')).toThrow();
  });

  it('survives any bytes: an error or a sound entry', () => {
    const text = encodeEntry(ENTRY);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(text.length - 1), fc.nat(127)), { minLength: 1, maxLength: 4 }),
        (edits) => {
          const bytes = Buffer.from(text);
          for (const [at, value] of edits) bytes[at] = value;
          let entry: NameEntry;
          try {
            entry = decodeEntry(bytes, 'team/a');
          } catch (error) {
            expect((error as Error).message.length).toBeGreaterThan(5);
            return;
          }
          expect(decodeEntry(encodeEntry(entry), 'team/a')).toEqual(entry);
        },
      ),
      { numRuns: 1000 },
    );
  });

  it('writes nothing unsound, and says everything that is wrong', () => {
    const bad = { ...ENTRY, current: 'x', updatedAt: Number.NaN };
    expect(() => encodeEntry(bad)).toThrow(/current generation.*updatedAt/);
  });

  it('bounds the size in both directions', () => {
    const source = '\u0001'.repeat(4096);
    const generations = Array.from({ length: 64 }, (_, i) => keptGeneration(`${i}`, { source }));
    const huge: NameEntry = { ...nameEntry('a', '0'), generations };
    expect(() => encodeEntry(huge)).toThrow(/more than the limit/);
    const padded = encodeEntry(ENTRY) + ' '.repeat(MAX_ENTRY_BYTES);
    expect(() => decodeEntry(padded, 'team/a')).toThrow(/more than the limit/);
  });
});

describe('versioned entries', () => {
  const versioned = { revision: 7, changeId: sha256('x').slice(0, 32), entry: ENTRY };

  it('come back as they were', () => {
    const json = JSON.parse(JSON.stringify(versionedToJson(versioned)));
    expect(versionedFromJson(json, 'team/a')).toEqual(versioned);
  });

  it('have a revision and a change id of the right form', () => {
    const json = versionedToJson(versioned);
    for (const wrong of [
      { ...json, revision: 0 },
      { ...json, revision: 1.5 },
      { ...json, changeId: 'short' },
      { ...json, changeId: 'x'.repeat(32) },
      { ...json, more: 1 },
      { revision: 1, changeId: versioned.changeId },
      null,
    ]) {
      expect(() => versionedFromJson(wrong as never, 'team/a')).toThrow();
    }
  });
});
