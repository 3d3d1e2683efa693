/** Which tools an answer may or must call. */
import type { ToolSpec } from '../../chat/tools/types.ts';
import { LoramuxError } from '../../errors.ts';
import type { JsonObject } from '../../importer/json.ts';
import type { ChatRequest } from '../schemas/chat.ts';
import type { WireTool } from '../schemas/chat-messages.ts';
import { refuse } from './generation-request.ts';

export interface ToolUse {
  /** As the client wrote them, for the template. */
  readonly definitions: readonly JsonObject[];
  /** Those that may be called. */
  readonly allowed: readonly ToolSpec[];
  /** The answer is calls and nothing else. */
  readonly required: boolean;
  /** It may have more than one. */
  readonly parallel: boolean;
}

const NO_ARGUMENTS: JsonObject = { type: 'object', properties: {} };

const specOf = ({ function: { name, parameters } }: WireTool): ToolSpec => ({
  name,
  parameters: parameters ?? NO_ARGUMENTS,
});

/** Of tool_choice: the names that may be called, and whether one must be. */
function choiceOf(body: ChatRequest, names: readonly string[]) {
  const choice = body.tool_choice ?? 'auto';
  if (typeof choice === 'string') return { names, required: choice === 'required', single: false };
  if (choice.type === 'function') {
    return { names: [choice.function.name], required: true, single: true };
  }
  const { mode, tools } = choice.allowed_tools;
  return {
    names: tools.map((tool) => tool.function.name),
    required: mode === 'required',
    single: false,
  };
}

/**
 * undefined when nothing may be called: without tools, and with tool_choice none, where the template
 * is not told of them either.
 * @throws LoramuxError invalid_request, unsupported_field
 */
export function toolUseOf(body: ChatRequest): ToolUse | undefined {
  const tools = body.tools ?? [];
  const known = tools.map((tool) => tool.function.name);
  const repeated = known.find((name, i) => known.indexOf(name) !== i);
  if (repeated !== undefined) {
    throw refuse(`tools has ${JSON.stringify(repeated)} twice`, 'tools');
  }
  const { names, required, single } = choiceOf(body, known);
  if (tools.length === 0) {
    const asksForNothing = [undefined, null, 'none', 'auto'] as unknown[];
    if (asksForNothing.includes(body.tool_choice)) return undefined;
    throw refuse('tool_choice needs tools', 'tool_choice');
  }
  if (body.tool_choice === 'none') return undefined;
  for (const name of names) {
    if (known.includes(name)) continue;
    throw refuse(`tool_choice names ${JSON.stringify(name)}, which is not in tools`, 'tool_choice');
  }
  if (required) {
    throw new LoramuxError(
      'unsupported_field',
      'tool_choice: this server does not make a model call tools; send auto',
      { param: 'tool_choice' },
    );
  }
  return {
    definitions: tools as unknown as JsonObject[],
    allowed: tools.filter((tool) => names.includes(tool.function.name)).map(specOf),
    required,
    parallel: !single && (body.parallel_tool_calls ?? true),
  };
}
