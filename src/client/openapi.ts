/** Written by `npm run client:types` from openapi.yaml. Do not edit. */

export interface Error {
  error: {
    /** What is wrong, where, and what to do. */
    message: string;
    type:
      | 'invalid_request_error'
      | 'not_found_error'
      | 'overloaded_error'
      | 'server_error'
      | 'conflict_error';
    /** The request field at fault. */
    param: string | null;
    /** A stable code; docs/errors.md lists them. */
    code: string;
    /** With generation_mismatch: what is current; null when there is no such name. */
    current_generation?: string | null;
  };
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: {
    cached_tokens: number;
  };
}

export interface Logprobs {
  tokens: Array<string>;
  token_logprobs: Array<number | null>;
  top_logprobs: Array<Record<string, number> | null>;
  text_offset: Array<number>;
}

export interface Choice {
  index: number;
  text: string;
  logprobs: Logprobs | null;
  finish_reason: 'stop' | 'length' | null;
  /** The stop text or stop token that ended the choice. */
  stop_reason: string | number | null;
  /** By token of the prompt: token ids to log-probabilities; null for the first. */
  prompt_logprobs?: Array<Record<
    string,
    {
      logprob: number;
      /** 1 is the likeliest. */
      rank: number;
      decoded_token: string;
    }
  > | null>;
  /** With return_token_ids; of a stream only in the first chunk. */
  prompt_token_ids?: Array<number>;
  /** With return_token_ids: the generated tokens, those of the chunk. */
  token_ids?: Array<number>;
}

export type CompletionRequest = {
  /** The base model, an adapter, or base:adapter. */
  model: string;
  adapter?: AdapterRef;
  /** Weight of the adapter's delta; 1 as trained. */
  adapter_scale?: number | null;
  adapters?: AdapterSum;
  /** No stop token or stop text ends the answer earlier. */
  min_tokens?: number | null;
  /** 0 is greedy. */
  temperature?: number | null;
  /** Nucleus sampling. */
  top_p?: number | null;
  /** -1 and 0 are off. */
  top_k?: number | null;
  /** Least probability relative to the most likely token. */
  min_p?: number | null;
  /** Choices per prompt. */
  n?: number | null;
  /** Answer with server-sent events. */
  stream?: boolean | null;
  /** Only together with stream. */
  stream_options?: {
    /** A last chunk with the usage. */
    include_usage?: boolean;
    /** The usage so far in every chunk. */
    continuous_usage_stats?: boolean;
    /** Only false is accepted. */
    include_obfuscation?: boolean;
  } | null;
  /** Texts that end generation; they are not part of the answer. */
  stop?: string | Array<string> | null;
  /** Token ids that end generation. */
  stop_token_ids?: Array<number> | null;
  /** Keep the stop text in the answer. */
  include_stop_str_in_output?: boolean | null;
  /** The end-of-sequence token does not end the answer. */
  ignore_eos?: boolean | null;
  /** Over generated tokens. */
  presence_penalty?: number | null;
  /** Over generated tokens. */
  frequency_penalty?: number | null;
  /** Over prompt and generated tokens. */
  repetition_penalty?: number | null;
  /** Token id to a bias on its logit. */
  logit_bias?: Record<string, number> | null;
  /** The same seed gives the same tokens, in any batch. */
  seed?: number | null;
  /** No other tokens are generated. */
  allowed_token_ids?: Array<number> | null;
  /** Words that are not generated. */
  bad_words?: Array<string> | null;
  /** Keep so many tokens of the prompt; -1: as many as there is room for. */
  truncate_prompt_tokens?: number | null;
  /** Which end of the prompt is cut off; needs truncate_prompt_tokens. */
  truncation_side?: 'left' | 'right' | null;
  /** Leave special tokens out of the text. */
  skip_special_tokens?: boolean | null;
  /** The split_key of requests without one; it changes nothing else. */
  user?: string | null;
  /** Requests with the same key get the same side of a split adapter name. */
  split_key?: string | null;
  /** Accepted; it changes nothing. */
  session_id?: string | null;
  /** Requests share cached prompts only with the same salt. */
  cache_salt?: string | null;
  /** A text, several texts, token ids, or several lists of token ids. */
  prompt: string | Array<string> | Array<number> | Array<Array<number>>;
  /** Tokens to generate; 0 only scores the prompt. */
  max_tokens?: number | null;
  /** The n likeliest of so many choices; in streams only n. */
  best_of?: number | null;
  /** Log-probabilities of the likeliest tokens. */
  logprobs?: number | null;
  /** Answer with the prompt before the generated text. */
  echo?: boolean | null;
  /** Let the tokenizer add its tokens to a text prompt. */
  add_special_tokens?: boolean | null;
  /** Log-probabilities of the prompt, with so many likely tokens; not in streams. */
  prompt_logprobs?: number | null;
  /** Answer with the ids of the tokens too. */
  return_token_ids?: boolean | null;
  /** Show the tokens of log-probabilities as token_id:N. */
  return_tokens_as_token_ids?: boolean | null;
  /** The end of the answer's id. */
  request_id?: string | null;
  response_format?: ResponseFormat;
  structured_outputs?: StructuredOutputs;
  /** A JSON Schema that the answer satisfies. */
  guided_json?: Record<string, unknown> | string | null;
  /** A pattern that the whole answer matches. */
  guided_regex?: string | null;
  /** Texts, one of which is the answer. */
  guided_choice?: Array<string> | null;
  /** A grammar in EBNF that the answer follows. */
  guided_grammar?: string | null;
  /** The only one there is. */
  guided_decoding_backend?: 'xgrammar' | 'auto' | null;
  /** Only null is accepted. */
  guided_whitespace_pattern?: null;
};

/** What the answer must be. */
export type ResponseFormat = {
  type: 'text' | 'json_object' | 'json_schema' | 'structural_tag';
  json_schema?: {
    name?: string;
    description?: string | null;
    /** The schema is kept to in any case. */
    strict?: boolean | null;
    schema?: Record<string, unknown>;
  } | null;
  format?: Record<string, unknown> | null;
} | null;

/** What the answer must be, one of the fields. */
export type StructuredOutputs = {
  json?: Record<string, unknown> | string | null;
  regex?: string | null;
  choice?: Array<string> | null;
  grammar?: string | null;
  json_object?: boolean | null;
  structural_tag?: Record<string, unknown> | string | null;
  disable_any_whitespace?: false | null;
  disable_additional_properties?: false | null;
  disable_fallback?: boolean | null;
  whitespace_pattern?: null;
} | null;

/** Several adapters: the sum of their weighted deltas on the base model. */
export type AdapterSum = Array<{
  name?: string;
  generation?: string;
  weight?: number;
}> | null;

/** The adapters that answered together, in the order of the request. */
export type AnsweredBy = Array<{
  name: string;
  /** Digest of the adapter. */
  generation: string;
  weight: number;
}>;

/** An adapter by name, or by one of the generations that a name keeps; model is then the base. */
export type AdapterRef =
  | string
  | {
      name?: string;
      generation?: string;
    }
  | null;

export interface Completion {
  id: string;
  object: 'text_completion';
  created: number;
  model: string;
  /** Digest of the adapter that answered. */
  adapter_generation?: string;
  adapter_generations?: AnsweredBy;
  choices: Array<Choice>;
  usage: Usage;
}

export interface CompletionChunk {
  id: string;
  object: 'text_completion';
  created: number;
  model: string;
  /** Digest of the adapter that answered. */
  adapter_generation?: string;
  adapter_generations?: AnsweredBy;
  choices: Array<Choice>;
  usage?: Usage | null;
}

export type ChatRequest = {
  /** The base model, an adapter, or base:adapter. */
  model: string;
  adapter?: AdapterRef;
  /** Weight of the adapter's delta; 1 as trained. */
  adapter_scale?: number | null;
  adapters?: AdapterSum;
  /** No stop token or stop text ends the answer earlier. */
  min_tokens?: number | null;
  /** 0 is greedy. */
  temperature?: number | null;
  /** Nucleus sampling. */
  top_p?: number | null;
  /** -1 and 0 are off. */
  top_k?: number | null;
  /** Least probability relative to the most likely token. */
  min_p?: number | null;
  /** Choices per prompt. */
  n?: number | null;
  /** Answer with server-sent events. */
  stream?: boolean | null;
  /** Only together with stream. */
  stream_options?: {
    /** A last chunk with the usage. */
    include_usage?: boolean;
    /** The usage so far in every chunk. */
    continuous_usage_stats?: boolean;
    /** Only false is accepted. */
    include_obfuscation?: boolean;
  } | null;
  /** Texts that end generation; they are not part of the answer. */
  stop?: string | Array<string> | null;
  /** Token ids that end generation. */
  stop_token_ids?: Array<number> | null;
  /** Keep the stop text in the answer. */
  include_stop_str_in_output?: boolean | null;
  /** The end-of-sequence token does not end the answer. */
  ignore_eos?: boolean | null;
  /** Over generated tokens. */
  presence_penalty?: number | null;
  /** Over generated tokens. */
  frequency_penalty?: number | null;
  /** Over prompt and generated tokens. */
  repetition_penalty?: number | null;
  /** Token id to a bias on its logit. */
  logit_bias?: Record<string, number> | null;
  /** The same seed gives the same tokens, in any batch. */
  seed?: number | null;
  /** No other tokens are generated. */
  allowed_token_ids?: Array<number> | null;
  /** Words that are not generated. */
  bad_words?: Array<string> | null;
  /** Keep so many tokens of the prompt; -1: as many as there is room for. */
  truncate_prompt_tokens?: number | null;
  /** Which end of the prompt is cut off; needs truncate_prompt_tokens. */
  truncation_side?: 'left' | 'right' | null;
  /** Leave special tokens out of the text. */
  skip_special_tokens?: boolean | null;
  /** The split_key of requests without one; it changes nothing else. */
  user?: string | null;
  /** Requests with the same key get the same side of a split adapter name. */
  split_key?: string | null;
  /** Accepted; it changes nothing. */
  session_id?: string | null;
  /** Requests share cached prompts only with the same salt. */
  cache_salt?: string | null;
  response_format?: ResponseFormat;
  structured_outputs?: StructuredOutputs;
  /** A JSON Schema that the answer satisfies. */
  guided_json?: Record<string, unknown> | string | null;
  /** A pattern that the whole answer matches. */
  guided_regex?: string | null;
  /** Texts, one of which is the answer. */
  guided_choice?: Array<string> | null;
  /** A grammar in EBNF that the answer follows. */
  guided_grammar?: string | null;
  /** The only one there is. */
  guided_decoding_backend?: 'xgrammar' | 'auto' | null;
  /** Only null is accepted. */
  guided_whitespace_pattern?: null;
  /** The chat so far. */
  messages: Array<ChatMessage>;
  /** Tokens to generate. Default: what is left of the context. */
  max_completion_tokens?: number | null;
  /** The former name of max_completion_tokens. */
  max_tokens?: number | null;
  /** Answer with the log-probabilities of the tokens. */
  logprobs?: boolean | null;
  /** Likeliest tokens at each place; needs logprobs. */
  top_logprobs?: number | null;
  /** What the model may call. */
  tools?: Array<Tool> | null;
  /** Which tools may or must be called. Default: auto with tools, else none. */
  tool_choice?:
    | 'none'
    | 'auto'
    | 'required'
    | {
        type: 'function';
        function: {
          /** One of tools. */
          name: string;
        };
      }
    | {
        type: 'allowed_tools';
        allowed_tools: {
          mode: 'auto' | 'required';
          tools: Array<{
            type: 'function';
            function: {
              /** One of tools. */
              name: string;
            };
          }>;
        };
      }
    | null;
  /** More than one call in an answer. */
  parallel_tool_calls?: boolean | null;
  /** Begin the answer with the last message, if it is the assistant's. */
  echo?: boolean | null;
  /** Let the template begin an answer. */
  add_generation_prompt?: boolean | null;
  /** Continue the last message. */
  continue_final_message?: boolean | null;
  /** Let the tokenizer add its tokens to what the template wrote. */
  add_special_tokens?: boolean | null;
  /** A template for this request, where the server allows it. */
  chat_template?: string | null;
  /** Variables of the template's own. */
  chat_template_kwargs?: Record<string, unknown> | null;
  /** Documents for templates that show some. */
  documents?: Array<Record<string, unknown>> | null;
  /** Log-probabilities of the prompt, with so many likely tokens; not in streams. */
  prompt_logprobs?: number | null;
  /** Answer with the ids of the tokens too. */
  return_token_ids?: boolean | null;
  /** Show the tokens of log-probabilities as token_id:N. */
  return_tokens_as_token_ids?: boolean | null;
  /** The end of the answer's id. */
  request_id?: string | null;
  /** Accepted; it changes nothing. */
  metadata?: Record<string, string> | null;
  /** Accepted; it changes nothing. */
  safety_identifier?: string | null;
  /** Accepted; it changes nothing. */
  prompt_cache_key?: string | null;
};

export interface TokenizeRequest {
  /** The base model or an adapter. Default: the base model. */
  model?: string | null;
  /** A text; excludes messages. */
  prompt?: string;
  /** The chat so far. */
  messages?: Array<ChatMessage>;
  /** Let the tokenizer add its tokens. Default: true with prompt, false with messages. */
  add_special_tokens?: boolean | null;
  /** Answer also with the vocabulary's spellings. */
  return_token_strs?: boolean | null;
  /** Let the template begin an answer. */
  add_generation_prompt?: boolean | null;
  /** Continue the last message. */
  continue_final_message?: boolean | null;
  /** What the model may call. */
  tools?: Array<Tool> | null;
  /** Documents for templates that show some. */
  documents?: Array<Record<string, unknown>> | null;
  /** A template for this request, where the server allows it. */
  chat_template?: string | null;
  /** Variables of the template's own. */
  chat_template_kwargs?: Record<string, unknown> | null;
}

export interface TokenizeResponse {
  /** How many tokens. */
  count: number;
  /** Longest prompt plus output. */
  max_model_len: number;
  /** The ids. */
  tokens: Array<number>;
  /** The vocabulary's spelling of each id, when it was asked for. */
  token_strs: Array<string> | null;
}

export interface DetokenizeRequest {
  /** The base model or an adapter. Default: the base model. */
  model?: string | null;
  /** The ids. */
  tokens: Array<number>;
}

export interface DetokenizeResponse {
  /** The text, special tokens included. */
  prompt: string;
}

export type ChatMessage =
  | {
      role: 'system' | 'developer' | 'user';
      /** A text, or parts of one. */
      content:
        | string
        | Array<{
            type: 'text';
            text: string;
          }>;
      /** Who speaks, for templates that show it. */
      name?: string | null;
    }
  | {
      role: 'assistant';
      /** A text, or parts of one; may be missing beside tool_calls. */
      content?:
        | string
        | Array<
            | {
                type: 'text';
                text: string;
              }
            | {
                type: 'refusal';
                refusal: string;
              }
          >
        | null;
      /** Who speaks, for templates that show it. */
      name?: string | null;
      /** The calls that the assistant made. */
      tool_calls?: Array<{
        id: string;
        type: 'function';
        function: {
          /** The tool that was called. */
          name: string;
          /** A JSON object. */
          arguments: string;
        };
      }> | null;
      /** The content of a message without one. */
      refusal?: string | null;
      /** What the assistant thought, for templates that show it. */
      reasoning_content?: string | null;
    }
  | {
      role: 'tool';
      /** A text, or parts of one. */
      content:
        | string
        | Array<{
            type: 'text';
            text: string;
          }>;
      tool_call_id: string;
      /** Who speaks, for templates that show it. */
      name?: string | null;
    };

export interface Tool {
  type: 'function';
  function: {
    /** Unique among the tools. */
    name: string;
    /** What it does, for the model. */
    description?: string | null;
    /** JSON schema of the arguments. Default: an object without any. */
    parameters?: Record<string, unknown> | null;
    /** Arguments follow the schema. Calls that the answer must have always do. */
    strict?: boolean | null;
  };
}

export interface ChatLogprobs {
  content: Array<ListedLogprob>;
  refusal: null;
}

export interface ChatCompletion {
  id: string;
  created: number;
  model: string;
  /** Changes with what the server runs. */
  system_fingerprint: string;
  /** Digest of the adapter that answered. */
  adapter_generation?: string;
  adapter_generations?: AnsweredBy;
  object: 'chat.completion';
  choices: Array<{
    index: number;
    message: {
      role: 'assistant';
      content: string | null;
      refusal: null;
      tool_calls?: Array<{
        id: string;
        type: 'function';
        function: {
          name: string;
          /** JSON. */
          arguments: string;
        };
      }>;
    };
    logprobs: ChatLogprobs | null;
    finish_reason: 'stop' | 'length' | 'tool_calls';
    /** The stop text or stop token that ended the choice. */
    stop_reason: string | number | null;
    /** With return_token_ids. */
    token_ids?: Array<number>;
  }>;
  usage: Usage;
  /** By token of the prompt: token ids to log-probabilities; null for the first. */
  prompt_logprobs?: Array<Record<
    string,
    {
      logprob: number;
      /** 1 is the likeliest. */
      rank: number;
      decoded_token: string;
    }
  > | null>;
  /** With return_token_ids. */
  prompt_token_ids?: Array<number>;
}

export interface ChatChunk {
  id: string;
  created: number;
  model: string;
  /** Changes with what the server runs. */
  system_fingerprint: string;
  /** Digest of the adapter that answered. */
  adapter_generation?: string;
  adapter_generations?: AnsweredBy;
  object: 'chat.completion.chunk';
  choices: Array<{
    index: number;
    delta: {
      role?: 'assistant';
      content?: string | null;
      refusal?: null;
      tool_calls?: Array<{
        index: number;
        id?: string;
        type?: 'function';
        function: {
          name?: string;
          arguments?: string;
        };
      }>;
    };
    logprobs: ChatLogprobs | null;
    finish_reason: 'stop' | 'length' | 'tool_calls' | null;
    /** The stop text or stop token that ended the choice. */
    stop_reason?: string | number | null;
    /** With return_token_ids: those of the chunk. */
    token_ids?: Array<number>;
  }>;
  usage?: Usage | null;
  /** With return_token_ids, in the first chunk. */
  prompt_token_ids?: Array<number>;
}

export type CreateResponse = {
  /** The base model, an adapter, or base:adapter. */
  model: string;
  adapter?: AdapterRef;
  /** Weight of the adapter's delta; 1 as trained. */
  adapter_scale?: number | null;
  adapters?: AdapterSum;
  structured_outputs?: StructuredOutputs;
  /** A JSON Schema that the answer satisfies. */
  guided_json?: Record<string, unknown> | string | null;
  /** A pattern that the whole answer matches. */
  guided_regex?: string | null;
  /** Texts, one of which is the answer. */
  guided_choice?: Array<string> | null;
  /** A grammar in EBNF that the answer follows. */
  guided_grammar?: string | null;
  /** The only one there is. */
  guided_decoding_backend?: 'xgrammar' | 'auto' | null;
  /** Only null is accepted. */
  guided_whitespace_pattern?: null;
  /** No stop token or stop text ends the answer earlier. */
  min_tokens?: number | null;
  /** 0 is greedy. */
  temperature?: number | null;
  /** Nucleus sampling. */
  top_p?: number | null;
  /** -1 and 0 are off. */
  top_k?: number | null;
  /** Least probability relative to the most likely token. */
  min_p?: number | null;
  /** Answer with server-sent events. */
  stream?: boolean | null;
  /** Texts that end generation; they are not part of the answer. */
  stop?: string | Array<string> | null;
  /** Token ids that end generation. */
  stop_token_ids?: Array<number> | null;
  /** Keep the stop text in the answer. */
  include_stop_str_in_output?: boolean | null;
  /** The end-of-sequence token does not end the answer. */
  ignore_eos?: boolean | null;
  /** Over generated tokens. */
  presence_penalty?: number | null;
  /** Over generated tokens. */
  frequency_penalty?: number | null;
  /** Over prompt and generated tokens. */
  repetition_penalty?: number | null;
  /** Token id to a bias on its logit. */
  logit_bias?: Record<string, number> | null;
  /** The same seed gives the same tokens, in any batch. */
  seed?: number | null;
  /** No other tokens are generated. */
  allowed_token_ids?: Array<number> | null;
  /** Words that are not generated. */
  bad_words?: Array<string> | null;
  /** Keep so many tokens of the prompt; -1: as many as there is room for. */
  truncate_prompt_tokens?: number | null;
  /** Which end of the prompt is cut off; needs truncate_prompt_tokens. */
  truncation_side?: 'left' | 'right' | null;
  /** Leave special tokens out of the text. */
  skip_special_tokens?: boolean | null;
  /** The split_key of requests without one; it changes nothing else. */
  user?: string | null;
  /** Requests with the same key get the same side of a split adapter name. */
  split_key?: string | null;
  /** Accepted; it changes nothing. */
  session_id?: string | null;
  /** Requests share cached prompts only with the same salt. */
  cache_salt?: string | null;
  /** A text, or the items so far. */
  input: string | Array<ResponseItem>;
  /** A system message before the input. */
  instructions?: string | null;
  /** Tokens to generate. Default: what is left of the context. */
  max_output_tokens?: number | null;
  /** What the text of the answer must be. */
  text?: {
    format?: ResponseTextFormat | null;
  } | null;
  /** What else the answer shows; it never has reasoning to show. */
  include?: Array<'message.output_text.logprobs' | 'reasoning.encrypted_content'> | null;
  /** Likeliest tokens at each place; needs include with message.output_text.logprobs. */
  top_logprobs?: number | null;
  /** What the model may call. */
  tools?: Array<ResponseFunction> | null;
  /** Which tools may or must be called. Default: auto. */
  tool_choice?: ResponseFunctionChoice | null;
  /** More than one call in an answer. */
  parallel_tool_calls?: boolean | null;
  /** Only together with stream. */
  stream_options?: {
    /** Only false is accepted. */
    include_obfuscation?: boolean;
  } | null;
  /** Comes back with the answer; it changes nothing. */
  metadata?: Record<string, string> | null;
  /** Accepted; it changes nothing. */
  safety_identifier?: string | null;
  /** Accepted; it changes nothing. */
  prompt_cache_key?: string | null;
  /** A template for this request, where the server allows it. */
  chat_template?: string | null;
  /** Variables of the template's own. */
  chat_template_kwargs?: Record<string, unknown> | null;
  /** The end of the answer's id. */
  request_id?: string | null;
};

/** A message, a call of a function, or what came of it. */
export type ResponseItem =
  | {
      type?: 'message';
      role: 'system' | 'developer' | 'user';
      /** A text, or parts of one. */
      content:
        | string
        | Array<{
            type: 'input_text';
            text: string;
          }>;
      /** Accepted; it changes nothing. */
      id?: string | null;
      /** Accepted; it changes nothing. */
      status?: 'in_progress' | 'completed' | 'incomplete' | null;
    }
  | {
      type?: 'message';
      role: 'assistant';
      /** A text, or parts of one. */
      content:
        | string
        | Array<
            | {
                type: 'output_text';
                text: string;
              }
            | {
                type: 'input_text';
                text: string;
              }
            | {
                type: 'refusal';
                refusal: string;
              }
          >;
      /** Accepted; it changes nothing. */
      id?: string | null;
      /** Accepted; it changes nothing. */
      status?: 'in_progress' | 'completed' | 'incomplete' | null;
    }
  | {
      type: 'function_call';
      call_id: string;
      /** The tool that was called. */
      name: string;
      /** A JSON object. */
      arguments: string;
      /** Accepted; it changes nothing. */
      id?: string | null;
      /** Accepted; it changes nothing. */
      status?: 'in_progress' | 'completed' | 'incomplete' | null;
    }
  | {
      type: 'function_call_output';
      call_id: string;
      /** A text, or parts of one. */
      output:
        | string
        | Array<{
            type: 'input_text';
            text: string;
          }>;
      /** Accepted; it changes nothing. */
      id?: string | null;
      /** Accepted; it changes nothing. */
      status?: 'in_progress' | 'completed' | 'incomplete' | null;
    };

export interface ResponseFunction {
  type: 'function';
  /** Unique among the tools. */
  name: string;
  /** What it does, for the model. */
  description?: string | null;
  /** JSON schema of the arguments. Default: an object without any. */
  parameters?: Record<string, unknown> | null;
  /** Arguments follow the schema. Calls that the answer must have always do. */
  strict?: boolean | null;
}

export type ResponseFunctionChoice =
  | 'none'
  | 'auto'
  | 'required'
  | {
      type: 'function';
      /** One of tools. */
      name: string;
    }
  | {
      type: 'allowed_tools';
      mode: 'auto' | 'required';
      tools: Array<{
        type: 'function';
        /** One of tools. */
        name: string;
      }>;
    };

export type ResponseTextFormat =
  | {
      type: 'text';
    }
  | {
      type: 'json_object';
    }
  | {
      type: 'json_schema';
      name: string;
      description?: string | null;
      /** The schema is kept to in any case. */
      strict?: boolean | null;
      schema: Record<string, unknown>;
    };

export interface ListedLogprob {
  token: string;
  logprob: number;
  bytes: Array<number>;
  top_logprobs: Array<{
    token: string;
    logprob: number;
    bytes: Array<number>;
  }>;
}

export interface ResponseOutputText {
  type: 'output_text';
  text: string;
  /** Always none. */
  annotations: Array<Record<string, unknown>>;
  /** With include; else none. */
  logprobs: Array<ListedLogprob>;
}

export type ResponseOutputItem =
  | {
      type: 'message';
      id: string;
      status: 'in_progress' | 'completed' | 'incomplete';
      role: 'assistant';
      content: Array<ResponseOutputText>;
    }
  | {
      type: 'function_call';
      id: string;
      call_id: string;
      name: string;
      /** JSON. */
      arguments: string;
      status: 'in_progress' | 'completed' | 'incomplete';
    };

export type ModelResponse = {
  id: string;
  object: 'response';
  created_at: number;
  /** With status completed. */
  completed_at: number | null;
  status: 'in_progress' | 'completed' | 'incomplete' | 'failed';
  /** Why a stream failed; docs/errors.md lists the codes. */
  error: {
    code: string;
    message: string;
  } | null;
  incomplete_details: {
    reason: 'max_output_tokens';
  } | null;
  model: string;
  /** Digest of the adapter that answered. */
  adapter_generation?: string;
  adapter_generations?: AnsweredBy;
  output: Array<ResponseOutputItem>;
  /** null until the answer ends. */
  usage: {
    input_tokens: number;
    input_tokens_details: {
      cached_tokens: number;
      /** Not counted: always 0. */
      cache_write_tokens: number;
    };
    output_tokens: number;
    output_tokens_details: {
      /** Not told apart: always 0. */
      reasoning_tokens: number;
    };
    total_tokens: number;
  } | null;
  instructions: string | null;
  max_output_tokens: number | null;
  metadata: Record<string, string>;
  parallel_tool_calls: boolean;
  prompt_cache_key: string | null;
  safety_identifier: string | null;
  temperature: number;
  text: {
    format: ResponseTextFormat;
  };
  tool_choice: ResponseFunctionChoice;
  tools: Array<ResponseFunction>;
  top_logprobs: number;
  top_p: number;
  user: string | null;
  /** Always so. */
  background: false;
  /** Always so. */
  previous_response_id: null;
  /** Always so. */
  reasoning: null;
  /** Always so. */
  service_tier: 'default';
  /** Always so. */
  store: false;
  /** Always so. */
  truncation: 'disabled';
};

export type ResponseEvent =
  | {
      type: 'response.created';
      /** From 0, one by one. */
      sequence_number: number;
      response: ModelResponse;
    }
  | {
      type: 'response.in_progress';
      /** From 0, one by one. */
      sequence_number: number;
      response: ModelResponse;
    }
  | {
      type: 'response.output_item.added';
      /** From 0, one by one. */
      sequence_number: number;
      output_index: number;
      item: ResponseOutputItem;
    }
  | {
      type: 'response.content_part.added';
      /** From 0, one by one. */
      sequence_number: number;
      item_id: string;
      output_index: number;
      content_index: number;
      part: ResponseOutputText;
    }
  | {
      type: 'response.output_text.delta';
      /** From 0, one by one. */
      sequence_number: number;
      item_id: string;
      output_index: number;
      content_index: number;
      delta: string;
      /** With include; else none. */
      logprobs: Array<ListedLogprob>;
    }
  | {
      type: 'response.output_text.done';
      /** From 0, one by one. */
      sequence_number: number;
      item_id: string;
      output_index: number;
      content_index: number;
      text: string;
      /** With include; else none. */
      logprobs: Array<ListedLogprob>;
    }
  | {
      type: 'response.content_part.done';
      /** From 0, one by one. */
      sequence_number: number;
      item_id: string;
      output_index: number;
      content_index: number;
      part: ResponseOutputText;
    }
  | {
      type: 'response.function_call_arguments.delta';
      /** From 0, one by one. */
      sequence_number: number;
      item_id: string;
      output_index: number;
      delta: string;
    }
  | {
      type: 'response.function_call_arguments.done';
      /** From 0, one by one. */
      sequence_number: number;
      item_id: string;
      output_index: number;
      name: string;
      arguments: string;
    }
  | {
      type: 'response.output_item.done';
      /** From 0, one by one. */
      sequence_number: number;
      output_index: number;
      item: ResponseOutputItem;
    }
  | {
      type: 'response.completed';
      /** From 0, one by one. */
      sequence_number: number;
      response: ModelResponse;
    }
  | {
      type: 'response.incomplete';
      /** From 0, one by one. */
      sequence_number: number;
      response: ModelResponse;
    }
  | {
      type: 'response.failed';
      /** From 0, one by one. */
      sequence_number: number;
      response: ModelResponse;
    }
  | {
      type: 'error';
      /** From 0, one by one. */
      sequence_number: number;
      code: string;
      message: string;
      param: string | null;
      error: {
        /** What is wrong, where, and what to do. */
        message: string;
        type:
          | 'invalid_request_error'
          | 'not_found_error'
          | 'overloaded_error'
          | 'server_error'
          | 'conflict_error';
        /** The request field at fault. */
        param: string | null;
        /** A stable code; docs/errors.md lists them. */
        code: string;
        /** With generation_mismatch: what is current; null when there is no such name. */
        current_generation?: string | null;
      };
    };

export interface Model {
  id: string;
  object: 'model';
  created: number;
  owned_by: 'loramux';
  /** The base's name, or where the adapter came from. */
  root: string;
  /** The base model of an adapter; null for the base itself. */
  parent: string | null;
  /** The digest of an adapter; null for the base. */
  generation: string | null;
  /** Longest prompt plus output, tokens. */
  max_model_len: number;
}

export interface ModelList {
  object: 'list';
  data: Array<Model>;
}

export interface Health {
  /** Requests are answered while it is ok or degraded. */
  status: 'ok' | 'degraded' | 'connecting' | 'restarting' | 'draining' | 'failed';
  model: string;
  version: string;
  engine: {
    running: number;
    waiting: number;
    steps: number;
    kv_blocks: number;
    kv_blocks_used: number;
    /** Why the engine gave up, when status is failed. */
    error: string | null;
  };
  session: {
    state: 'ok' | 'restarting' | 'failed';
    /** Since when, seconds since the epoch. */
    since: number;
    /** How often it was replaced since the server started. */
    restarts: number;
    /** What last put it at fault. */
    last_error: string | null;
  };
  adapters: {
    registered: number;
    damaged: number;
    resident: number;
    slots: number;
  };
  registry: {
    kind: 'file' | 'redis';
    state: 'connecting' | 'ok' | 'degraded' | 'lost';
    /** Why it is not ok, or a warning while it is. */
    reason: string | null;
    /** Since when, seconds since the epoch. */
    since: number;
    /** Age of what is known of it, milliseconds. */
    lag_ms: number;
  };
}

export interface Residency {
  /** Where its nearest copy is. */
  level: 'device' | 'host' | 'disk';
  /** It is kept in memory. */
  pinned: boolean;
  /** Requests in the batch that use it. */
  references: number;
  /** It goes as soon as its last reference does. */
  evicting: boolean;
}

export interface Split {
  generation: string;
  /** Its share of the requests. */
  weight: number;
}

export interface Adapter {
  name: string;
  object: 'adapter';
  /** SHA-256 of the current content; changes when the name moves. */
  generation: string;
  /** Seconds since the epoch. */
  created: number;
  /** When the name last changed, seconds since the epoch. */
  updated: number;
  /** Largest rank of any module. */
  rank: number;
  target_modules: Array<string>;
  /** Bytes it takes in adapter memory as float32; half as bfloat16 and a quarter as int8 (--lora-dtype). */
  resident_bytes: number;
  file_bytes: number;
  /** Its chats are rendered with a template of its own. */
  has_chat_template: boolean;
  /** Where it came from: a folder, hf:owner/name@commit, a URL or "upload". */
  source: string;
  /** Grows with every change of the name. */
  revision: number;
  /** Generations the name keeps, this one included. */
  generations: number;
  /** A second generation that answers a share of the requests. */
  split: Split | null;
  /** To be kept resident by every server with room. */
  pinned: boolean;
  residency: Residency;
}

export interface AdapterList {
  object: 'list';
  data: Array<Adapter>;
  /** Names whose stored files failed their check; they answer with store_corrupt. */
  damaged: Array<{
    name: string;
    reason: string;
  }>;
}

/** Exactly one of path, repo and url. */
export interface AdapterSource {
  /** A PEFT folder; relative paths start at the configured adapter root. */
  path?: string;
  /** A repository of the Hugging Face hub, owner/name. */
  repo?: string;
  /** The repository's branch, tag or commit. Default: main. */
  revision?: string | null;
  /** Folder of the repository that has the adapter. */
  subfolder?: string | null;
  /** An https URL of a .zip or .tar.gz archive. */
  url?: string;
}

export interface AdapterDeleted {
  name: string;
  object: 'adapter';
  deleted: true;
}

export interface Generation {
  /** SHA-256 of the content. */
  generation: string;
  object: 'adapter.generation';
  /** When the name got it, seconds since the epoch. */
  created: number;
  source: string;
  rank: number;
  target_modules: Array<string>;
  resident_bytes: number;
  file_bytes: number;
  /** Its chats are rendered with a template of its own. */
  has_chat_template: boolean;
  /** The name points to it. */
  current: boolean;
  /** It is the second side of the split. */
  canary: boolean;
  residency: Residency;
}

export interface GenerationList {
  object: 'list';
  name: string;
  /** Grows with every change of the name. */
  revision: number;
  /** A second generation that answers a share of the requests. */
  split: Split | null;
  /** To be kept resident by every server with room. */
  pinned: boolean;
  /** Most recently put first. */
  data: Array<Generation>;
}

export interface Rollback {
  /** A kept generation. Default: the one before the current one. */
  generation?: string | null;
}

export interface SetSplit {
  /** A kept generation that is not the current one. */
  generation: string;
  /** Its share of the requests. */
  weight: number;
}

export interface Load {
  /** A kept generation. Default: those that answer requests. */
  generation?: string | null;
  /** Also pin the name, or unpin it. */
  pinned?: boolean | null;
}

export interface Evict {
  /** A kept generation. Default: those that answer requests. */
  generation?: string | null;
}

export interface Replica {
  id: string;
  object: 'replica';
  /** It is the server that answers. */
  self: boolean;
  /** Where clients reach it. */
  url: string;
  version: string;
  /** The base model. */
  model: string;
  /** Seconds since the epoch. */
  started: number;
  /** Its last sign of life, seconds since the epoch. */
  updated: number;
  /** Adapters that fit its memory for one step. */
  slots: number;
  /** Revision of the registry that it has applied. */
  revision: number;
  /** Sequences in its batch. */
  running: number;
  /** Sequences that wait for it. */
  waiting: number;
  /** What it has in memory. */
  adapters: Array<{
    generation: string;
    /** Names that lead to it. */
    names: Array<string>;
    level: 'device' | 'host';
    pinned: boolean;
  }>;
}

export interface ReplicaList {
  object: 'list';
  data: Array<Replica>;
}

export interface LoadLora {
  /** Name of the adapter. */
  lora_name: string;
  /** A PEFT folder below the adapter root, or a Hugging Face repository, owner/name. */
  lora_path: string;
  /** Replace an adapter that has the name. */
  load_inplace?: boolean | null;
  /** Generation that must be current; otherwise generation_mismatch. */
  expected_generation?: string | null;
  /** Only the base model of this server. */
  base_model_name?: string | null;
  /** Only false: there are no expert layers. */
  is_3d_lora_weight?: boolean | null;
}

export interface UnloadLora {
  /** Name of the adapter. */
  lora_name: string;
  /** Accepted for compatibility; it changes nothing. */
  lora_int_id?: number | null;
  /** Generation that must be current; otherwise generation_mismatch. */
  expected_generation?: string | null;
}

export interface SglangLoad {
  /** Name of the adapter. */
  lora_name: string;
  /** A PEFT folder below the adapter root, or a Hugging Face repository, owner/name. */
  lora_path: string;
  /** Keep it resident on every server with room. */
  pinned?: boolean | null;
  /** Accepted for compatibility; it changes nothing. */
  lora_id?: string | null;
}

export interface SglangUnload {
  /** Name of the adapter. */
  lora_name: string;
  /** Accepted for compatibility; it changes nothing. */
  lora_id?: string | null;
}

export interface SglangUpdate {
  success: boolean;
  /** Empty on success. */
  error_message: string;
  /** Where every registered adapter came from, by name. */
  loaded_adapters: Record<string, string>;
}

export interface GenerateFrame {
  type: 'generate';
  id: string;
  /** Token frames that may be sent before the first credit; without it there is no such limit. */
  window?: number | null;
  /** The base model, an adapter, or base:adapter. */
  model: string;
  adapter?: AdapterRef;
  /** Weight of the adapter's delta; 1 as trained. */
  adapter_scale?: number | null;
  adapters?: AdapterSum;
  /** No stop token or stop text ends the answer earlier. */
  min_tokens?: number | null;
  /** 0 is greedy. */
  temperature?: number | null;
  /** Nucleus sampling. */
  top_p?: number | null;
  /** -1 and 0 are off. */
  top_k?: number | null;
  /** Least probability relative to the most likely token. */
  min_p?: number | null;
  /** Choices per prompt. */
  n?: number | null;
  /** Texts that end generation; they are not part of the answer. */
  stop?: string | Array<string> | null;
  /** Token ids that end generation. */
  stop_token_ids?: Array<number> | null;
  /** Keep the stop text in the answer. */
  include_stop_str_in_output?: boolean | null;
  /** The end-of-sequence token does not end the answer. */
  ignore_eos?: boolean | null;
  /** Over generated tokens. */
  presence_penalty?: number | null;
  /** Over generated tokens. */
  frequency_penalty?: number | null;
  /** Over prompt and generated tokens. */
  repetition_penalty?: number | null;
  /** Token id to a bias on its logit. */
  logit_bias?: Record<string, number> | null;
  /** The same seed gives the same tokens, in any batch. */
  seed?: number | null;
  /** No other tokens are generated. */
  allowed_token_ids?: Array<number> | null;
  /** Words that are not generated. */
  bad_words?: Array<string> | null;
  /** Keep so many tokens of the prompt; -1: as many as there is room for. */
  truncate_prompt_tokens?: number | null;
  /** Which end of the prompt is cut off; needs truncate_prompt_tokens. */
  truncation_side?: 'left' | 'right' | null;
  /** Leave special tokens out of the text. */
  skip_special_tokens?: boolean | null;
  /** The split_key of requests without one; it changes nothing else. */
  user?: string | null;
  /** Requests with the same key get the same side of a split adapter name. */
  split_key?: string | null;
  /** Accepted; it changes nothing. */
  session_id?: string | null;
  /** Requests share cached prompts only with the same salt. */
  cache_salt?: string | null;
  /** A text, several texts, token ids, or several lists of token ids. */
  prompt: string | Array<string> | Array<number> | Array<Array<number>>;
  /** Tokens to generate; 0 only scores the prompt. */
  max_tokens?: number | null;
  /** The n likeliest of so many choices; in streams only n. */
  best_of?: number | null;
  /** Log-probabilities of the likeliest tokens. */
  logprobs?: number | null;
  /** Answer with the prompt before the generated text. */
  echo?: boolean | null;
  /** Let the tokenizer add its tokens to a text prompt. */
  add_special_tokens?: boolean | null;
  response_format?: ResponseFormat;
  structured_outputs?: StructuredOutputs;
  /** A JSON Schema that the answer satisfies. */
  guided_json?: Record<string, unknown> | string | null;
  /** A pattern that the whole answer matches. */
  guided_regex?: string | null;
  /** Texts, one of which is the answer. */
  guided_choice?: Array<string> | null;
  /** A grammar in EBNF that the answer follows. */
  guided_grammar?: string | null;
  /** The only one there is. */
  guided_decoding_backend?: 'xgrammar' | 'auto' | null;
  /** Only null is accepted. */
  guided_whitespace_pattern?: null;
}

export interface CancelFrame {
  type: 'cancel';
  id: string;
}

export interface CreditFrame {
  type: 'credit';
  id: string;
  /** Token frames that may be sent besides. */
  frames: number;
}

export interface PingFrame {
  type: 'ping';
}

export interface TokenFrame {
  type: 'token';
  id: string;
  /** The choice. */
  index: number;
  /** Empty while a character or a stop text is incomplete. */
  text: string;
  /** Absent for the echoed prompt and for text that was held back to the end. */
  token_id?: number;
  logprobs?: Logprobs;
  /** Digest of the adapter that answered. */
  adapter_generation?: string;
  adapter_generations?: AnsweredBy;
}

export interface DoneFrame {
  type: 'done';
  id: string;
  /** By choice. */
  finish_reasons: Array<'stop' | 'length' | 'cancelled'>;
  /** By choice: the stop text or stop token that ended it. */
  stop_reasons: Array<string | number | null>;
  usage: Usage;
  /** Digest of the adapter that answered. */
  adapter_generation?: string;
  adapter_generations?: AnsweredBy;
}

export interface ErrorFrame {
  type: 'error';
  /** The generation that is over; absent when none is, or when the frame named none. */
  id?: string;
  /** A frame that was refused while a generation with its id goes on. */
  refused?: {
    type: 'generate' | 'cancel' | 'credit' | 'ping';
    id: string;
  };
  error: {
    /** What is wrong, where, and what to do. */
    message: string;
    type:
      | 'invalid_request_error'
      | 'not_found_error'
      | 'overloaded_error'
      | 'server_error'
      | 'conflict_error';
    /** The request field at fault. */
    param: string | null;
    /** A stable code; docs/errors.md lists them. */
    code: string;
    /** With generation_mismatch: what is current; null when there is no such name. */
    current_generation?: string | null;
  };
}

export interface PongFrame {
  type: 'pong';
}

export interface Operations {
  createCompletion: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: CompletionRequest;
    answer: Completion;
    event: CompletionChunk;
  };
  createChatCompletion: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: ChatRequest;
    answer: ChatCompletion;
    event: ChatChunk;
  };
  createResponse: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: CreateResponse;
    answer: ModelResponse;
    event: ResponseEvent;
  };
  stream: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: undefined;
    answer: undefined;
    event: undefined;
  };
  tokenize: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: TokenizeRequest;
    answer: TokenizeResponse;
    event: undefined;
  };
  detokenize: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: DetokenizeRequest;
    answer: DetokenizeResponse;
    event: undefined;
  };
  listModels: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: undefined;
    answer: ModelList;
    event: undefined;
  };
  showModel: {
    path: {
      id: string;
    };
    query: undefined;
    headers: undefined;
    body: undefined;
    answer: Model;
    event: undefined;
  };
  listAdapters: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: undefined;
    answer: AdapterList;
    event: undefined;
  };
  putAdapter: {
    path: {
      name: string;
    };
    query: {
      canary_weight?: number;
    };
    headers: {
      'if-match'?: '*' | string;
      'if-none-match'?: '*';
    };
    body: AdapterSource;
    answer: Adapter;
    event: undefined;
  };
  showAdapter: {
    path: {
      name: string;
    };
    query: undefined;
    headers: undefined;
    body: undefined;
    answer: Adapter;
    event: undefined;
  };
  deleteAdapter: {
    path: {
      name: string;
    };
    query: undefined;
    headers: {
      'if-match'?: '*' | string;
    };
    body: undefined;
    answer: AdapterDeleted;
    event: undefined;
  };
  listGenerations: {
    path: {
      name: string;
    };
    query: undefined;
    headers: undefined;
    body: undefined;
    answer: GenerationList;
    event: undefined;
  };
  rollbackAdapter: {
    path: {
      name: string;
    };
    query: undefined;
    headers: {
      'if-match'?: '*' | string;
    };
    body: Rollback | undefined;
    answer: Adapter;
    event: undefined;
  };
  splitAdapter: {
    path: {
      name: string;
    };
    query: undefined;
    headers: {
      'if-match'?: '*' | string;
    };
    body: SetSplit;
    answer: Adapter;
    event: undefined;
  };
  endSplit: {
    path: {
      name: string;
    };
    query: undefined;
    headers: {
      'if-match'?: '*' | string;
    };
    body: undefined;
    answer: Adapter;
    event: undefined;
  };
  loadAdapter: {
    path: {
      name: string;
    };
    query: undefined;
    headers: undefined;
    body: Load | undefined;
    answer: Adapter;
    event: undefined;
  };
  evictAdapter: {
    path: {
      name: string;
    };
    query: undefined;
    headers: undefined;
    body: Evict | undefined;
    answer: Adapter;
    event: undefined;
  };
  pinAdapter: {
    path: {
      name: string;
    };
    query: undefined;
    headers: undefined;
    body: undefined;
    answer: Adapter;
    event: undefined;
  };
  unpinAdapter: {
    path: {
      name: string;
    };
    query: undefined;
    headers: undefined;
    body: undefined;
    answer: Adapter;
    event: undefined;
  };
  loadLoraAdapter: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: LoadLora;
    answer: string;
    event: undefined;
  };
  unloadLoraAdapter: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: UnloadLora;
    answer: string;
    event: undefined;
  };
  sglangLoadLoraAdapter: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: SglangLoad;
    answer: SglangUpdate;
    event: undefined;
  };
  sglangUnloadLoraAdapter: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: SglangUnload;
    answer: SglangUpdate;
    event: undefined;
  };
  listReplicas: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: undefined;
    answer: ReplicaList;
    event: undefined;
  };
  health: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: undefined;
    answer: Health;
    event: undefined;
  };
  metrics: {
    path: undefined;
    query: undefined;
    headers: undefined;
    body: undefined;
    answer: string;
    event: undefined;
  };
}

export const ROUTES = {
  createCompletion: ['POST', '/v1/completions'],
  createChatCompletion: ['POST', '/v1/chat/completions'],
  createResponse: ['POST', '/v1/responses'],
  stream: ['GET', '/v1/stream'],
  tokenize: ['POST', '/tokenize'],
  detokenize: ['POST', '/detokenize'],
  listModels: ['GET', '/v1/models'],
  showModel: ['GET', '/v1/models/{id}'],
  listAdapters: ['GET', '/v1/adapters'],
  putAdapter: ['PUT', '/v1/adapters/{name}'],
  showAdapter: ['GET', '/v1/adapters/{name}'],
  deleteAdapter: ['DELETE', '/v1/adapters/{name}'],
  listGenerations: ['GET', '/v1/adapters/{name}/generations'],
  rollbackAdapter: ['POST', '/v1/adapters/{name}/rollback'],
  splitAdapter: ['PUT', '/v1/adapters/{name}/split'],
  endSplit: ['DELETE', '/v1/adapters/{name}/split'],
  loadAdapter: ['POST', '/v1/adapters/{name}/load'],
  evictAdapter: ['POST', '/v1/adapters/{name}/evict'],
  pinAdapter: ['POST', '/v1/adapters/{name}/pin'],
  unpinAdapter: ['POST', '/v1/adapters/{name}/unpin'],
  loadLoraAdapter: ['POST', '/v1/load_lora_adapter'],
  unloadLoraAdapter: ['POST', '/v1/unload_lora_adapter'],
  sglangLoadLoraAdapter: ['POST', '/load_lora_adapter'],
  sglangUnloadLoraAdapter: ['POST', '/unload_lora_adapter'],
  listReplicas: ['GET', '/v1/replicas'],
  health: ['GET', '/health'],
  metrics: ['GET', '/metrics'],
} as const;
