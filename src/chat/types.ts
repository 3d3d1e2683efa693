/** What a chat request hands to a template. Typed values only; the transport checks their shape. */
import type { JsonObject, JsonValue } from '../importer/json.ts';

/** One message as templates read it: a role, and whatever else the template looks for. */
export interface ChatMessage {
  readonly role: string;
  readonly [key: string]: JsonValue;
}

export interface ChatInput {
  readonly messages: readonly ChatMessage[];
  /** Tool definitions as OpenAI writes them; undefined and empty are the same to a template. */
  readonly tools?: readonly JsonObject[] | undefined;
  readonly documents?: readonly JsonObject[] | undefined;
  /** Append what begins an answer. */
  readonly addGenerationPrompt: boolean;
  /** Leave the last message open, to be continued. Excludes `addGenerationPrompt`. */
  readonly continueFinalMessage: boolean;
  /** `chat_template_kwargs`: variables of the template's own, e.g. enable_thinking. */
  readonly kwargs: JsonObject;
}

export interface ChatTemplate {
  /** The Jinja text that renders chats with tools, or those without. */
  source(hasTools: boolean): string;
  /**
   * The prompt, special tokens spelled out: encode it without adding any.
   * @throws LoramuxError the promise: chat_template_failed (the template's own refusal, what cannot
   *   be rendered, limits), chat_template_invalid, invalid_request, queue_full, shutting_down; the
   *   reason of a signal that was aborted while the chat waited
   */
  render(input: ChatInput, signal?: AbortSignal): Promise<string>;
}
