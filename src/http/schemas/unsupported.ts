/**
 * Fields of OpenAI's and vLLM's completion requests that this version does not honour. A value that
 * asks for nothing is accepted, since client libraries send such defaults; anything else is refused
 * by name.
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
const textFormat: Neutral = (value) =>
  value === null ||
  (typeof value === 'object' && (value as { type?: unknown } | null)?.type === 'text');

export const UNSUPPORTED_FIELDS: Readonly<Record<string, Neutral>> = {
  // OpenAI
  suffix: onlyNull,
  // vLLM
  use_beam_search: nullOr(false),
  length_penalty: nullOr(1),
  allowed_token_ids: onlyNull,
  bad_words: emptyOrNull,
  truncate_prompt_tokens: onlyNull,
  prompt_logprobs: onlyNull,
  prompt_embeds: onlyNull,
  response_format: textFormat,
  structured_outputs: onlyNull,
  guided_json: onlyNull,
  guided_regex: onlyNull,
  guided_choice: onlyNull,
  guided_grammar: onlyNull,
  guided_decoding_backend: onlyNull,
  guided_whitespace_pattern: onlyNull,
  logits_processors: emptyOrNull,
  logit_processors: emptyOrNull,
  priority: nullOr(0),
  request_id: onlyNull,
  return_tokens_as_token_ids: nullOr(false),
  return_token_ids: nullOr(false),
  spaces_between_special_tokens: nullOr(true),
  kv_transfer_params: onlyNull,
  vllm_xargs: emptyOrNull,
  // several adapters in one request
  adapters: emptyOrNull,
};

/**
 * Takes neutral unsupported fields out of a request body.
 * @throws LoramuxError unsupported_field
 */
export function dropNeutralFields(body: unknown): void {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) return;
  const fields = body as Record<string, unknown>;
  for (const name of Object.keys(fields)) {
    if (!Object.hasOwn(UNSUPPORTED_FIELDS, name)) continue;
    if (!UNSUPPORTED_FIELDS[name]!(fields[name])) {
      throw new LoramuxError(
        'unsupported_field',
        `${name} is not supported by this server; leave it out`,
        { param: name },
      );
    }
    delete fields[name];
  }
}
