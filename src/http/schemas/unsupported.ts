/**
 * Fields of OpenAI's and vLLM's requests that this version does not honour. A value that asks for
 * nothing is accepted, since client libraries send such defaults; anything else is refused by name.
 */
import { LoramuxError } from '../../errors.ts';

type Neutral = (value: unknown) => boolean;

const onlyNull: Neutral = (value) => value === null;
const nullOr =
  (...neutral: readonly unknown[]): Neutral =>
  (value) =>
    value === null || neutral.includes(value);
const emptyOrNull: Neutral = (value) =>
  value === null || (typeof value === 'object' && Object.keys(value as object).length === 0);
const textOnly: Neutral = (value) =>
  value === null || (Array.isArray(value) && value.every((one) => one === 'text'));

export type UnsupportedFields = Readonly<Record<string, Neutral>>;

const SHARED: UnsupportedFields = {
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
  ...SHARED,
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
  ...SHARED,
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

/** The error that refuses a field by name. */
export const unsupported = (name: string): LoramuxError =>
  new LoramuxError('unsupported_field', `${name} is not supported by this server; leave it out`, {
    param: name,
  });

/**
 * Takes neutral unsupported fields out of an object.
 * @param at where the object stands in the body, e.g. `messages.0.`
 * @throws LoramuxError unsupported_field
 */
export function dropNeutralFields(body: unknown, table: UnsupportedFields, at = ''): void {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) return;
  const fields = body as Record<string, unknown>;
  for (const name of Object.keys(fields)) {
    if (!Object.hasOwn(table, name)) continue;
    if (!table[name]!(fields[name])) throw unsupported(at + name);
    delete fields[name];
  }
}
