/** docs/configuration.md, from the schema. */
import { expectation, OTHER_ENVIRONMENT } from './load.ts';
import { CONFIG_FIELDS, CONFIG_SECTIONS, type ConfigField } from './schema.ts';

const cell = (text: string) => text.replaceAll('|', '\\|');

function defaultOf({ required, schema }: ConfigField): string {
  if (required) return 'required';
  const value = schema.default;
  if (value === undefined || (Array.isArray(value) && value.length === 0)) return '';
  return `\`${String(value)}\``;
}

function row(field: ConfigField): string {
  const { flag, env, schema } = field;
  const cells = [`\`${flag}\``, `\`${env}\``, expectation(field), defaultOf(field)];
  return `| ${[...cells, schema.description].map(cell).join(' | ')} |`;
}

export function configurationReference(): string {
  const lines = [
    '# Configuration',
    '',
    'Generated from `src/config/schema.ts`; `npx vitest run test/unit/config -u` writes it anew.',
    '',
    'Every option of `loramux serve` is a flag and an environment variable. A flag wins over the',
    'variable, the variable over the default. Unknown flags and unknown `LORAMUX_` variables are',
    'refused by name.',
  ];
  for (const [title, fields] of Object.entries(CONFIG_SECTIONS)) {
    lines.push('', `## ${title}`, '', '| flag | variable | value | default | meaning |');
    lines.push('| --- | --- | --- | --- | --- |');
    lines.push(...CONFIG_FIELDS.filter(({ key }) => key in fields).map(row));
  }
  lines.push('', '## Other variables', '', '| variable | meaning |', '| --- | --- |');
  for (const [name, meaning] of Object.entries(OTHER_ENVIRONMENT)) {
    lines.push(`| \`${name}\` | ${cell(meaning)} |`);
  }
  lines.push(
    '',
    '## Relations',
    '',
    '- `maxTokensPerStep` and `maxLogitRowsPerStep` are at least `maxSequences`.',
    '- `kvCacheMb` and `numBlocks` exclude each other.',
    '- `maxAdapterMb` is at most `adapterMemoryMb`.',
    '- `headersTimeoutMs` is at most `requestTimeoutMs`.',
    '- `maxModelLen` is at most what the model was trained for and what the KV cache holds.',
    '',
  );
  return lines.join('\n');
}
