import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type FieldRule, PEFT_LORA_FIELDS } from '../../../src/adapters/formats/peft-fields.ts';
import { DEFAULT_MAX_ADAPTERS, DEFAULT_MAX_RANK } from '../../../src/adapters/index.ts';
import { ERRORS } from '../../../src/errors.ts';

const text = readFileSync(new URL('../../../docs/adapters.md', import.meta.url), 'utf8');

function row(name: string, rule: FieldRule): string {
  switch (rule.kind) {
    case 'used':
      return `| \`${name}\` | used | ${rule.meaning} |`;
    case 'no-effect':
      return `| \`${name}\` | no effect | ${rule.reason} |`;
    case 'neutral-only':
      return `| \`${name}\` | refused unless neutral | ${rule.feature}: \`${rule.code}\` |`;
  }
}

describe('docs/adapters.md', () => {
  it('has the table of fields that the code has', () => {
    const rows = Object.entries(PEFT_LORA_FIELDS).map(([name, rule]) => row(name, rule));
    const table = text.slice(
      text.indexOf('### Every field'),
      text.indexOf('\n`init_lora_weights`'),
    );
    const written = table.split('\n').filter((line) => line.startsWith('| `'));
    expect(written).toEqual(rows);
  });

  it('names only codes that exist', () => {
    const codes = [...text.matchAll(/`((?:adapter|safetensors|store|queue)_[a-z_]+)`/g)]
      .map((match) => match[1]!)
      .filter((name) => name !== 'adapter_config' && name !== 'adapter_model');
    expect(codes.length).toBeGreaterThan(15);
    for (const code of codes) expect(ERRORS).toHaveProperty(code);
  });

  it('states the defaults', () => {
    expect(text).toContain(`${DEFAULT_MAX_ADAPTERS.toLocaleString('en-US')} by default`);
    expect(text).toContain(`| rank | ${DEFAULT_MAX_RANK} by default`);
  });
});
