/** Bounds on request fields; part of the API, so they stand in the schemas and in openapi.yaml. */

export const MODEL_NAME_LENGTH_MAX = 256;
export const CHOICES_MAX = 4096;
/** Token ids and counts are int32. */
export const INT32_MAX = 2 ** 31 - 1;
export const TEMPERATURE_MAX = 2;
export const PENALTY_MAX = 2;
/** What is far smaller makes logits infinite, or is 0 in single precision. */
export const REPETITION_PENALTY_MIN = 0.01;
export const REPETITION_PENALTY_MAX = 100;
export const LOGPROBS_MAX = 20;
export const LOGIT_BIAS_MAX = 100;
export const LOGIT_BIAS_ENTRIES_MAX = 1024;
export const STOP_STRINGS_MAX = 16;
export const STOP_STRING_LENGTH_MAX = 1024;
export const STOP_TOKEN_IDS_MAX = 64;
export const ADAPTER_SCALE_MAX = 100;
export { REQUEST_ADAPTERS_MAX } from '../../engine/adapter-set.ts';
export const USER_LENGTH_MAX = 1024;
export const CACHE_SALT_LENGTH_MAX = 256;
export const GENERATION_ID_LENGTH_MAX = 128;
export const PATH_LENGTH_MAX = 4096;
export const SPLIT_KEY_LENGTH_MAX = 512;
export const URL_LENGTH_MAX = 8192;
export const REVISION_LENGTH_MAX = 256;
export const CHAT_MESSAGES_MAX = 4096;
export const CONTENT_PARTS_MAX = 1024;
export const MESSAGE_NAME_LENGTH_MAX = 256;
export const TOOLS_MAX = 128;
export const TOOL_CALLS_MAX = 128;
export const TOOL_NAME_LENGTH_MAX = 128;
export const TOOL_DESCRIPTION_LENGTH_MAX = 16384;
export const TOOL_CALL_ID_LENGTH_MAX = 256;
export const IDENTIFIER_LENGTH_MAX = 1024;
export const METADATA_ENTRIES_MAX = 16;
export const DOCUMENTS_MAX = 256;
/** Variables of `chat_template_kwargs`: each is looked for in the template. */
export const TEMPLATE_VARIABLES_MAX = 64;
export const DETOKENIZE_TOKENS_MAX = 1_048_576;
export const REQUEST_ID_LENGTH_MAX = 128;
export const BAD_WORDS_MAX = 256;
export const BAD_WORD_LENGTH_MAX = 256;
export const ALLOWED_TOKEN_IDS_MAX = 65536;
