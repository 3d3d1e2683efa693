/**
 * An adapter's own chat templates: out of the files beside it, into the metadata of its canonical
 * file, and out of that again. Nothing else of tokenizer_config.json concerns an adapter: the tokens
 * are the base's.
 */
import { LoramuxError } from '../../errors.ts';
import { isJsonObject, parseJson, parseJsonBytes } from '../../importer/json.ts';
import type { SafetensorsHeader } from '../../importer/safetensors/header.ts';
import {
  DEFAULT_TEMPLATE,
  type NamedTemplates,
  templatesOfConfig,
} from '../../jinja/named-templates.ts';
import { parseTemplate, TEMPLATE_LENGTH_MAX } from '../../jinja/program.ts';

export const TEMPLATE_FILE = 'chat_template.jinja';
export const TOKENIZER_CONFIG_FILE = 'tokenizer_config.json';
/** Bytes of chat_template.jinja: four per character at most. */
export const MAX_TEMPLATE_BYTES = 4 * TEMPLATE_LENGTH_MAX;
/** Bytes of tokenizer_config.json, most of which are tokens. */
export const MAX_TOKENIZER_CONFIG_BYTES = 16 * 1024 * 1024;
/** Characters of all templates of one adapter; they are a part of its file's header. */
const TEMPLATES_LENGTH_MAX = 4 * TEMPLATE_LENGTH_MAX;
const METADATA_KEY = 'loramux_chat';

export interface ChatFileContents {
  readonly template: Uint8Array | undefined;
  readonly tokenizerConfig: Uint8Array | undefined;
}

function refuse(what: string, cause?: unknown): never {
  throw new LoramuxError('chat_template_invalid', what, { cause });
}

const reasonOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

function ofConfig(bytes: Uint8Array): NamedTemplates {
  try {
    const json = parseJsonBytes(bytes);
    if (!isJsonObject(json)) throw new TypeError('it is not a JSON object');
    return templatesOfConfig(json.chat_template);
  } catch (cause) {
    return refuse(`${TOKENIZER_CONFIG_FILE} cannot be read: ${reasonOf(cause)}`, cause);
  }
}

function ofFile(bytes: Uint8Array): NamedTemplates {
  try {
    return new Map([[DEFAULT_TEMPLATE, new TextDecoder('utf-8', { fatal: true }).decode(bytes)]]);
  } catch (cause) {
    return refuse(`${TEMPLATE_FILE} is not UTF-8`, cause);
  }
}

/**
 * The adapter's templates; chat_template.jinja wins over tokenizer_config.json.
 * @throws LoramuxError chat_template_invalid
 */
export function readChatTemplates({ template, tokenizerConfig }: ChatFileContents): NamedTemplates {
  const config = tokenizerConfig === undefined ? new Map() : ofConfig(tokenizerConfig);
  const templates: NamedTemplates = template === undefined ? config : ofFile(template);
  let length = 0;
  for (const [name, source] of templates) {
    length += name.length + source.length;
    try {
      parseTemplate(source);
    } catch (cause) {
      refuse(`the chat template ${JSON.stringify(name)} cannot be used: ${reasonOf(cause)}`, cause);
    }
  }
  if (length > TEMPLATES_LENGTH_MAX) {
    refuse(`the chat templates have ${length} characters; the limit is ${TEMPLATES_LENGTH_MAX}`);
  }
  return templates;
}

/** Metadata of the canonical file; none without templates, so that such files are as ever. */
export function templatesMetadata(templates: NamedTemplates): Record<string, string> {
  if (templates.size === 0) return {};
  const sorted = [...templates].sort(([a], [b]) => (a < b ? -1 : 1));
  return { [METADATA_KEY]: JSON.stringify(Object.fromEntries(sorted)) };
}

/** @throws LoramuxError store_corrupt */
export function templatesOfHeader({ metadata }: SafetensorsHeader): NamedTemplates {
  const text = metadata.get(METADATA_KEY);
  if (text === undefined) return new Map();
  const json = parseJson(text);
  const entries = Object.entries(isJsonObject(json) ? json : {});
  if (entries.length > 0 && entries.every(([, source]) => typeof source === 'string')) {
    return new Map(entries as [string, string][]);
  }
  throw new LoramuxError('store_corrupt', 'The chat templates of a stored adapter are damaged.');
}
