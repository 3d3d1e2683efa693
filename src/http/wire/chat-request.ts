/** A validated body of /v1/chat/completions to the typed request of the generation layer. */
import type { AdapterRecord } from '../../adapters/types.ts';
import type { ChatService } from '../../chat/chat-service.ts';
import { messagesFor } from '../../chat/messages.ts';
import { detectToolFormat } from '../../chat/tools/index.ts';
import type { ToolFormat } from '../../chat/tools/types.ts';
import type { ChatInput, ChatMessage } from '../../chat/types.ts';
import { LoramuxError } from '../../errors.ts';
import type { GenerationRequest } from '../../generation/types.ts';
import type { JsonObject, JsonValue } from '../../importer/json.ts';
import type { ChatRequest } from '../schemas/chat.ts';
import type { WireMessage } from '../schemas/chat-messages.ts';
import { generationRequest, refuse } from './generation-request.ts';
import { type ToolUse, toolUseOf } from './tool-choice.ts';

/** A chat that can be started, and what must be known to read its answer. */
export interface ChatCall {
  readonly request: GenerationRequest;
  /** Begins the content of every choice. */
  readonly prefix: string;
  readonly tools: ToolUse | undefined;
  /** How the answer writes calls; known once the prompt is rendered. */
  toolFormat(): ToolFormat;
}

/** Arguments are text to clients and an object to templates. */
function callsOf(
  calls: NonNullable<(WireMessage & { role: 'assistant' })['tool_calls']>,
  at: number,
) {
  return calls.map((call, i): JsonObject => {
    const param = `messages.${at}.tool_calls.${i}.function.arguments`;
    const { name, arguments: text } = call.function;
    let parsed: JsonValue;
    try {
      // Clients send an empty text for a call without arguments.
      parsed = text === '' ? {} : (JSON.parse(text) as JsonValue);
    } catch {
      throw refuse(`${param} is not JSON`, param);
    }
    return { id: call.id, type: call.type, function: { name, arguments: parsed } };
  });
}

function messageOf(message: WireMessage, at: number): ChatMessage {
  if (message.role !== 'assistant') return message as unknown as ChatMessage;
  const { refusal, tool_calls: calls, content, ...rest } = message;
  const hasCalls = calls !== undefined && calls !== null && calls.length > 0;
  const said = content ?? refusal ?? undefined;
  if (said === undefined && !hasCalls) {
    throw refuse(`messages.${at} has neither content nor tool_calls`, `messages.${at}.content`);
  }
  return {
    ...rest,
    content: said ?? null,
    ...(hasCalls && { tool_calls: callsOf(calls, at) }),
  } as unknown as ChatMessage;
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

/** Where the prompt ends: before a new answer, or in the last message. */
function endingOf(
  body: ChatRequest,
): Pick<ChatInput, 'addGenerationPrompt' | 'continueFinalMessage'> {
  const continues = body.continue_final_message ?? false;
  if (continues && body.add_generation_prompt === true) {
    throw refuse(
      'continue_final_message continues the last message and add_generation_prompt begins a new ' +
        'one; send one of them',
      'continue_final_message',
    );
  }
  return {
    addGenerationPrompt: body.add_generation_prompt ?? !continues,
    continueFinalMessage: continues,
  };
}

/** The last message's text, with echo, if it is the assistant's. */
function prefixOf(body: ChatRequest): string {
  const last = body.messages.at(-1);
  if (body.echo !== true || last?.role !== 'assistant') return '';
  const { content } = last;
  if (typeof content === 'string') return content;
  return (content ?? []).map((part) => ('text' in part ? part.text : part.refusal)).join('\n');
}

/** What a request hands to a template must be something that the template reads. */
function checkKnown(source: string, name: string, param: string): void {
  if (new RegExp(`\\b${name.replaceAll(/[^\w]/g, '\\$&')}\\b`).test(source)) return;
  throw new LoramuxError(
    'unsupported_field',
    `the chat template of this model does not read ${name}, so ${param} would have no effect; ` +
      'leave it out',
    { param },
  );
}

/** @throws LoramuxError invalid_request, unsupported_field */
export function toChatCall(body: ChatRequest, baseName: string, chat: ChatService): ChatCall {
  const messages = body.messages.map(messageOf);
  const tools = toolUseOf(body);
  const ending = endingOf(body);
  const kwargs = body.chat_template_kwargs ?? {};
  let format: ToolFormat | undefined;

  const render = async (adapter: AdapterRecord | undefined): Promise<string> => {
    const template = await chat.templateFor(adapter, body.chat_template ?? undefined);
    const source = template.source(tools !== undefined);
    if (tools !== undefined) checkKnown(source, 'tools', 'tools');
    if (body.documents?.length) checkKnown(source, 'documents', 'documents');
    for (const name of Object.keys(kwargs)) {
      checkKnown(source, name, `chat_template_kwargs.${name}`);
    }
    format = detectToolFormat(source);
    return template.render({
      messages: messagesFor(messages, source),
      tools: tools?.definitions,
      documents: body.documents ?? undefined,
      ...ending,
      kwargs,
    });
  };

  const request = generationRequest(body, baseName, {
    prompts: [{ kind: 'chat', render, addSpecialTokens: body.add_special_tokens ?? false }],
    echo: false,
    addSpecialTokens: false,
    maxTokens: maxTokensOf(body),
    logprobs: logprobsOf(body),
  });
  return {
    // Some models mark calls with special tokens, which must not be left out then.
    request: tools === undefined ? request : { ...request, skipSpecialTokens: false },
    prefix: prefixOf(body),
    tools,
    toolFormat: () => format!,
  };
}
