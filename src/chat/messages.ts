/** Messages as clients send them, to messages as a certain template reads them. */
import type { JsonObject, JsonValue } from '../importer/json.ts';
import type { ChatMessage } from './types.ts';

/** Looping over the parts of a message's content. */
const PARTS_LOOP = /\bin\s+\w+(?:\[[^\]]*\])?(?:\.content\b|\[['"]content['"]\])/;
const ASKS_FOR_TEXT = /content['"]?\]?\s+is\s+(?:not\s+)?string\b/;

/** Between the parts of a content, where a template takes only text. */
const PART_SEPARATOR = '\n';

const textOf = (part: JsonValue): string => {
  const { text, refusal } = part as JsonObject;
  return String(text ?? refusal ?? '');
};

function contentFor(content: JsonValue | undefined, source: string): JsonValue {
  if (content === undefined || content === null) return '';
  const takesParts = PARTS_LOOP.test(source);
  if (typeof content === 'string') {
    if (!takesParts || ASKS_FOR_TEXT.test(source)) return content;
    return [{ type: 'text', text: content }];
  }
  const texts = (content as JsonValue[]).map(textOf);
  if (!takesParts) return texts.join(PART_SEPARATOR);
  return texts.map((text) => ({ type: 'text', text }));
}

/**
 * Content in the form that the template takes (a text, or parts where it loops over them), and
 * `developer` as `system` for templates that do not know it.
 * @param source the template
 */
export function messagesFor(messages: readonly ChatMessage[], source: string): ChatMessage[] {
  const knowsDeveloper = source.includes('developer');
  return messages.map((message) => ({
    ...message,
    role: message.role === 'developer' && !knowsDeveloper ? 'system' : message.role,
    content: contentFor(message['content'], source),
  }));
}
