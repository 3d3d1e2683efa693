/** Fields that say what else an answer shows, as vLLM has them; of the REST routes only. */
import { type Static, Type } from 'typebox';
import { LOGPROBS_MAX, REQUEST_ID_LENGTH_MAX } from './limits.ts';
import { nullableBoolean, nullableInteger, nullableString } from './nullable.ts';

export const ANSWER_FIELDS = {
  prompt_logprobs: nullableInteger(
    'Log-probabilities of the prompt, with so many likely tokens; not in streams.',
    { minimum: 0, maximum: LOGPROBS_MAX },
  ),
  return_token_ids: nullableBoolean('Answer with the ids of the tokens too.', false),
  return_tokens_as_token_ids: nullableBoolean(
    'Show the tokens of log-probabilities as token_id:N.',
    false,
  ),
  request_id: nullableString("The end of the answer's id.", {
    minLength: 1,
    maxLength: REQUEST_ID_LENGTH_MAX,
  }),
} as const;

const AnswerFieldsSchema = Type.Object(ANSWER_FIELDS);
/** Those fields of a body, checked. */
export type AnswerFields = Static<typeof AnswerFieldsSchema>;

export const tokenIdList = (description: string) =>
  Type.Optional(Type.Array(Type.Integer({ minimum: 0 }), { description }));

const PromptLogprobSchema = Type.Object({
  logprob: Type.Number(),
  rank: Type.Integer({ description: '1 is the likeliest.', minimum: 1 }),
  decoded_token: Type.String(),
});
export type WirePromptLogprob = Static<typeof PromptLogprobSchema>;

export const PromptLogprobsSchema = Type.Array(
  Type.Union([Type.Record(Type.String(), PromptLogprobSchema), Type.Null()]),
  { description: 'By token of the prompt: token ids to log-probabilities; null for the first.' },
);

const TOKEN_LOGPROB = {
  token: Type.String(),
  logprob: Type.Number(),
  bytes: Type.Array(Type.Integer({ minimum: 0, maximum: 255 })),
};

/** A token of a chat's answer or of a response. */
export const ListedLogprobSchema = Type.Object({
  ...TOKEN_LOGPROB,
  top_logprobs: Type.Array(Type.Object(TOKEN_LOGPROB)),
});
export type ListedLogprob = Static<typeof ListedLogprobSchema>;
