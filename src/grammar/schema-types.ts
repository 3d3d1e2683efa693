/** The types of JSON Schema. */

export const JSON_TYPES = ['object', 'array', 'string', 'number', 'boolean', 'null'] as const;
export type JsonType = (typeof JSON_TYPES)[number] | 'integer';

const ALL: readonly string[] = [...JSON_TYPES, 'integer'];

/** The value of the keyword `type`; undefined when it is none. */
export function typesOf(type: unknown): readonly JsonType[] | undefined {
  const list: readonly unknown[] = Array.isArray(type) ? type : [type];
  if (list.length === 0) return undefined;
  if (!list.every((one) => typeof one === 'string' && ALL.includes(one))) return undefined;
  const types = [...new Set(list as readonly JsonType[])];
  // Every integer is a number.
  return types.includes('number') ? types.filter((one) => one !== 'integer') : types;
}

export function typeOf(value: unknown): JsonType {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'array';
  if (typeof value === 'number') return Number.isInteger(value) ? 'integer' : 'number';
  return typeof value as JsonType;
}

export function isTypeAllowed(value: unknown, types: readonly JsonType[]): boolean {
  const type = typeOf(value);
  return types.includes(type) || (type === 'integer' && types.includes('number'));
}
