/** Every field of OpenAI's and vLLM's references is honoured or refused by name, never ignored. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type TestServer, testServer } from './support.ts';

const OPENAI_COMPLETIONS = [
  ...['model', 'prompt', 'best_of', 'echo', 'frequency_penalty', 'logit_bias', 'logprobs'],
  ...['max_tokens', 'n', 'presence_penalty', 'seed', 'stop', 'stream', 'stream_options', 'suffix'],
  ...['temperature', 'top_p', 'user'],
];
const OPENAI_CHAT = [
  ...[
    'messages',
    'model',
    'audio',
    'frequency_penalty',
    'function_call',
    'functions',
    'logit_bias',
  ],
  ...['logprobs', 'max_completion_tokens', 'max_tokens', 'metadata', 'modalities', 'moderation'],
  ...['n', 'parallel_tool_calls', 'prediction', 'presence_penalty', 'prompt_cache_key'],
  ...['prompt_cache_options', 'prompt_cache_retention', 'reasoning_effort', 'response_format'],
  ...['safety_identifier', 'seed', 'service_tier', 'stop', 'store', 'stream', 'stream_options'],
  ...['temperature', 'tool_choice', 'tools', 'top_logprobs', 'top_p', 'user', 'verbosity'],
  'web_search_options',
];
/** vLLM's additions to both. */
const VLLM = [
  ...['use_beam_search', 'top_k', 'min_p', 'repetition_penalty', 'watermarking', 'length_penalty'],
  ...['stop_token_ids', 'include_stop_str_in_output', 'ignore_eos', 'min_tokens'],
  ...['skip_special_tokens', 'spaces_between_special_tokens', 'truncate_prompt_tokens'],
  ...['truncation_side', 'prompt_logprobs', 'logprob_token_ids', 'allowed_token_ids', 'bad_words'],
  ...['echo', 'add_special_tokens', 'response_format', 'structured_outputs', 'priority'],
  ...['request_id', 'session_id', 'return_tokens_as_token_ids', 'return_token_ids', 'cache_salt'],
  ...['routed_experts_prompt_start', 'return_token_offsets', 'return_mm_kwargs', 'vllm_xargs'],
  ...['kv_transfer_params', 'ec_transfer_params', 'repetition_detection', 'stream_interval'],
  ...['thinking_token_budget', 'guided_json', 'guided_regex', 'guided_choice', 'guided_grammar'],
  ...['guided_decoding_backend', 'guided_whitespace_pattern', 'logits_processors'],
];
/** Of the Responses API, earlier fields included. */
const OPENAI_RESPONSES = [
  ...['background', 'context_management', 'conversation', 'include', 'input', 'instructions'],
  ...['max_output_tokens', 'max_tool_calls', 'metadata', 'model', 'moderation', 'stream_options'],
  ...['parallel_tool_calls', 'previous_response_id', 'prompt', 'prompt_cache_key', 'stream'],
  ...['prompt_cache_options', 'prompt_cache_retention', 'reasoning', 'safety_identifier'],
  ...['service_tier', 'store', 'temperature', 'text', 'tool_choice', 'tools', 'top_logprobs'],
  ...['top_p', 'truncation', 'user'],
];
/** vLLM's additions to it, and those of its other routes that say how tokens are drawn. */
const VLLM_RESPONSES = [
  ...['logit_bias', 'top_k', 'skip_special_tokens', 'include_stop_str_in_output', 'request_id'],
  ...['mm_processor_kwargs', 'priority', 'cache_salt', 'enable_response_messages'],
  ...['previous_input_messages', 'previous_response', 'structured_outputs', 'repetition_penalty'],
  ...['seed', 'stop', 'ignore_eos', 'vllm_xargs', 'min_p', 'min_tokens', 'stop_token_ids'],
  ...['presence_penalty', 'frequency_penalty', 'allowed_token_ids', 'bad_words', 'guided_json'],
  ...['chat_template', 'chat_template_kwargs', 'truncate_prompt_tokens', 'session_id', 'n'],
];
const VLLM_COMPLETIONS = ['prompt_embeds'];
const VLLM_CHAT = [
  ...['add_generation_prompt', 'continue_final_message', 'documents', 'chat_template', 'best_of'],
  ...['chat_template_kwargs', 'media_io_kwargs', 'mm_processor_kwargs', 'include_reasoning'],
  'return_prompt_text',
];
const REQUIRED: ReadonlySet<string> = new Set([
  ...['/v1/completions model', '/v1/completions prompt', '/v1/responses model'],
  ...['/v1/chat/completions model', '/v1/chat/completions messages', '/v1/responses input'],
]);

let server: TestServer;
beforeAll(async () => {
  server = await testServer();
});
afterAll(() => server.close());

describe.each([
  ['/v1/completions', { prompt: 'Q' }, [...OPENAI_COMPLETIONS, ...VLLM, ...VLLM_COMPLETIONS]],
  [
    '/v1/chat/completions',
    { messages: [{ role: 'user', content: 'Q' }] },
    [...OPENAI_CHAT, ...VLLM, ...VLLM_CHAT],
  ],
  ['/v1/responses', { input: 'Q' }, [...OPENAI_RESPONSES, ...VLLM_RESPONSES]],
] as const)('fields of %s', (url, rest, fields) => {
  const send = (name: string, value: unknown) => {
    const payload = { model: 'base', ...rest, [name]: value };
    return server.app.inject({ method: 'POST', url, payload });
  };

  it.each([...new Set(fields)])('%s', async (name) => {
    // No field takes such a value, so whoever answers has not looked at it.
    const refused = await send(name, name === 'guided_json' ? 1 : { nonsense: 1 });
    const { error } = refused.json();
    expect(refused.statusCode, refused.body).toBe(400);
    expect([error.code, error.param]).not.toEqual(['unknown_field', name]);
    expect(error.param.split('.')[0]).toBe(name);
    const missing = await send(name, null);
    expect(missing.statusCode, missing.body).toBe(REQUIRED.has(`${url} ${name}`) ? 400 : 200);
  });
});
