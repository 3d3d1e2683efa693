/** XGrammar's structural tags for calls of tools. */
import type { JsonObject } from '../../importer/json.ts';
import type { ToolSpec } from './types.ts';

/** One call of a tool, whose arguments are what its schema accepts. */
export function argumentsTag(
  tool: ToolSpec,
  { begin, end }: { begin: string; end: string },
): JsonObject {
  const content = { type: 'json_schema', json_schema: tool.parameters };
  return { type: 'tag', begin, content, end };
}

export interface TagsOptions {
  readonly required: boolean;
  readonly parallel: boolean;
  /** What every call begins with, and no other text. */
  readonly trigger: string | undefined;
  /** Between calls when there is nothing else. */
  readonly separator: string;
}

/** undefined when text may stand beside calls and nothing tells the two apart. */
export function tagsOf(tags: JsonObject[], options: TagsOptions): JsonObject | undefined {
  const { required, parallel, trigger, separator } = options;
  if (required) {
    const format = {
      type: 'tags_with_separator',
      tags,
      separator,
      at_least_one: true,
      stop_after_first: !parallel,
    };
    return { type: 'structural_tag', format };
  }
  if (trigger === undefined) return undefined;
  const format = {
    type: 'triggered_tags',
    triggers: [trigger],
    tags,
    at_least_one: false,
    stop_after_first: !parallel,
  };
  return { type: 'structural_tag', format };
}
