/** Messages as clients send them, to messages as a certain template reads them. */
import type { JsonObject, JsonValue } from '../importer/json.ts';
import type { ChatMessage } from './types.ts';

/** Looping over the parts of a message's content; bounded, since adapters bring templates. */
const PARTS_LOOP = /\bin\s{1,8}\w{1,64}(?:\[[^\]]{0,64}\])?(?:\.content\b|\[['"]content['"]\])/;
const ASKS_FOR_TEXT = /content['"]?\]?\s+is\s+(?:not\s+)?string\b/;

/** Between the parts of a content, where a template takes only text. */
const PART_SEPARATOR = '\n';

const textOf = (part: JsonValue): string => {
  const { text, refusal } = part as JsonObject;
  return String(text ?? refusal ?? '');
};

/** What a template does with contents. */
interface Takes {
  readonly parts: boolean;
  readonly text: boolean;
}

function contentFor(content: JsonValue | undefined, takes: Takes): JsonValue {
  if (content === undefined || content === null) return '';
  if (typeof content === 'string') return takes.text ? content : [{ type: 'text', text: content }];
  const texts = (content as JsonValue[]).map(textOf);
  if (!takes.parts) return texts.join(PART_SEPARATOR);
  return texts.map((text) => ({ type: 'text', text }));
}

/**
 * Content in the form that the template takes (a text, or parts where it loops over them), and
 * `developer` as `system` for templates that do not know it.
 * @param source the template
 */
export function messagesFor(messages: readonly ChatMessage[], source: string): ChatMessage[] {
  const knowsDeveloper = source.includes('developer');
  const parts = PARTS_LOOP.test(source);
  const takes = { parts, text: !parts || ASKS_FOR_TEXT.test(source) };
  return messages.map((message) => ({
    ...message,
    role: message.role === 'developer' && !knowsDeveloper ? 'system' : message.role,
    content: contentFor(message['content'], takes),
  }));
}
