import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parsePeftConfig } from '../../../src/adapters/formats/peft-config.ts';
import { PEFT_LORA_FIELDS } from '../../../src/adapters/formats/peft-fields.ts';
import { matchModules } from '../../../src/adapters/formats/peft-match.ts';
import { compilePythonRegex } from '../../../src/adapters/formats/python-regex.ts';
import { LoramuxError } from '../../../src/errors.ts';
import { describeModules } from '../../../src/importer/index.ts';

interface GoldenCase {
  model: string;
  config: Record<string, unknown>;
  modules?: Record<string, [rank: number, scaling: number]>;
  error?: string;
  expect: string;
}
interface GoldenRegex {
  pattern: string;
  error?: string;
  texts?: string[];
  full?: boolean[];
  match?: boolean[];
}
interface Golden {
  loraConfigFields: string[];
  models: Record<string, { modules: string[] } & Record<string, number>>;
  cases: GoldenCase[];
  regexes: GoldenRegex[];
}

const golden = JSON.parse(
  readFileSync(new URL('./peft-match-goldens.json', import.meta.url), 'utf8'),
) as Golden;

const modulesOf = (model: string) => {
  const shape = golden.models[model]!;
  return describeModules({
    hiddenSize: shape.hidden_size!,
    intermediateSize: shape.intermediate_size!,
    numLayers: shape.num_hidden_layers!,
    numHeads: shape.num_attention_heads!,
    numKvHeads: shape.num_key_value_heads!,
    headSize: shape.head_dim!,
    vocabSize: shape.vocab_size!,
    qkNorm: model === 'qwen3',
  });
};

/** Outcome as in the golden: matched modules or the code of the refusal. */
function outcome(test: GoldenCase): Record<string, [number, number]> | string {
  try {
    const config = parsePeftConfig(Buffer.from(JSON.stringify(test.config)));
    const matched = matchModules(config, modulesOf(test.model));
    return Object.fromEntries(matched.map((m) => [m.path, [m.rank, m.scale]]));
  } catch (error) {
    if (!(error instanceof LoramuxError)) throw error;
    return error.code;
  }
}

describe('PEFT matching against PEFT itself', () => {
  it('describes the same module tree as transformers', () => {
    for (const model of Object.keys(golden.models)) {
      expect(
        modulesOf(model)
          .map((m) => m.path)
          .sort(),
      ).toEqual([...golden.models[model]!.modules].sort());
    }
  });

  it(`selects the same modules, ranks and scales in ${golden.cases.length} configs`, () => {
    expect(golden.cases.length).toBeGreaterThanOrEqual(200);
    for (const test of golden.cases) {
      const got = outcome(test);
      const shown = JSON.stringify(test.config);
      if (test.expect === 'equal') expect(got, shown).toEqual(test.modules);
      else if (test.expect === 'refused') expect(typeof got, shown).toBe('string');
      else expect(got, shown).toBe(test.expect);
    }
  });

  it('classifies every field of LoraConfig that PEFT writes', () => {
    const notInFiles = ['runtime_config'];
    for (const field of golden.loraConfigFields) {
      if (!notInFiles.includes(field)) expect(PEFT_LORA_FIELDS, field).toHaveProperty(field);
    }
  });
});

describe('Python regular expressions', () => {
  it(`agree with Python's re on ${golden.regexes.length} patterns or are refused`, () => {
    let accepted = 0;
    for (const { pattern, error, texts, full, match } of golden.regexes) {
      let regex: ReturnType<typeof compilePythonRegex>;
      try {
        regex = compilePythonRegex(pattern, 'test');
      } catch (refusal) {
        expect(refusal).toBeInstanceOf(LoramuxError);
        expect((refusal as LoramuxError).code).toBe('adapter_regex_unsupported');
        continue;
      }
      expect(error, `Python refuses ${pattern}`).toBeUndefined();
      accepted++;
      texts!.forEach((text, i) => {
        const shown = `${pattern} on ${text}`;
        expect(regex.fullMatch(text), shown).toBe(full![i]);
        expect(regex.match(text) !== undefined, shown).toBe(match![i]);
      });
    }
    expect(accepted).toBeGreaterThan(300);
  });

  it.each([
    ['a(?=b)', 'look-around'],
    ['(?<!a)b', 'look-around'],
    ['(a)\\1', 'back references'],
    ['(?P<x>a)(?P=x)', 'back references'],
    ['(?>a)', 'atomic'],
    ['a++', 'possessive'],
    ['(a)?(?(1)b)', 'conditional'],
    ['(?x)a b', 'verbose'],
    ['a(?i)b', 'flags in its middle'],
    ['\\p{L}', 'escape \\p'],
    ['caf\u00e9', 'printable ASCII'],
    ['a{1001}', 'more than 1000'],
    ['(a{100}){100}', 'more than 5000'],
    ['('.repeat(51) + ')'.repeat(51), 'nested deeper'],
    ['a'.repeat(4097), 'longer than 4096'],
    ['a{3,2}', 'wrong order'],
    ['[b-a]', 'makes no sense'],
    ['[a', 'not closed'],
    ['(a', 'not closed'],
    ['a)', 'not opened'],
    ['\\', 'ends with a backslash'],
  ])('refuses %s with the reason', (pattern, reason) => {
    expect(() => compilePythonRegex(pattern, 'target_modules')).toThrow(
      expect.objectContaining({
        code: 'adapter_regex_unsupported',
        message: expect.stringContaining(reason),
      }),
    );
  });

  it('answers a pattern that makes backtracking matchers explode', () => {
    const regex = compilePythonRegex('(a*)*(a|aa)*b', 'test');
    expect(regex.fullMatch('a'.repeat(2000))).toBe(false);
  });
});
