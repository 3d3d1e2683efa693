/** A validated body of /v1/responses to the typed request of the generation layer. */
import { LoramuxError } from '../../errors.ts';
import type { WireToolChoice } from '../schemas/chat-messages.ts';
import type { CreateResponse, WireFunctionChoice } from '../schemas/responses.ts';
import { type ChatCall, type ChatServer, chatCall } from './chat-request.ts';
import { refuse } from './refuse.ts';
import { messagesOf } from './responses-input.ts';
import { type ToolFields, toolUseOf } from './tool-choice.ts';

const LOGPROBS = 'message.output_text.logprobs';

const named = ({ name }: { name: string }) => ({ type: 'function', function: { name } }) as const;

/** In the form of chats, where a function stands in an object of its own. */
function choiceOf(choice: WireFunctionChoice | null): WireToolChoice {
  if (choice === null || typeof choice === 'string') return choice;
  if (choice.type === 'function') return named(choice);
  const { type, mode, tools } = choice;
  return { type, allowed_tools: { mode, tools: tools.map(named) } };
}

function toolFields(body: CreateResponse): ToolFields {
  return {
    tools: (body.tools ?? []).map(({ type, ...made }) => ({ type, function: made })),
    tool_choice: choiceOf(body.tool_choice ?? null),
    parallel_tool_calls: body.parallel_tool_calls ?? null,
  };
}

function logprobsOf(body: CreateResponse): number | undefined {
  const top = body.top_logprobs ?? 0;
  if (body.include?.includes(LOGPROBS)) return top;
  if (top > 0) throw refuse(`top_logprobs needs include: ["${LOGPROBS}"]`, 'top_logprobs');
  return undefined;
}

/** @throws LoramuxError invalid_request, unsupported_field */
export function toResponseCall(body: CreateResponse, server: ChatServer): ChatCall {
  const parts = {
    tools: toolUseOf(toolFields(body), (tool) => `tools.${tool}.strict`),
    prompt: {
      messages: messagesOf(body),
      addGenerationPrompt: true,
      continueFinalMessage: false,
      kwargs: body.chat_template_kwargs ?? {},
      template: body.chat_template ?? undefined,
    },
    addSpecialTokens: false,
    maxTokens: body.max_output_tokens ?? undefined,
    logprobs: logprobsOf(body),
  };
  return chatCall(body, parts, server);
}

/** The layers below know a chat and its `messages`; in this request they are `input`. */
export function aboutInput(error: unknown): unknown {
  if (!(error instanceof LoramuxError) || error.param !== 'messages') return error;
  return new LoramuxError(error.code, error.message, { param: 'input', cause: error });
}
