/** adapter_config.json of PEFT: every field accounted for, or the file is refused. */
import { type ErrorCode, LoramuxError } from '../../errors.ts';
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
  parseJsonBytes,
} from '../../importer/json.ts';
import { INIT_CHANGES_BASE, INIT_KEEPS_BASE, PEFT_LORA_FIELDS } from './peft-fields.ts';

/** Bytes of adapter_config.json; real ones have 1 to 50 KB. */
export const MAX_CONFIG_BYTES = 1024 * 1024;
/** Entries of target_modules, exclude_modules, rank_pattern, alpha_pattern, layers_to_transform. */
export const MAX_CONFIG_ENTRIES = 10_000;
/** `r` and `lora_alpha` of PEFT's LoraConfig. */
const PEFT_DEFAULT_RANK_AND_ALPHA = 8;

/** What of a LoRA config changes the result; the rest is known to be neutral. */
export interface PeftLoraConfig {
  /** Rank where `rankPattern` names none, >= 1. */
  readonly rank: number;
  readonly alpha: number;
  readonly useRslora: boolean;
  /** In file order, which decides when several keys match. */
  readonly rankPattern: ReadonlyMap<string, number>;
  readonly alphaPattern: ReadonlyMap<string, number>;
  /** A string is a regular expression, or `all-linear` in any case. */
  readonly targetModules: string | readonly string[];
  /** Empty when nothing is excluded. */
  readonly excludeModules: string | readonly string[];
  /** Undefined when no layer restriction applies. */
  readonly layersToTransform: readonly number[] | undefined;
  /** Empty: the first number in the path is the layer. */
  readonly layersPattern: readonly string[];
}

/**
 * Parses and checks adapter_config.json.
 * @throws LoramuxError adapter_config_invalid, adapter_config_unknown_field,
 *   adapter_peft_type_unsupported, adapter_task_type_unsupported, adapter_init_changes_base and the
 *   codes of the fields in PEFT_LORA_FIELDS.
 */
export function parsePeftConfig(bytes: Uint8Array): PeftLoraConfig {
  if (bytes.length > MAX_CONFIG_BYTES) {
    throw invalid(`it has ${bytes.length} bytes, the limit is ${MAX_CONFIG_BYTES}`);
  }
  let json: JsonValue;
  try {
    json = parseJsonBytes(bytes);
  } catch (cause) {
    throw invalid(`it is not valid JSON (${(cause as Error).message})`, cause);
  }
  if (!isJsonObject(json)) throw invalid('it is not a JSON object');
  checkType(json);
  checkInit(json.init_lora_weights ?? true);
  checkFields(json);
  return readFields(json);
}

function checkType(json: JsonObject): void {
  const peftType = json.peft_type;
  if (typeof peftType !== 'string') throw invalid('peft_type is missing or not a string');
  if (peftType !== 'LORA') {
    throw refused(
      'adapter_peft_type_unsupported',
      `peft_type ${quote(peftType)} is not supported, only LORA is`,
    );
  }
  const taskType = json.task_type ?? null;
  if (taskType !== null && taskType !== 'CAUSAL_LM') {
    throw refused(
      'adapter_task_type_unsupported',
      `task_type ${quote(taskType)} is not supported, only CAUSAL_LM and null are`,
    );
  }
}

function checkInit(init: JsonValue): void {
  if (typeof init === 'boolean') return;
  const name = typeof init === 'string' ? init.toLowerCase() : undefined;
  if (name === undefined) throw invalid('init_lora_weights is neither a boolean nor a string');
  if (INIT_KEEPS_BASE.has(name)) return;
  if (INIT_CHANGES_BASE.has(name) || /^(pissa|corda)/.test(name)) {
    throw refused(
      'adapter_init_changes_base',
      `init_lora_weights ${quote(name)} changed the base weights during training; save the adapter ` +
        'with path_initial_model_for_weight_conversion to get a plain LoRA',
    );
  }
  throw invalid(`init_lora_weights ${quote(name)} is not known`);
}

/** All fields known, the neutral ones neutral, the ineffective ones of their type. */
function checkFields(json: JsonObject): void {
  for (const [name, rule] of Object.entries(PEFT_LORA_FIELDS)) {
    if (!Object.hasOwn(json, name)) continue;
    const value = json[name]!;
    if (rule.kind === 'neutral-only' && !rule.isNeutral(value)) {
      throw refused(rule.code, `${name} asks for ${rule.feature}, which is not supported`);
    }
    if (rule.kind === 'no-effect' && !rule.accepts(value)) {
      throw invalid(`${name} is not ${rule.expected}`);
    }
  }
  for (const name of Object.keys(json)) {
    if (!Object.hasOwn(PEFT_LORA_FIELDS, name)) {
      throw refused(
        'adapter_config_unknown_field',
        `the field ${quote(name)} is not known, so it cannot be told whether it changes the ` +
          'result; remove it if it does not',
      );
    }
  }
}

function readFields(json: JsonObject): PeftLoraConfig {
  const targetModules = stringOrList(json, 'target_modules');
  if (targetModules === undefined) {
    throw invalid('target_modules is missing or null; name the modules');
  }
  const layers = layerNumbers(json.layers_to_transform ?? null);
  const layersPattern = stringOrList(json, 'layers_pattern');
  if (typeof targetModules === 'string') {
    // PEFT refuses both combinations.
    if (layers !== undefined) {
      throw invalid('layers_to_transform needs target_modules to be a list');
    }
    if (layersPattern !== undefined) {
      throw invalid('layers_pattern needs target_modules to be a list');
    }
  }
  const patterns = typeof layersPattern === 'string' ? [layersPattern] : (layersPattern ?? []);
  const patternList = layersPattern === '' ? [] : patterns;
  if (patternList.length > 0 && layers === undefined) {
    throw invalid('layers_pattern needs layers_to_transform');
  }
  const useRslora = json.use_rslora ?? false;
  if (typeof useRslora !== 'boolean') throw invalid('use_rslora is not a boolean');
  return {
    rank: rankValue(orDefault(json, 'r'), 'r'),
    alpha: alphaValue(orDefault(json, 'lora_alpha'), 'lora_alpha'),
    useRslora,
    rankPattern: patternMap(json, 'rank_pattern', rankValue),
    alphaPattern: patternMap(json, 'alpha_pattern', alphaValue),
    targetModules,
    excludeModules: stringOrList(json, 'exclude_modules') ?? [],
    layersToTransform: layers === undefined || layers.length === 0 ? undefined : layers,
    layersPattern: patternList,
  };
}

/** PEFT's default for a field that the file lacks; an explicit null is not a default. */
function orDefault(json: JsonObject, field: 'r' | 'lora_alpha'): JsonValue {
  return Object.hasOwn(json, field) ? json[field]! : PEFT_DEFAULT_RANK_AND_ALPHA;
}

function rankValue(value: JsonValue, where: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1) {
    throw invalid(`${where} is not a whole number of at least 1`);
  }
  return value;
}

function alphaValue(value: JsonValue, where: string): number {
  if (typeof value !== 'number') throw invalid(`${where} is not a number`);
  if (!Number.isFinite(value)) {
    throw refused('adapter_not_finite', `${where} is too large for a number`);
  }
  return value;
}

function patternMap(
  json: JsonObject,
  field: string,
  read: (value: JsonValue, where: string) => number,
): ReadonlyMap<string, number> {
  const value = json[field] ?? null;
  if (value === null) return new Map();
  if (!isJsonObject(value)) throw invalid(`${field} is not an object`);
  const entries = Object.entries(value);
  checkCount(entries.length, field);
  return new Map(entries.map(([key, item]) => [key, read(item, `${field}[${quote(key)}]`)]));
}

function stringOrList(json: JsonObject, field: string): string | readonly string[] | undefined {
  const value = json[field] ?? null;
  if (value === null) return undefined;
  if (typeof value === 'string') return value;
  if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) {
    throw invalid(`${field} is neither a string nor a list of strings`);
  }
  checkCount(value.length, field);
  return value;
}

function layerNumbers(value: JsonValue): readonly number[] | undefined {
  if (value === null) return undefined;
  const list = Array.isArray(value) ? value : [value];
  checkCount(list.length, 'layers_to_transform');
  if (!list.every((item) => typeof item === 'number' && Number.isSafeInteger(item))) {
    throw invalid('layers_to_transform is neither a whole number nor a list of whole numbers');
  }
  return list as number[];
}

function checkCount(count: number, field: string): void {
  if (count > MAX_CONFIG_ENTRIES) {
    throw invalid(`${field} has ${count} entries, the limit is ${MAX_CONFIG_ENTRIES}`);
  }
}

function quote(value: JsonValue): string {
  const text = JSON.stringify(value);
  return text.length > 200 ? `${text.slice(0, 200)}...` : text;
}

function invalid(what: string, cause?: unknown): LoramuxError {
  return new LoramuxError(
    'adapter_config_invalid',
    `adapter_config.json cannot be used: ${what}.`,
    cause === undefined ? {} : { cause },
  );
}

function refused(code: ErrorCode, what: string): LoramuxError {
  return new LoramuxError(code, `adapter_config.json: ${what}.`);
}
