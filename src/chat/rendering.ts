/** One rendering as a value: it is done here, or in the thread. */
import { LoramuxError } from '../errors.ts';
import type { RenderLimits } from '../jinja/run.ts';
import { messagesFor } from './messages.ts';
import type { CompiledTemplate } from './template.ts';
import type { ChatInput } from './types.ts';

/** With a template of the operator's. */
export const TRUSTED: RenderLimits = { workMax: 10_000_000, timeoutMs: 10_000 };
/** With one that came by the network: mostly the work, since a busy machine may lend it no time. */
export const UNTRUSTED: RenderLimits = { workMax: 500_000, timeoutMs: 5000 };

export interface Rendering {
  /** The template. */
  readonly source: string;
  /** Messages as they were sent. */
  readonly input: ChatInput;
  readonly limits: RenderLimits;
  readonly nowMs: number;
}

/** What a thread is given at its start. */
export interface RenderSetup {
  readonly specialTokens: Readonly<Record<string, string>>;
}

/** @throws what CompiledTemplate.render throws */
export function render(
  template: CompiledTemplate,
  { source, input, limits, nowMs }: Rendering,
  { specialTokens }: RenderSetup,
): string {
  const messages = messagesFor(input.messages, source);
  return template.render({ ...input, messages }, { specialTokens, now: new Date(nowMs), limits });
}

/** What a client is told where a rendering took too much. */
export function tooMuch(what: string, cause?: unknown): LoramuxError {
  return new LoramuxError(
    'chat_template_failed',
    `the chat template cannot render these messages: ${what}`,
    { param: 'messages', cause },
  );
}

/** Arrays and objects, and characters, of a chat that is tried on the event loop. */
const INLINE_VALUES_MAX = 128;
const INLINE_LENGTH_MAX = 65_536;

/** Whether looking at the chat takes the event loop no time worth mentioning. */
export function isShort({ messages, tools, documents, kwargs }: ChatInput): boolean {
  let values = INLINE_VALUES_MAX;
  let length = INLINE_LENGTH_MAX;
  const fits = (value: unknown): boolean => {
    if (typeof value === 'string') length -= value.length;
    if (typeof value !== 'object' || value === null) return length >= 0;
    values -= 1;
    if (values < 0 || (Array.isArray(value) && value.length > values)) return false;
    return Object.values(value).every(fits);
  };
  return [messages, tools, documents, kwargs].every(fits);
}
