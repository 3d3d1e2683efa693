import { describe, expect, it } from 'vitest';
import { recordTexts } from '../../../src/http/wire/record-json.ts';
import { record } from '../generation/support.ts';

describe('lists of adapters', () => {
  it('serialise each record once, and a name that moved anew', () => {
    const serialised: string[] = [];
    const textsOf = recordTexts(({ name, fileBytes }) => {
      serialised.push(name);
      return { name, fileBytes };
    });
    const [a, b] = [record('a'), record('b')];
    expect(textsOf([])).toBe('');
    expect(textsOf([a!, b!])).toBe('{"name":"a","fileBytes":2048},{"name":"b","fileBytes":2048}');
    const moved = { ...b!, fileBytes: 1 };
    expect(textsOf([a!, moved])).toBe('{"name":"a","fileBytes":2048},{"name":"b","fileBytes":1}');
    expect(serialised).toEqual(['a', 'b', 'b']);
  });

  it('add what changes without a change of the record', () => {
    let references = 0;
    const textsOf = recordTexts(
      ({ name }) => ({ name }),
      () => ({ references }),
    );
    const records = [record('a'), record('b')];
    expect(textsOf(records)).toBe('{"name":"a","references":0},{"name":"b","references":0}');
    references = 2;
    expect(textsOf(records)).toBe('{"name":"a","references":2},{"name":"b","references":2}');
  });
});
