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

function row(field: ConfigField): string[] {
  const { flag, env, schema } = field;
  const cells = [`\`${flag}\``, `\`${env}\``, expectation(field), defaultOf(field)];
  return [...cells, schema.description].map(cell);
}

/** A table with aligned columns, as the formatter lays it out. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((title, i) =>
    Math.max(title.length, ...rows.map((cells) => cells[i]!.length)),
  );
  const line = (cells: readonly string[]) =>
    `| ${cells.map((text, i) => text.padEnd(widths[i]!)).join(' | ')} |`;
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)];
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
    const rows = CONFIG_FIELDS.filter(({ key }) => key in fields).map(row);
    const head = ['flag', 'variable', 'value', 'default', 'meaning'];
    lines.push('', `## ${title}`, '', ...table(head, rows));
  }
  const others = Object.entries(OTHER_ENVIRONMENT).map(([name, meaning]) => [
    `\`${name}\``,
    cell(meaning),
  ]);
  lines.push('', '## Other variables', '', ...table(['variable', 'meaning'], others));
  lines.push(
    '',
    '## Relations',
    '',
    '- `--max-tokens-per-step` and `--max-logit-rows-per-step` are at least `--max-sequences`.',
    '- `--kv-cache-mb` and `--num-blocks` exclude each other.',
    '- `--max-adapter-mb` is at most `--adapter-memory-mb`; with `--redis` also at most',
    '  `--disk-cache-mb` and, with `--blob-store redis`, `--redis-blob-mb`.',
    '- `--headers-timeout-ms` is at most `--request-timeout-ms`.',
    '- `--max-model-len` is at most what the model was trained for and what the KV cache holds.',
    '- `--redis-at-start`, `--redis-wait-replicas` and `--blob-store` need `--redis`; `--s3-endpoint`',
    '  and `--s3-path-style` need a `--blob-store s3://BUCKET/PREFIX`.',
    '- `--replica-ttl-ms` is at least twice `--registry-reconcile-ms`.',
    '',
  );
  return lines.join('\n');
}
