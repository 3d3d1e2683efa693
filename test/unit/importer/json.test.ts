import { describe, expect, it } from 'vitest';
import { parseJson, parseJsonBytes } from '../../../src/importer/json.ts';

describe('parseJson', () => {
  it('parses what JSON.parse parses', () => {
    const text = '{"a":[1,{"b":"x\\"}{"},[]],"c":{"a":null,"b":{"a":true}},"":-1.5e3}';
    expect(parseJson(text)).toEqual(JSON.parse(text));
  });

  it.each([
    ['{"a":1,"a":2}', 'a'],
    ['{"x":[{"k":1},{"k":1,"k":1}]}', 'k'],
    ['{"a":1,"\\u0061":2}', 'a'],
    ['{"x":{"y":1},"z":"}","x":0}', 'x'],
    ['{"__proto__":1,"__proto__":2}', '__proto__'],
  ])('refuses the repeated key in %s', (text, key) => {
    expect(() => parseJson(text)).toThrow(`Key "${key}" is repeated`);
  });

  it('does not take equal keys of different objects, or values, for repetitions', () => {
    expect(() => parseJson('[{"a":"a"},{"a":["a","a"]},{"b":{"a":1},"a":1}]')).not.toThrow();
  });

  it('refuses invalid UTF-8 and a byte order mark', () => {
    expect(() => parseJsonBytes(Uint8Array.of(0x22, 0xff, 0x22))).toThrow();
    expect(() => parseJsonBytes(Uint8Array.of(0xef, 0xbb, 0xbf, 0x7b, 0x7d))).toThrow();
  });
});
