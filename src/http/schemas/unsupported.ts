/**
 * Fields of OpenAI's and vLLM's requests that this version does not honour. A value that asks for
 * nothing is accepted, since client libraries send such defaults; anything else is refused by name.
 */
import { LoramuxError } from '../../errors.ts';

type Neutral = (value: unknown) => boolean;

export const onlyNull: Neutral = (value) => value === null;
export const nullOr =
  (...neutral: readonly unknown[]): Neutral =>
  (value) =>
    value === null || neutral.includes(value);
export const anything: Neutral = () => true;
export const emptyList: Neutral = (value) =>
  value === null || (Array.isArray(value) && value.length === 0);
export const emptyOrNull: Neutral = (value) =>
  value === null || (typeof value === 'object' && Object.keys(value as object).length === 0);
const textOnly: Neutral = (value) =>
  value === null || (Array.isArray(value) && value.every((one) => one === 'text'));

export type UnsupportedFields = Readonly<Record<string, Neutral>>;

/** vLLM's, of all routes that generate. */
export const SHARED_UNSUPPORTED: UnsupportedFields = {
  use_beam_search: nullOr(false),
  length_penalty: nullOr(1),
  early_stopping: nullOr(false),
  logprob_token_ids: onlyNull,
  logits_processors: emptyOrNull,
  logit_processors: emptyOrNull,
  priority: nullOr(0),
  return_token_offsets: nullOr(false),
  return_mm_kwargs: nullOr(true),
  routed_experts_prompt_start: nullOr(0),
  spaces_between_special_tokens: nullOr(true),
  kv_transfer_params: onlyNull,
  ec_transfer_params: onlyNull,
  vllm_xargs: emptyOrNull,
  watermarking: nullOr(false),
  repetition_detection: onlyNull,
  thinking_token_budget: nullOr(-1),
  stream_interval: nullOr(1),
};

/** Of /v1/completions. */
export const COMPLETION_UNSUPPORTED: UnsupportedFields = {
  ...SHARED_UNSUPPORTED,
  suffix: onlyNull,
  prompt_embeds: onlyNull,
};

/** Of the WebSocket, whose frames have ids already. */
export const SOCKET_UNSUPPORTED: UnsupportedFields = {
  ...COMPLETION_UNSUPPORTED,
  prompt_logprobs: onlyNull,
  request_id: onlyNull,
  return_tokens_as_token_ids: nullOr(false),
  return_token_ids: nullOr(false),
};

export const CHAT_UNSUPPORTED: UnsupportedFields = {
  ...SHARED_UNSUPPORTED,
  // OpenAI
  audio: onlyNull,
  function_call: nullOr('none', 'auto'),
  functions: emptyOrNull,
  modalities: textOnly,
  moderation: onlyNull,
  prediction: onlyNull,
  prompt_cache_options: emptyOrNull,
  prompt_cache_retention: nullOr('in_memory'),
  reasoning_effort: onlyNull,
  service_tier: nullOr('auto', 'default'),
  store: nullOr(false),
  verbosity: nullOr('medium'),
  web_search_options: onlyNull,
  // vLLM
  best_of: nullOr(1),
  include_reasoning: nullOr(true),
  media_io_kwargs: emptyOrNull,
  mm_processor_kwargs: emptyOrNull,
  return_prompt_text: nullOr(false),
};

export type Fields = Record<string, unknown>;

export const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null;
/** The objects of a list, with their places. */
export const listOf = (value: unknown): [number, Fields][] =>
  Array.isArray(value)
    ? [...value.entries()].filter((entry): entry is [number, Fields] => isFields(entry[1]))
    : [];

/** The error that refuses a field by name. */
export const unsupported = (name: string, hint = 'leave it out'): LoramuxError =>
  new LoramuxError('unsupported_field', `${name} is not supported by this server; ${hint}`, {
    param: name,
  });

/**
 * Takes neutral unsupported fields out of an object.
 * @param at where the object stands in the body, e.g. `messages.0.`
 * @param hints what to do without some of them
 * @throws LoramuxError unsupported_field
 */
export function dropNeutralFields(
  body: unknown,
  table: UnsupportedFields,
  at = '',
  hints: Readonly<Record<string, string>> = {},
): void {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) return;
  const fields = body as Record<string, unknown>;
  for (const name of Object.keys(fields)) {
    if (!Object.hasOwn(table, name)) continue;
    if (!table[name]!(fields[name])) throw unsupported(at + name, hints[name]);
    delete fields[name];
  }
}
