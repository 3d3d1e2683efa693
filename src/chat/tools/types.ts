/** How a model family writes the calls of tools. */
import type { JsonObject } from '../../importer/json.ts';

export const TOOL_FORMATS = ['hermes', 'llama3_json', 'mistral'] as const;
/** The names of vLLM's --tool-call-parser. */
export type ToolFormatName = (typeof TOOL_FORMATS)[number];

/** What an answer's text turns out to be. */
export type ToolEvent =
  | { readonly type: 'text'; readonly text: string }
  /** A call begins; its arguments follow. */
  | { readonly type: 'call'; readonly name: string }
  /** A piece of the JSON of the last call's arguments, as the model wrote it. */
  | { readonly type: 'arguments'; readonly text: string };

/**
 * Reads one answer. What comes out does not depend on how the text was split. A text that begins
 * like a call and is none comes out as text.
 */
export interface ToolParser {
  push(text: string): ToolEvent[];
  /** The answer is complete: what was held back, as calls or text. */
  end(): ToolEvent[];
}

/** A tool that may be called. */
export interface ToolSpec {
  readonly name: string;
  /** JSON schema of the arguments. */
  readonly parameters: JsonObject;
}

export interface ToolFormat {
  readonly name: ToolFormatName;
  createParser(): ToolParser;
  /**
   * Nothing but calls, at least one, as a format of XGrammar's structural tags.
   * @param tools at least one
   * @param parallel more than one call
   */
  calls(tools: readonly ToolSpec[], parallel: boolean): JsonObject;
  /** Text that may have calls in it; undefined where a grammar cannot tell the two apart. */
  textWithCalls(tools: readonly ToolSpec[], parallel: boolean): JsonObject | undefined;
}
