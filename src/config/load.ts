/** Flags and environment to a checked configuration. Unknown names are refused. */
import { Value } from 'typebox/value';
import { LoramuxError } from '../errors.ts';
import { checkRelations } from './relations.ts';
import { CONFIG_FIELDS, type Config, type ConfigField, ConfigSchema } from './schema.ts';

/** LORAMUX_* variables that are not configuration, and what they are for. */
export const OTHER_ENVIRONMENT: Readonly<Record<string, string>> = {
  LORAMUX_FROM_SOURCE: '1 runs the TypeScript sources although a build exists.',
  LORAMUX_NATIVE_ADDON: 'Path of the compiled addon, instead of the one in build/.',
  LORAMUX_ORT_LIBRARY: 'Path of libonnxruntime.so.1, instead of the one in onnxruntime-node.',
  LORAMUX_URL: 'The server that `loramux adapters` and `loramux replicas` talk to.',
  LORAMUX_TEST_SEED: 'Seed of the randomised kernel tests.',
  LORAMUX_FUZZ_SEED: 'Seed of the fuzz tests.',
  LORAMUX_FUZZ_RUNS: 'Runs of the engine fuzz test.',
  LORAMUX_FUZZ_CASES: 'Mutated files of the adapter fuzz test.',
};

export interface ConfigSources {
  /** Values of command-line flags as given, by key; a repeated flag has several. */
  readonly flags: Readonly<Record<string, string | readonly string[] | undefined>>;
  readonly env: Readonly<Record<string, string | undefined>>;
}

interface Given {
  readonly value: string | readonly string[];
  /** `--port` or `LORAMUX_PORT`, for messages. */
  readonly from: string;
}

const invalid = (message: string, param?: string) =>
  new LoramuxError('config_invalid', message, param === undefined ? {} : { param });

function refuseUnknownEnvironment(env: ConfigSources['env']): void {
  const known = new Set([...CONFIG_FIELDS.map((f) => f.env), ...Object.keys(OTHER_ENVIRONMENT)]);
  for (const name of Object.keys(env)) {
    if (!name.startsWith('LORAMUX_') || known.has(name)) continue;
    throw invalid(
      `the environment variable ${name} is not an option of this server; ` +
        '`loramux serve --help` lists the options, each with its LORAMUX_ name. (Kubernetes sets ' +
        'such variables for a service named loramux: set enableServiceLinks to false.)',
    );
  }
}

function given(field: ConfigField, sources: ConfigSources): Given | undefined {
  const flag = sources.flags[field.key];
  if (flag !== undefined) return { value: flag, from: field.flag };
  const value = sources.env[field.env];
  return value === undefined ? undefined : { value, from: field.env };
}

/** The expectation of a field in words, e.g. "a whole number from 1 to 4096". */
export function expectation({ schema }: ConfigField): string {
  if (schema.enum !== undefined) return `one of ${schema.enum.join(', ')}`;
  if (schema.type === 'integer')
    return `a whole number from ${schema.minimum} to ${schema.maximum}`;
  if (schema.type === 'boolean') return 'true or false';
  if (schema.type === 'array') return 'a list of NAME=FOLDER';
  return 'a non-empty text';
}

function parse(field: ConfigField, { value, from }: Given): unknown {
  const { type } = field.schema;
  if (type === 'array') {
    return typeof value === 'string' ? value.split(',').filter((part) => part !== '') : [...value];
  }
  const text = typeof value === 'string' ? value : value.at(-1)!;
  if (type === 'integer' && /^-?\d{1,15}$/.test(text)) return Number(text);
  if (type === 'boolean' && (text === 'true' || text === 'false')) return text === 'true';
  if (type === 'string') return text;
  throw invalid(`${from} is ${JSON.stringify(text)}; it must be ${expectation(field)}`, field.key);
}

/**
 * Flags win over the environment, the environment over defaults.
 * @throws LoramuxError config_invalid, naming the flag or variable and what it must be
 */
export function loadConfig(sources: ConfigSources): Config {
  refuseUnknownEnvironment(sources.env);
  const known = new Set<string>(CONFIG_FIELDS.map((field) => field.key));
  for (const key of Object.keys(sources.flags)) {
    if (!known.has(key)) throw invalid(`${key} is not an option; see \`loramux serve --help\``);
  }
  const values: Record<string, unknown> = {};
  for (const field of CONFIG_FIELDS) {
    const source = given(field, sources);
    if (source === undefined) {
      if (field.required) {
        throw invalid(`${field.flag} (or ${field.env}) is required: ${field.schema.description}`);
      }
      if (field.schema.default !== undefined) values[field.key] = field.schema.default;
      continue;
    }
    const value = parse(field, source);
    const schema = ConfigSchema.properties[field.key];
    if (!Value.Check(schema, value)) {
      throw invalid(
        `${source.from} is ${JSON.stringify(value)}; it must be ${expectation(field)}`,
        field.key,
      );
    }
    values[field.key] = value;
  }
  const config = values as Config;
  checkRelations(config);
  return config;
}
