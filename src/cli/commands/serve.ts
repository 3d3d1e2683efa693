/** `loramux serve`: its flags come from the configuration schema. */
import { Command, Option } from 'commander';
import { expectation, loadConfig } from '../../config/load.ts';
import { CONFIG_FIELDS, type Config, type ConfigField } from '../../config/schema.ts';
import { LoramuxError } from '../../errors.ts';
import { UsageError } from '../output.ts';

const PLACEHOLDERS: Readonly<Record<string, string>> = {
  integer: '<number>',
  boolean: '<true|false>',
  array: '<name=folder>',
};

function helpOf(field: ConfigField): string {
  const { schema, env } = field;
  const notes = [`env ${env}`];
  if (schema.enum !== undefined) notes.unshift(expectation(field));
  if (schema.default !== undefined && !Array.isArray(schema.default)) {
    notes.push(`default ${String(schema.default)}`);
  }
  return `${schema.description} (${notes.join('; ')})`;
}

type Flags = Record<string, string | string[]>;

/** What is wrong with flags and variables is the command line's fault, not the server's. */
function configOf(flags: Flags): Config {
  try {
    return loadConfig({ flags, env: process.env });
  } catch (error) {
    if (error instanceof LoramuxError) throw new UsageError(error.message, { cause: error });
    throw error;
  }
}

const collect = (value: string, previous: string[] | undefined) => [...(previous ?? []), value];

export function serveCommand(): Command {
  const command = new Command('serve').description('run the server');
  for (const field of CONFIG_FIELDS) {
    const { type } = field.schema;
    const option = new Option(`${field.flag} ${PLACEHOLDERS[type] ?? '<value>'}`, helpOf(field));
    // The flag of a field need not be its key.
    option.attributeName = () => field.key;
    if (type === 'array') option.argParser(collect);
    command.addOption(option);
  }
  command.action(async (flags: Flags) => {
    const config = configOf(flags);
    const { isTTY } = process.stderr;
    // Here, so that other commands do not wait for the server's modules.
    const { runServer } = await import('../../main.ts');
    await runServer(config, {
      onPhase: (phase) => {
        if (isTTY) process.stderr.write(`loramux: ${phase} ...\n`);
      },
    });
  });
  return command;
}
