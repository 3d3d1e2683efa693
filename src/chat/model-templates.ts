/** The chat templates and special tokens that a model folder brings. */
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { LoramuxError } from '../errors.ts';
import { isJsonObject, type JsonObject } from '../importer/json.ts';
import { readJsonFile } from '../importer/json-file.ts';
import {
  DEFAULT_TEMPLATE,
  NAMED_TEMPLATES_MAX,
  type NamedTemplates,
  templatesOfConfig,
} from '../jinja/named-templates.ts';

/** Folder of further templates beside chat_template.jinja, one file each. */
const NAMED_FOLDER = 'additional_chat_templates';

/** The tokens that templates know by name. */
const SPECIAL_TOKENS = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
];

export interface ModelChat {
  /** Empty when the model has none. */
  readonly templates: NamedTemplates;
  readonly specialTokens: Readonly<Record<string, string>>;
}

const isMissing = (error: unknown) => (error as NodeJS.ErrnoException).code === 'ENOENT';

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Texts and AddedToken objects; what is null or absent is not defined in templates. */
function specialTokensOf(...sources: (JsonObject | undefined)[]): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const name of SPECIAL_TOKENS) {
    for (const source of sources) {
      const value = source?.[name];
      const text = isJsonObject(value) ? value.content : value;
      if (typeof text === 'string') tokens[name] ??= text;
    }
  }
  return tokens;
}

async function namedFolder(modelDir: string): Promise<[string, string][]> {
  const folder = path.join(modelDir, NAMED_FOLDER);
  let files: string[];
  try {
    files = await readdir(folder);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
  const templates = files.filter((file) => file.endsWith('.jinja')).slice(0, NAMED_TEMPLATES_MAX);
  return Promise.all(
    templates.map(async (file): Promise<[string, string]> => {
      return [path.basename(file, '.jinja'), await readFile(path.join(folder, file), 'utf8')];
    }),
  );
}

/**
 * Reads the templates of a model folder. chat_template.jinja (and additional_chat_templates/) win
 * over tokenizer_config.json.
 * @throws LoramuxError tokenizer_invalid
 */
export async function readModelChat(modelDir: string): Promise<ModelChat> {
  const [config, map, file, named] = await Promise.all([
    readJsonFile(path.join(modelDir, 'tokenizer_config.json'), 'tokenizer_invalid'),
    readJsonFile(path.join(modelDir, 'special_tokens_map.json'), 'tokenizer_invalid'),
    readIfThere(path.join(modelDir, 'chat_template.jinja')),
    namedFolder(modelDir),
  ]);
  const specialTokens = specialTokensOf(config?.json, map?.json);
  if (file !== undefined || named.length > 0) {
    const templates = new Map(named);
    if (file !== undefined) templates.set(DEFAULT_TEMPLATE, file);
    return { templates, specialTokens };
  }
  try {
    return { templates: templatesOfConfig(config?.json.chat_template), specialTokens };
  } catch (cause) {
    throw new LoramuxError(
      'tokenizer_invalid',
      `${path.join(modelDir, 'tokenizer_config.json')}: ${(cause as Error).message}`,
      { cause },
    );
  }
}
