/** Which tools an answer may or must call. */
import type { ToolFormat, ToolSpec } from '../../chat/tools/types.ts';
import { LoramuxError } from '../../errors.ts';
import type { Constraint } from '../../generation/constraint.ts';
import type { JsonObject } from '../../importer/json.ts';
import type { ChatRequest } from '../schemas/chat.ts';
import type { WireTool } from '../schemas/chat-messages.ts';
import { refuse } from './refuse.ts';

export interface ToolUse {
  /** As the client wrote them, for the template. */
  readonly definitions: readonly JsonObject[];
  /** Those that may be called. */
  readonly allowed: readonly ToolSpec[];
  /** The answer is calls and nothing else. */
  readonly required: boolean;
  /** It may have more than one. */
  readonly parallel: boolean;
  /** The field that wants calls to be right, even where none has to be made. */
  readonly strictField: string | undefined;
}

/** The fields that say so, in the form of chats. */
export type ToolFields = Pick<ChatRequest, 'tools' | 'tool_choice' | 'parallel_tool_calls'>;

const NO_ARGUMENTS: JsonObject = { type: 'object', properties: {} };

const specOf = ({ function: { name, parameters } }: WireTool): ToolSpec => ({
  name,
  parameters: parameters ?? NO_ARGUMENTS,
});

/** Of tool_choice: the names that may be called, and whether one must be. */
function choiceOf(body: ToolFields, names: readonly string[]) {
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
 * @param strictOf where the request has `strict` of a tool
 * @throws LoramuxError invalid_request, unsupported_field
 */
export function toolUseOf(
  body: ToolFields,
  strictOf = (tool: number) => `tools.${tool}.function.strict`,
): ToolUse | undefined {
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
  const strict = tools.findIndex(
    (tool) => tool.function.strict === true && names.includes(tool.function.name),
  );
  return {
    definitions: tools as unknown as JsonObject[],
    allowed: tools.filter((tool) => names.includes(tool.function.name)).map(specOf),
    required,
    parallel: !single && (body.parallel_tool_calls ?? true),
    strictField: strict === -1 ? undefined : strictOf(strict),
  };
}

/** An answer's JSON as a part of a structural tag. */
function jsonOf(given: Constraint): JsonObject {
  if (given.kind === 'json_schema') return { type: 'json_schema', json_schema: given.schema };
  if (given.kind === 'json_object') {
    return { type: 'json_schema', json_schema: { type: 'object' } };
  }
  const field = given.field ?? 'response_format';
  throw new LoramuxError(
    'unsupported_field',
    `${field} is not supported together with tools; JSON schemas are`,
    { param: field },
  );
}

/**
 * What the answer must be: calls, or what it must be without tools, or both of them in turn.
 * @param given what the other fields want the text to be
 * @throws LoramuxError unsupported_field
 */
export function toolConstraint(
  { allowed, required, parallel, strictField }: ToolUse,
  format: ToolFormat,
  given: Constraint | undefined,
): Constraint | undefined {
  const answer = given && jsonOf(given);
  const tag = (part: JsonObject, field: string): Constraint => ({
    kind: 'structural_tag',
    tag: { type: 'structural_tag', format: part },
    field,
  });
  if (required) return tag(format.calls(allowed, parallel), 'tool_choice');
  if (answer !== undefined) {
    // A list of any length is no alternative to JSON, which ends.
    const call = format.calls(allowed, false);
    return tag({ type: 'or', elements: [answer, call] }, given?.field ?? 'response_format');
  }
  if (strictField === undefined) return undefined;
  const mixed = format.textWithCalls(allowed, parallel);
  if (mixed !== undefined) return tag(mixed, strictField);
  throw new LoramuxError(
    'unsupported_field',
    `${strictField} needs tool_choice required for a model that writes calls as ${format.name} ` +
      'does; leave it out',
    { param: strictField },
  );
}
