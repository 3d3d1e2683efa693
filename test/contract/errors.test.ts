/** docs/errors.md against the table of errors. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { ERRORS, type ErrorCode } from '../../src/errors.ts';

const text = readFileSync(fileURLToPath(new URL('../../docs/errors.md', import.meta.url)), 'utf8');
const ROW = /^\| `(\w+)` +\| (\d+) +\| `(\w+)` +\| (.+?) +\| (.+?) +\|$/gm;
const rows = [...text.matchAll(ROW)].map(([, code, status, type, meaning, remedy]) => ({
  code: code!,
  status: Number(status),
  type: type!,
  meaning: meaning!,
  remedy: remedy!,
}));

describe('docs/errors.md', () => {
  it('has every code of the table once, and no other', () => {
    expect(rows.map(({ code }) => code).sort()).toEqual(Object.keys(ERRORS).sort());
  });

  it.each(rows)('$code: status, type and meaning', ({ code, status, type, meaning }) => {
    const entry = ERRORS[code as ErrorCode];
    expect({ status, type, meaning }).toEqual({
      status: entry.status,
      type: entry.type,
      meaning: entry.summary,
    });
  });

  it('says what to do about each', () => {
    for (const { code, remedy } of rows) expect(remedy.length, code).toBeGreaterThan(10);
  });
});
