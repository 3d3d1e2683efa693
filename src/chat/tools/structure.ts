/** Formats of XGrammar's structural tags for calls of tools. */
import type { JsonObject } from '../../importer/json.ts';
import type { ToolSpec } from './types.ts';

/** Writes one call up to its arguments, and what follows them. */
export type CallFrame = (name: string) => { readonly begin: string; readonly end: string };

/** One tag per tool; the arguments are what its schema accepts. */
function tagsOf(tools: readonly ToolSpec[], frame: CallFrame): JsonObject[] {
  return tools.map(({ name, parameters }) => ({
    type: 'tag',
    content: { type: 'json_schema', json_schema: parameters },
    ...frame(JSON.stringify(name)),
  }));
}

/** One call, or a list of any length; only the former can be an alternative to something that ends. */
export function callList(
  tools: readonly ToolSpec[],
  frame: CallFrame,
  { separator, parallel }: { separator: string; parallel: boolean },
): JsonObject {
  const tags = tagsOf(tools, frame);
  if (!parallel) return tags.length === 1 ? tags[0]! : { type: 'or', elements: tags };
  return {
    type: 'tags_with_separator',
    tags,
    separator,
    at_least_one: true,
    stop_after_first: false,
  };
}

/** Text in which `trigger` begins a call. */
export function triggeredCalls(
  tools: readonly ToolSpec[],
  frame: CallFrame,
  { trigger, parallel }: { trigger: string; parallel: boolean },
): JsonObject {
  return {
    type: 'triggered_tags',
    triggers: [trigger],
    tags: tagsOf(tools, frame),
    at_least_one: false,
    stop_after_first: !parallel,
  };
}
