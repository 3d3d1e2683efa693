/** A chat template, compiled once and rendered for each request. */
import { LoramuxError } from '../errors.ts';
import type { JsonObject, JsonValue } from '../importer/json.ts';
import { type Node, parseTemplate } from '../jinja/program.ts';
import { OutOfWork, type RenderLimits, TemplateRun } from '../jinja/run.ts';
import {
  Dict,
  fromJson,
  func,
  Int,
  isDict,
  isInt,
  isStr,
  List,
  namespace,
  Scope,
  Str,
  type TemplateFunction,
  textOf,
  type Value,
} from '../jinja/values.ts';
import { strftime } from './strftime.ts';
import type { ChatInput, ChatMessage } from './types.ts';

const DATE_FORMAT_LENGTH_MAX = 1024;
/** Longest list of `range`, as in Jinja's sandbox. */
const RANGE_LENGTH_MAX = 100_000;
/** Written after the last message to find where the prompt must end; as transformers does. */
const CONTINUE_TAG = 'CONTINUE_FINAL_MESSAGE_TAG ';
/** Names under which messages carry what a model thought, the standard one first. */
const REASONING_FIELDS = ['reasoning_content', 'thinking', 'reasoning'] as const;
/** Variables of the renderer that a request cannot set. */
const RESERVED = ['messages', 'tools', 'documents', 'add_generation_prompt'];

/** What a rendering depends on beside template and chat. */
export interface RenderContext {
  /** Variables such as bos_token and eos_token. */
  readonly specialTokens: Readonly<Record<string, string>>;
  /** That of `strftime_now`. */
  readonly now: Date;
  readonly limits: RenderLimits;
}

export interface CompiledTemplate {
  /**
   * Renders at once, for as long as the limits allow.
   * @throws LoramuxError chat_template_failed, invalid_request; OutOfWork where limits end it
   */
  render(input: ChatInput, context: RenderContext): string;
}

function refuse(message: string, cause?: unknown): never {
  throw new LoramuxError('chat_template_failed', message, { param: 'messages', cause });
}

/** Part of the language: no variable has these names. */
const CONSTANTS = [
  ['true', true],
  ['True', true],
  ['false', false],
  ['False', false],
  ['none', null],
  ['None', null],
] as const;

function range(args: readonly Value[]): Value {
  if (args.length === 0 || args.length > 3 || !args.every(isInt)) {
    throw new Error('range() takes one to three whole numbers');
  }
  const numbers = args.map(({ value }) => Number(value));
  const [start = 0, stop = 0, step = 1] = numbers.length === 1 ? [0, numbers[0]] : numbers;
  if (step === 0) throw new Error('range() has a step of zero');
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length > RANGE_LENGTH_MAX) throw new Error(`range() is longer than ${RANGE_LENGTH_MAX}`);
  return new List(Array.from({ length }, (_, i) => new Int(start + i * step)));
}

/** Functions of every template; variables of a request with such a name come before them. */
const functions = (now: Date): Record<string, TemplateFunction> => ({
  range,
  strftime_now: ([format]) => {
    if (!isStr(format) || format.value.length > DATE_FORMAT_LENGTH_MAX) {
      throw new Error(
        `strftime_now() takes a format of at most ${DATE_FORMAT_LENGTH_MAX} characters`,
      );
    }
    return new Str(strftime(now, format.value));
  },
  dict: ([named]) => new Dict(new Map(isDict(named) ? named.value : [])),
});

/** Without null fields, which many templates would print; thoughts under every name they have. */
function prepared(message: ChatMessage): Readonly<Record<string, JsonValue>> {
  const fields = Object.values(message).includes(null)
    ? Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null))
    : message;
  const name = REASONING_FIELDS.find((field) => fields[field] !== undefined);
  if (name === undefined) return fields;
  const thought = fields[name]!;
  return { thinking: thought, ...fields, reasoning_content: thought };
}

/** Appends the tag to the last message's last text. */
function tagged(message: ReturnType<typeof prepared>): [typeof message, string] {
  const { content } = message;
  if (typeof content === 'string') {
    return [{ ...message, content: content + CONTINUE_TAG }, content];
  }
  if (Array.isArray(content)) {
    const at = content.findLastIndex(
      (part) => typeof (part as JsonObject | null)?.text === 'string',
    );
    if (at !== -1) {
      const part = content[at] as JsonObject;
      const text = part.text as string;
      const parts = content.with(at, { ...part, text: text + CONTINUE_TAG });
      return [{ ...message, content: parts }, text];
    }
  }
  return refuse('continue_final_message: the last message has no text to continue');
}

/** The prompt up to the end of the final message. */
function cutAtTag(rendered: string, text: string): string {
  const at = rendered.lastIndexOf(CONTINUE_TAG.trim());
  if (at === -1 || !rendered.includes(text.trim())) {
    refuse(
      'continue_final_message: the last message does not appear in the prompt as it was sent; ' +
        'the chat template changes it',
    );
  }
  const cut = rendered.slice(0, at);
  // A template that trims the message has trimmed the tag's space.
  return rendered.startsWith(CONTINUE_TAG, at) ? cut : cut.trimEnd();
}

/**
 * Compiles a template.
 * @throws LoramuxError chat_template_invalid when it is too long or not Jinja
 */
export function compileTemplate(source: string): CompiledTemplate {
  let program: Node;
  try {
    program = parseTemplate(source);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new LoramuxError('chat_template_invalid', `the chat template cannot be used: ${why}`, {
      cause,
    });
  }

  const run = (
    variables: Readonly<Record<string, unknown>>,
    { now, limits }: RenderContext,
  ): string => {
    const scope = new Scope();
    const set = (name: string, value: Value) => scope.setVariable(name, value);
    set('namespace', namespace);
    let raised: string | undefined;
    for (const [name, body] of Object.entries(functions(now))) set(name, func(body));
    set(
      'raise_exception',
      func(([message]) => {
        raised = message === undefined ? '' : textOf(message);
        throw new Error(raised);
      }),
    );
    try {
      for (const [name, value] of Object.entries(variables)) set(name, fromJson(value));
      for (const [name, value] of CONSTANTS) set(name, fromJson(value));
      return new TemplateRun(scope, limits).render(program, scope);
    } catch (cause) {
      if (cause instanceof OutOfWork) throw cause;
      if (raised !== undefined) refuse(`the chat template refused the messages: ${raised}`, cause);
      const why = cause instanceof Error ? cause.message : String(cause);
      refuse(`the chat template cannot render these messages: ${why}`, cause);
    }
  };

  return {
    render(input, context) {
      const reserved = RESERVED.find((name) => Object.hasOwn(input.kwargs, name));
      if (reserved !== undefined) {
        throw new LoramuxError(
          'invalid_request',
          `chat_template_kwargs must not set ${reserved}; send it as a field of the request`,
          { param: 'chat_template_kwargs' },
        );
      }
      const messages = input.messages.map(prepared);
      const last = messages.at(-1);
      const variables = {
        ...context.specialTokens,
        ...input.kwargs,
        tools: input.tools === undefined || input.tools.length === 0 ? null : input.tools,
        documents: input.documents ?? null,
        add_generation_prompt: input.addGenerationPrompt,
      };
      if (last === undefined) refuse('a chat needs at least one message');
      if (!input.continueFinalMessage) return run({ ...variables, messages }, context);
      const [message, text] = tagged(last);
      const all = messages.with(-1, message);
      return cutAtTag(run({ ...variables, messages: all }, context), text);
    },
  };
}
