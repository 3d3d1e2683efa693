/** The messages of a body to the prompt that a template makes of them. */
import type { AdapterRecord } from '../../adapters/types.ts';
import type { ChatService } from '../../chat/chat-service.ts';
import type { ChatInput, ChatMessage } from '../../chat/types.ts';
import { LoramuxError } from '../../errors.ts';
import type { JsonObject, JsonValue } from '../../importer/json.ts';
import type { ChatRequest } from '../schemas/chat.ts';
import type { WireMessage } from '../schemas/chat-messages.ts';
import { refuse } from './refuse.ts';

/** The fields that make a prompt. */
export type ChatFields = Pick<
  ChatRequest,
  | 'messages'
  | 'documents'
  | 'add_generation_prompt'
  | 'continue_final_message'
  | 'chat_template'
  | 'chat_template_kwargs'
>;

/** What a template is given, tools apart. */
export interface ChatPrompt
  extends Pick<ChatInput, 'addGenerationPrompt' | 'continueFinalMessage' | 'kwargs'> {
  readonly messages: readonly ChatMessage[];
  readonly documents?: readonly JsonObject[] | undefined;
  /** The request's own template. */
  readonly template?: string | undefined;
}

/**
 * Arguments are text to clients and an object to templates.
 * @throws LoramuxError invalid_request
 */
export function callArguments(text: string, param: string): JsonValue {
  try {
    // Clients send an empty text for a call without arguments.
    return text === '' ? {} : (JSON.parse(text) as JsonValue);
  } catch {
    throw refuse(`${param} is not JSON`, param);
  }
}

function callsOf(
  calls: NonNullable<(WireMessage & { role: 'assistant' })['tool_calls']>,
  at: number,
) {
  return calls.map((call, i): JsonObject => {
    const param = `messages.${at}.tool_calls.${i}.function.arguments`;
    const { name, arguments: text } = call.function;
    const given = callArguments(text, param);
    return { id: call.id, type: call.type, function: { name, arguments: given } };
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

/** Where the prompt ends: before a new answer, or in the last message. */
function endingOf(
  body: ChatFields,
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

/** @throws LoramuxError invalid_request */
export function chatPrompt(body: ChatFields): ChatPrompt {
  return {
    messages: body.messages.map(messageOf),
    ...endingOf(body),
    kwargs: body.chat_template_kwargs ?? {},
    documents: body.documents ?? undefined,
    template: body.chat_template ?? undefined,
  };
}

/**
 * Renders the chat with the template of whichever adapter answers.
 * @param tools what the template is told of
 * @param onSource told the template before it is rendered
 * @throws LoramuxError the promise: unsupported_field and what templates throw
 */
export function renderChat(
  { messages, template: own, ...prompt }: ChatPrompt,
  tools: readonly JsonObject[] | undefined,
  chat: ChatService,
  onSource: (source: string) => void = () => {},
): (adapter: AdapterRecord | undefined, signal: AbortSignal) => Promise<string> {
  return async (adapter, signal) => {
    const template = await chat.templateFor(adapter, own);
    const source = template.source(tools !== undefined);
    if (tools !== undefined) checkKnown(source, 'tools', 'tools');
    if (prompt.documents?.length) checkKnown(source, 'documents', 'documents');
    for (const name of Object.keys(prompt.kwargs)) {
      checkKnown(source, name, `chat_template_kwargs.${name}`);
    }
    onSource(source);
    return template.render({ ...prompt, messages, tools }, signal);
  };
}
