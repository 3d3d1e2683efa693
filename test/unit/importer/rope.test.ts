import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseModelConfig } from '../../../src/importer/config.ts';
import type { JsonObject } from '../../../src/importer/json.ts';

interface RopeCase {
  name: string;
  config: JsonObject;
  invFreq: number[];
  attentionScaling: number;
}

/** Made by make_rope_fixtures.py with Hugging Face transformers. */
const fixtures = JSON.parse(readFileSync(new URL('rope.json', import.meta.url), 'utf8')) as {
  cases: RopeCase[];
};

/** Distance in representable float32 numbers, for positive values. */
function ulps(a: Float32Array, b: Float32Array): number[] {
  const left = new Int32Array(a.buffer, a.byteOffset, a.length);
  const right = new Int32Array(b.buffer, b.byteOffset, b.length);
  return Array.from(left, (bits, i) => Math.abs(bits - right[i]!));
}

describe('rope', () => {
  it.each(fixtures.cases)('$name agrees with transformers', (fixture) => {
    const { rope } = parseModelConfig(fixture.config);
    const expected = Float32Array.from(fixture.invFreq);
    expect(rope.invFreq.length).toBe(expected.length);
    // torch's vectorized pow is allowed to differ from the correctly rounded one in the last bit.
    expect(Math.max(...ulps(rope.invFreq, expected))).toBeLessThanOrEqual(1);
    expect(rope.attentionScaling).toBe(fixture.attentionScaling);
    const type = JSON.stringify(fixture.config).includes('"dynamic"');
    expect(rope.dynamic !== undefined).toBe(type);
  });

  const base = fixtures.cases[0]!.config;
  it('keeps what dynamic scaling needs', () => {
    const { rope } = parseModelConfig({
      ...base,
      rope_theta: 20_000,
      rope_scaling: { type: 'dynamic', factor: 2 },
    });
    expect(rope.dynamic).toEqual({ base: 20_000, factor: 2, maxPositions: 2048 });
  });

  it.each<[string, JsonObject]>([
    ['rope_type', { rope_parameters: { rope_type: 'yarn', factor: 2, rope_theta: 1e4 } }],
    ['rope_type', { rope_scaling: { type: 'longrope', factor: 2 } }],
    ['factor', { rope_scaling: { type: 'linear' } }],
    ['factor', { rope_scaling: { type: 'linear', factor: 0.5 } }],
    ['low_freq_factor', { rope_scaling: { rope_type: 'llama3', factor: 8 } }],
    ['mrope_section', { rope_scaling: { rope_type: 'default', mrope_section: [1, 1] } }],
    ['type', { rope_scaling: { rope_type: 'linear', type: 'dynamic', factor: 2 } }],
    ['partial_rotary_factor', { partial_rotary_factor: 0.5 }],
    ['partial_rotary_factor', { rope_parameters: { partial_rotary_factor: 0.5 } }],
    ['rope_interleaved', { rope_interleaved: true }],
    ['rope_theta', { rope_theta: '1e4' }],
    ['rope_scaling', { rope_scaling: 2 }],
    ['rope_scaling', { rope_scaling: { factor: 2 }, rope_parameters: { rope_theta: 1 } }],
  ])('refuses by name: %s in %j', (key, extra) => {
    expect(() => parseModelConfig({ ...base, ...extra })).toThrow(`"${key}"`);
  });
});
