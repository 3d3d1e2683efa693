/**
 * What OpenAI's messages and tools may have inside that this version does not honour. It is looked
 * for before the body is checked, so that it is refused by name; whatever has another shape is left
 * to the check.
 */
import {
  anything,
  dropNeutralFields,
  emptyList,
  type Fields,
  isFields,
  listOf,
  onlyNull,
  type UnsupportedFields,
  unsupported,
} from './unsupported.ts';

/** Answers come back as messages, with what clients and their libraries added. */
const IN_ASSISTANT_MESSAGES: UnsupportedFields = {
  audio: onlyNull,
  annotations: emptyList,
  function_call: onlyNull,
  // OpenAI's libraries keep the parsed content beside the content.
  parsed: anything,
};
const IN_CALLS: UnsupportedFields = { index: anything };
const IN_CALLED_FUNCTIONS: UnsupportedFields = { parsed_arguments: anything };
const IN_PARTS: UnsupportedFields = { prompt_cache_breakpoint: onlyNull };
const IN_TOOLS: UnsupportedFields = { defer_loading: (value) => value === null || value === false };

/** Kinds of OpenAI's and vLLM's content parts that are no text. */
const PARTS: ReadonlySet<unknown> = new Set([
  'image_url',
  'image_pil',
  'image_embeds',
  'input_audio',
  'audio_url',
  'audio_embeds',
  'video_url',
  'file',
  'thinking',
]);

function inMessage(message: Fields, at: string): void {
  if (message['role'] === 'function') throw unsupported(`${at}role`);
  for (const [i, part] of listOf(message['content'])) {
    if (PARTS.has(part['type'])) throw unsupported(`${at}content.${i}.${part['type']}`);
    dropNeutralFields(part, IN_PARTS, `${at}content.${i}.`);
  }
  if (message['role'] !== 'assistant') return;
  dropNeutralFields(message, IN_ASSISTANT_MESSAGES, at);
  for (const [i, call] of listOf(message['tool_calls'])) {
    const inCall = `${at}tool_calls.${i}.`;
    if (call['type'] === 'custom') throw unsupported(`${inCall}custom`);
    dropNeutralFields(call, IN_CALLS, inCall);
    dropNeutralFields(call['function'], IN_CALLED_FUNCTIONS, `${inCall}function.`);
  }
}

/** @throws LoramuxError unsupported_field */
export function dropNeutralMembers(body: unknown): void {
  if (!isFields(body)) return;
  for (const [i, message] of listOf(body['messages'])) inMessage(message, `messages.${i}.`);
  for (const [i, tool] of listOf(body['tools'])) {
    if (tool['type'] === 'custom') throw unsupported(`tools.${i}.custom`);
    dropNeutralFields(tool, IN_TOOLS, `tools.${i}.`);
    dropNeutralFields(tool['function'], IN_TOOLS, `tools.${i}.function.`);
  }
  const choice = body['tool_choice'];
  if (isFields(choice) && choice['type'] === 'custom') throw unsupported('tool_choice.custom');
}
