/**
 * What OpenAI's Responses API and vLLM's have that this version does not honour. It is looked for
 * before the body is checked, so that it is refused by name.
 */
import {
  anything,
  dropNeutralFields,
  emptyList,
  emptyOrNull,
  type Fields,
  isFields,
  listOf,
  nullOr,
  onlyNull,
  SHARED_UNSUPPORTED,
  type UnsupportedFields,
  unsupported,
} from './unsupported.ts';

const nullMembers = (value: unknown) =>
  value === null ||
  (isFields(value) && !Array.isArray(value) && Object.values(value).every(onlyNull));

const RESPONSES_UNSUPPORTED: UnsupportedFields = {
  ...SHARED_UNSUPPORTED,
  // OpenAI
  background: nullOr(false),
  context_management: emptyList,
  conversation: onlyNull,
  max_tool_calls: onlyNull,
  moderation: onlyNull,
  previous_response_id: onlyNull,
  prompt: onlyNull,
  prompt_cache_options: emptyOrNull,
  prompt_cache_retention: nullOr('in_memory'),
  reasoning: nullMembers,
  service_tier: nullOr('auto', 'default'),
  store: nullOr(false),
  truncation: nullOr('disabled'),
  // vLLM
  n: nullOr(1),
  enable_response_messages: nullOr(false),
  mm_processor_kwargs: emptyOrNull,
  previous_input_messages: emptyList,
  previous_response: onlyNull,
};

const EARLIER = 'it keeps no responses, so send the items of earlier ones in input';
const HINTS = {
  conversation: EARLIER,
  previous_response_id: EARLIER,
  previous_response: EARLIER,
  store: 'it keeps no responses; leave it out, or send false',
  background: 'it keeps no responses; leave it out, or send false',
};

const IN_TEXT: UnsupportedFields = { verbosity: nullOr('medium') };
const IN_TOOLS: UnsupportedFields = {
  allowed_callers: (value) => emptyList(value) || JSON.stringify(value) === '["direct"]',
  defer_loading: nullOr(false),
  output_schema: onlyNull,
};
/** Answers come back as items, with what clients and their libraries added. */
const IN_ITEMS: UnsupportedFields = {
  phase: onlyNull,
  caller: (value) => value === null || (isFields(value) && value['type'] === 'direct'),
  namespace: onlyNull,
  // OpenAI's libraries keep what they parsed beside the text.
  parsed_arguments: anything,
};
const IN_PARTS: UnsupportedFields = {
  annotations: emptyList,
  logprobs: anything,
  parsed: anything,
  prompt_cache_breakpoint: onlyNull,
};

const named = (text: string): ReadonlySet<unknown> => new Set(text.trim().split(/\s+/));

/** OpenAI's items that are no messages and no calls of functions. */
const ITEMS = named(`
  additional_tools apply_patch_call apply_patch_call_output code_interpreter_call compaction
  compaction_trigger computer_call computer_call_output configuration_update custom_tool_call
  custom_tool_call_output file_search_call image_generation_call item_reference local_shell_call
  local_shell_call_output mcp_approval_request mcp_approval_response mcp_call mcp_list_tools program
  program_output reasoning shell_call shell_call_output tool_search_call tool_search_output
  web_search_call`);
const PARTS = named(`
  computer_screenshot input_audio input_file input_image reasoning_text summary_text`);
const TOOLS = named(`
  apply_patch code_interpreter computer computer_use_preview custom file_search image_generation
  local_shell mcp namespace programmatic_tool_calling shell tool_search web_search
  web_search_2025_08_26 web_search_preview web_search_preview_2025_03_11`);
const INCLUDED = named(`
  code_interpreter_call.outputs computer_call_output.output.image_url file_search_call.results
  message.input_image.image_url web_search_call.action.sources web_search_call.results`);

function inItem(item: Fields, at: string): void {
  const { type, content, output } = item;
  if (type === 'item_reference') throw unsupported(`${at}item_reference`, `${EARLIER} instead`);
  if (ITEMS.has(type)) throw unsupported(`${at}${type}`);
  dropNeutralFields(item, IN_ITEMS, at);
  for (const [name, parts] of Object.entries({ content, output })) {
    for (const [i, part] of listOf(parts)) {
      const inPart = `${at}${name}.${i}.`;
      if (PARTS.has(part['type'])) throw unsupported(`${inPart}${part['type']}`);
      dropNeutralFields(part, IN_PARTS, inPart);
    }
  }
}

/** @throws LoramuxError unsupported_field */
export function dropNeutralOfResponses(body: unknown): void {
  dropNeutralFields(body, RESPONSES_UNSUPPORTED, '', HINTS);
  if (!isFields(body)) return;
  dropNeutralFields(body['text'], IN_TEXT, 'text.');
  for (const [i, item] of listOf(body['input'])) inItem(item, `input.${i}.`);
  for (const [i, tool] of listOf(body['tools'])) {
    if (TOOLS.has(tool['type'])) throw unsupported(`tools.${i}.${tool['type']}`);
    dropNeutralFields(tool, IN_TOOLS, `tools.${i}.`);
  }
  const { tool_choice: choice, include } = body;
  if (isFields(choice) && TOOLS.has(choice['type'])) {
    throw unsupported(`tool_choice.${choice['type']}`);
  }
  if (!Array.isArray(include)) return;
  const wanted = include.find((one) => INCLUDED.has(one));
  if (wanted !== undefined) throw unsupported(`include.${wanted}`);
}
