/**
 * The one table of errors. A code is API: stable, documented in docs/errors.md (a test ties the
 * two), never reused. Everything thrown on purpose is a LoramuxError with one of these codes.
 */

interface ErrorEntry {
  /** HTTP status when the error reaches a client. */
  readonly status: number;
  /** OpenAI's error `type`. */
  readonly type:
    | 'invalid_request_error'
    | 'not_found_error'
    | 'conflict_error'
    | 'overloaded_error'
    | 'server_error';
  readonly summary: string;
}

const e = (status: number, type: ErrorEntry['type'], summary: string): ErrorEntry => ({
  status,
  type,
  summary,
});

export const ERRORS = {
  // requests
  invalid_request: e(
    400,
    'invalid_request_error',
    'The request is malformed or a field is out of range.',
  ),
  unknown_field: e(
    400,
    'invalid_request_error',
    'The request has a field the server does not know.',
  ),
  unsupported_field: e(
    400,
    'invalid_request_error',
    'The field is known but this server does not honour it.',
  ),
  context_length_exceeded: e(
    400,
    'invalid_request_error',
    'Prompt and requested tokens exceed the context length.',
  ),
  prompt_empty: e(400, 'invalid_request_error', 'The prompt has no tokens.'),
  chat_template_missing: e(
    400,
    'invalid_request_error',
    'Neither the adapter nor the model has a chat template.',
  ),
  chat_template_invalid: e(
    422,
    'invalid_request_error',
    'The chat template is too long or not Jinja.',
  ),
  chat_template_failed: e(
    400,
    'invalid_request_error',
    'The chat template refuses the messages or cannot render them.',
  ),
  grammar_invalid: e(
    400,
    'invalid_request_error',
    'The schema, pattern or grammar is malformed, or nothing satisfies it.',
  ),
  grammar_unsupported: e(
    400,
    'invalid_request_error',
    'The schema, pattern or grammar uses what this server does not honour.',
  ),
  grammar_too_complex: e(
    400,
    'invalid_request_error',
    'The schema, pattern or grammar is too large or takes too long to prepare.',
  ),
  token_out_of_range: e(400, 'invalid_request_error', 'A token id is outside the vocabulary.'),
  not_found: e(404, 'not_found_error', 'No such route or object.'),
  method_not_allowed: e(405, 'invalid_request_error', 'The route exists but not with this method.'),
  model_not_found: e(
    404,
    'not_found_error',
    'The model names neither the base nor a registered adapter.',
  ),
  payload_too_large: e(
    413,
    'invalid_request_error',
    'The body is larger than the configured limit.',
  ),
  unsupported_media_type: e(415, 'invalid_request_error', 'The content type is not accepted here.'),
  queue_full: e(429, 'overloaded_error', 'Too many requests wait; retry later.'),
  slow_reader: e(
    408,
    'invalid_request_error',
    'The client reads its stream too slowly; the buffer limit was reached.',
  ),
  request_timeout: e(408, 'invalid_request_error', 'The client took too long to send the request.'),
  headers_too_large: e(431, 'invalid_request_error', 'The request headers exceed the limit.'),
  upgrade_required: e(426, 'invalid_request_error', 'The route speaks WebSocket only.'),
  socket_limit_exceeded: e(
    429,
    'overloaded_error',
    'The socket has too many generations at once; wait for one to end.',
  ),
  capacity_exceeded: e(
    422,
    'invalid_request_error',
    'The request can never fit the KV cache of this server.',
  ),
  shutting_down: e(503, 'overloaded_error', 'The server is shutting down; retry elsewhere.'),
  engine_failed: e(503, 'server_error', 'The native session failed; retry.'),
  session_restarted: e(
    503,
    'server_error',
    'The native session failed while it computed this request and is restarted; retry.',
  ),
  session_restarting: e(503, 'overloaded_error', 'The native session is being restarted; retry.'),
  grammar_failed: e(503, 'server_error', 'The allowed tokens did not come in time; retry.'),
  logits_not_finite: e(
    500,
    'server_error',
    'The model answered NaN or infinity for this request; the adapter or its scale is likely bad.',
  ),
  internal_error: e(500, 'server_error', 'A defect in the server.'),
  // adapters: naming and life cycle
  adapter_not_found: e(404, 'not_found_error', 'No adapter is registered under this name.'),
  adapter_name_invalid: e(400, 'invalid_request_error', 'The adapter name is not allowed.'),
  adapter_limit_exceeded: e(409, 'conflict_error', 'The configured number of adapters is reached.'),
  adapter_too_large: e(
    413,
    'invalid_request_error',
    'The adapter is larger than the configured limit.',
  ),
  adapter_never_fits: e(
    422,
    'invalid_request_error',
    'The adapters of the request are larger than the adapter memory.',
  ),
  adapter_load_failed: e(503, 'server_error', 'The stored adapter could not be loaded; retry.'),
  adapter_path_forbidden: e(
    403,
    'invalid_request_error',
    'The path is outside the configured adapter root.',
  ),
  adapter_upload_incomplete: e(
    400,
    'invalid_request_error',
    'The upload lacks one of the two adapter files.',
  ),
  // adapters: life cycle
  generation_mismatch: e(
    412,
    'conflict_error',
    'The condition names another generation than the current one.',
  ),
  generation_not_found: e(404, 'not_found_error', 'The name does not keep such a generation.'),
  adapter_already_loaded: e(
    400,
    'invalid_request_error',
    'The name is registered; load_inplace replaces it.',
  ),
  adapter_load_timeout: e(503, 'server_error', 'The adapter did not become resident in time.'),
  generation_current: e(
    409,
    'conflict_error',
    'The generation is the current one; a split needs another one.',
  ),
  pin_limit_exceeded: e(
    409,
    'conflict_error',
    'One slot and the room of one adapter must stay free of pins.',
  ),
  adapter_pinned: e(409, 'conflict_error', 'The adapter is pinned here; unpin it first.'),
  registry_conflict: e(
    409,
    'conflict_error',
    'Others changed the name again and again meanwhile; retry.',
  ),
  registry_unavailable: e(
    503,
    'server_error',
    'The adapter registry cannot be reached; nothing was changed.',
  ),
  registry_outcome_unknown: e(
    503,
    'server_error',
    'The registry did not confirm the change; read it back before retrying.',
  ),
  registry_lost: e(
    503,
    'server_error',
    'The registry is not the one this server knew; changes are refused.',
  ),
  blob_missing: e(503, 'server_error', 'The content of the adapter is missing in the blob store.'),
  blob_unavailable: e(503, 'server_error', 'The blob store cannot be reached or refused.'),
  // adapters: sources
  archive_invalid: e(422, 'invalid_request_error', 'The archive is malformed.'),
  archive_unsafe: e(
    422,
    'invalid_request_error',
    'The archive has a link, a special file or a path that leads out of it.',
  ),
  archive_limit_exceeded: e(
    413,
    'invalid_request_error',
    'The archive has too many entries or unpacks to too many bytes.',
  ),
  source_forbidden: e(403, 'invalid_request_error', 'The server does not fetch from this address.'),
  source_not_found: e(404, 'not_found_error', 'The remote source does not have the adapter.'),
  source_unavailable: e(502, 'server_error', 'The remote source failed or was too slow.'),
  // adapters: content
  adapter_config_invalid: e(422, 'invalid_request_error', 'adapter_config.json is malformed.'),
  adapter_config_unknown_field: e(
    422,
    'invalid_request_error',
    'adapter_config.json has a field this version does not know.',
  ),
  adapter_peft_type_unsupported: e(422, 'invalid_request_error', 'The peft_type is not supported.'),
  adapter_task_type_unsupported: e(
    422,
    'invalid_request_error',
    'The task_type is not a causal language model.',
  ),
  adapter_pickle_refused: e(
    422,
    'invalid_request_error',
    'Pickle files are never read; save as safetensors.',
  ),
  adapter_dora_unsupported: e(422, 'invalid_request_error', 'DoRA adapters are not supported.'),
  adapter_modules_to_save_unsupported: e(
    422,
    'invalid_request_error',
    'modules_to_save is not supported.',
  ),
  adapter_bias_unsupported: e(
    422,
    'invalid_request_error',
    'Adapters with trained biases are not supported.',
  ),
  adapter_lora_bias_unsupported: e(422, 'invalid_request_error', 'lora_bias is not supported.'),
  adapter_alora_unsupported: e(422, 'invalid_request_error', 'Activated LoRA is not supported.'),
  adapter_init_changes_base: e(
    422,
    'invalid_request_error',
    'The initialisation changed the base weights; convert the adapter to plain LoRA first.',
  ),
  adapter_trainable_tokens_unsupported: e(
    422,
    'invalid_request_error',
    'trainable_token_indices is not supported.',
  ),
  adapter_embedding_unsupported: e(
    422,
    'invalid_request_error',
    'Adapters of embeddings or the output head are not supported.',
  ),
  adapter_layer_replication_unsupported: e(
    422,
    'invalid_request_error',
    'layer_replication is not supported.',
  ),
  adapter_target_parameters_unsupported: e(
    422,
    'invalid_request_error',
    'target_parameters is not supported.',
  ),
  adapter_variant_unsupported: e(
    422,
    'invalid_request_error',
    'A LoRA variant (BD-LoRA, QALoRA, KaSA, Arrow, ...) is not supported.',
  ),
  adapter_regex_unsupported: e(
    422,
    'invalid_request_error',
    'target_modules uses a regular expression feature that is not supported.',
  ),
  adapter_module_unknown: e(
    422,
    'invalid_request_error',
    'The adapter targets a module that the base model does not have or that cannot be adapted.',
  ),
  adapter_module_missing: e(
    422,
    'invalid_request_error',
    'A targeted module has no tensors in the file.',
  ),
  adapter_tensor_unexpected: e(
    422,
    'invalid_request_error',
    'The file has a tensor that the config does not explain.',
  ),
  adapter_shape_mismatch: e(
    422,
    'invalid_request_error',
    'A tensor does not have the shape that the base model and the config require.',
  ),
  adapter_rank_exceeded: e(422, 'invalid_request_error', 'A rank is above the limit.'),
  adapter_not_finite: e(
    422,
    'invalid_request_error',
    'A tensor or scale has NaN or infinite values.',
  ),
  safetensors_invalid: e(422, 'invalid_request_error', 'The safetensors file is malformed.'),
  safetensors_dtype_unsupported: e(
    422,
    'invalid_request_error',
    'A tensor has an element type that is not supported here.',
  ),
  // models and start-up (never sent over HTTP, status kept for uniformity)
  model_config_unsupported: e(
    500,
    'server_error',
    'config.json has a value that would change the result and is not supported.',
  ),
  model_weights_invalid: e(
    500,
    'server_error',
    'The checkpoint lacks a tensor or a tensor has the wrong shape.',
  ),
  model_quantization_unsupported: e(
    500,
    'server_error',
    'The checkpoint was quantized in a way that is not supported.',
  ),
  model_import_required: e(
    500,
    'server_error',
    'The model must be imported (loramux import) before it can be served.',
  ),
  tokenizer_invalid: e(500, 'server_error', 'tokenizer.json is missing or cannot be read.'),
  config_invalid: e(
    500,
    'server_error',
    'A command-line option, environment value or configuration field is invalid.',
  ),
  store_corrupt: e(500, 'server_error', 'The adapter store on disk is damaged.'),
  native_addon_missing: e(500, 'server_error', 'The native addon could not be loaded.'),
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

export interface LoramuxErrorOptions {
  cause?: unknown;
  /** The request field at fault, for OpenAI's `param`. */
  param?: string;
  /** The digest that is current, for generation_mismatch; null when the name does not exist. */
  currentGeneration?: string | null;
}

/** An error with a stable code from the table. */
export class LoramuxError extends Error {
  readonly code: ErrorCode;
  readonly param: string | undefined;
  readonly currentGeneration: string | null | undefined;

  constructor(code: ErrorCode, message: string, options: LoramuxErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'LoramuxError';
    this.code = code;
    this.param = options.param;
    this.currentGeneration = options.currentGeneration;
  }

  get status(): number {
    return ERRORS[this.code].status;
  }

  get type(): ErrorEntry['type'] {
    return ERRORS[this.code].type;
  }
}

/** Any thrown value as a LoramuxError; what is not one is a defect (`internal_error`). */
export function toLoramuxError(error: unknown): LoramuxError {
  if (error instanceof LoramuxError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new LoramuxError('internal_error', message, { cause: error });
}

/** What is refused or left unfinished because the server ends. */
export function shuttingDown(): LoramuxError {
  return new LoramuxError('shutting_down', ERRORS.shutting_down.summary);
}
