/** A validated body of /v1/chat/completions to the typed request of the generation layer. */
import type { ChatService } from '../../chat/chat-service.ts';
import { toolFormat } from '../../chat/tools/index.ts';
import type { ToolFormat, ToolFormatName } from '../../chat/tools/types.ts';
import type { GenerationRequest } from '../../generation/types.ts';
import type { ChatRequest } from '../schemas/chat.ts';
import type { TextFields } from '../schemas/constraint.ts';
import type { GenerationFields } from '../schemas/generation-fields.ts';
import { type ChatPrompt, chatPrompt, renderChat } from './chat-prompt.ts';
import { generationRequest, type OwnFields } from './generation-request.ts';
import { refuse } from './refuse.ts';
import { type ToolUse, toolConstraint, toolUseOf } from './tool-choice.ts';

/** A chat that can be started, and what must be known to read its answer. */
export interface ChatCall {
  readonly request: GenerationRequest;
  /** Begins the content of every choice. */
  readonly prefix: string;
  readonly tools: ToolUse | undefined;
  /** How the answer writes calls; known once the prompt is rendered. */
  toolFormat(): ToolFormat;
}

function maxTokensOf(body: ChatRequest): number | undefined {
  const { max_tokens: former, max_completion_tokens: current } = body;
  if (typeof former === 'number' && typeof current === 'number' && former !== current) {
    throw refuse(
      `max_tokens is ${former} and max_completion_tokens is ${current}; send one of them`,
      'max_tokens',
    );
  }
  return current ?? former ?? undefined;
}

function logprobsOf(body: ChatRequest): number | undefined {
  const top = body.top_logprobs ?? 0;
  if (body.logprobs === true) return top;
  if (top > 0) throw refuse('top_logprobs needs logprobs: true', 'top_logprobs');
  return undefined;
}

/** The last message's text, with echo, if it is the assistant's. */
function prefixOf(body: ChatRequest): string {
  const last = body.messages.at(-1);
  if (body.echo !== true || last?.role !== 'assistant') return '';
  const { content } = last;
  if (typeof content === 'string') return content;
  return (content ?? []).map((part) => ('text' in part ? part.text : part.refusal)).join('\n');
}

/** What the server is, as far as chats are concerned. */
export interface ChatServer {
  readonly baseName: string;
  readonly chat: ChatService;
  /** --tool-call-parser */
  readonly parser: ToolFormatName | 'auto';
}

/** A chat in typed parts, beside the fields that all routes share. */
export interface ChatParts extends Pick<OwnFields, 'addSpecialTokens' | 'maxTokens' | 'logprobs'> {
  readonly prompt: ChatPrompt;
  readonly tools: ToolUse | undefined;
  readonly prefix?: string;
  readonly promptLogprobs?: number | undefined;
}

/** @throws LoramuxError invalid_request, unsupported_field */
export function chatCall(
  body: GenerationFields & TextFields,
  { prompt, tools, prefix = '', promptLogprobs, addSpecialTokens, ...own }: ChatParts,
  { baseName, chat, parser }: ChatServer,
): ChatCall {
  let format: ToolFormat | undefined;
  const render = renderChat(prompt, tools?.definitions, chat, (source) => {
    format = toolFormat(parser, source);
  });
  const request = generationRequest(body, baseName, {
    prompts: [{ kind: 'chat', render, addSpecialTokens }],
    echo: false,
    addSpecialTokens: false,
    ...own,
  });
  return {
    // Some models mark calls with special tokens, which must not be left out then.
    request: {
      ...request,
      promptLogprobs,
      ...(tools !== undefined && {
        skipSpecialTokens: false,
        constraint: undefined,
        lateConstraint: () => toolConstraint(tools, format!, request.constraint),
      }),
    },
    prefix,
    tools,
    toolFormat: () => format!,
  };
}

/** @throws LoramuxError invalid_request, unsupported_field */
export function toChatCall(body: ChatRequest, server: ChatServer): ChatCall {
  const parts = {
    tools: toolUseOf(body),
    prompt: chatPrompt(body),
    prefix: prefixOf(body),
    addSpecialTokens: body.add_special_tokens ?? false,
    maxTokens: maxTokensOf(body),
    logprobs: logprobsOf(body),
    promptLogprobs: body.prompt_logprobs ?? undefined,
  };
  return chatCall(body, parts, server);
}
