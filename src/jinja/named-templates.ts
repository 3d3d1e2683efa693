/** Templates with names, as `chat_template` of tokenizer_config.json may list them. */

/** Templates by name: `default`, and for requests with tools perhaps `tool_use`. */
export type NamedTemplates = ReadonlyMap<string, string>;

export const DEFAULT_TEMPLATE = 'default';
/** Chosen for requests with tools, where there is one. */
export const TOOL_TEMPLATE = 'tool_use';
/** Templates of one model or adapter. */
export const NAMED_TEMPLATES_MAX = 64;

/**
 * One template, or a list of named ones; none where it is absent or null.
 * @throws TypeError saying what else it is
 */
export function templatesOfConfig(value: unknown): NamedTemplates {
  if (value === undefined || value === null) return new Map();
  if (typeof value === 'string') return new Map([[DEFAULT_TEMPLATE, value]]);
  const named = new Map<string, string>();
  if (!Array.isArray(value)) throw new TypeError('chat_template is neither a text nor a list');
  for (const entry of value) {
    const { name, template } = (entry ?? {}) as { name?: unknown; template?: unknown };
    if (typeof name !== 'string' || typeof template !== 'string') {
      throw new TypeError('chat_template is a list with an entry that lacks "name" or "template"');
    }
    if (named.has(name)) throw new TypeError(`chat_template has ${JSON.stringify(name)} twice`);
    named.set(name, template);
  }
  if (named.size > NAMED_TEMPLATES_MAX) {
    throw new TypeError(`chat_template has more than ${NAMED_TEMPLATES_MAX} templates`);
  }
  return named;
}
