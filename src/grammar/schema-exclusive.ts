/** Whether no value can satisfy two of the schemas of a `oneOf`, as far as is easily seen. */
import type { JsonObject } from '../importer/json.ts';
import { type JsonType, typeOf, typesOf } from './schema-types.ts';

type Resolve = (schema: unknown) => unknown;

const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export function areExclusive(schemas: readonly unknown[], resolve: Resolve): boolean {
  return schemas.every((a, i) => schemas.slice(i + 1).every((b) => differ(a, b, resolve)));
}

function differ(a: unknown, b: unknown, resolve: Resolve): boolean {
  if (!isObject(a) || !isObject(b)) return false;
  const [valuesA, valuesB] = [valuesOf(a), valuesOf(b)];
  if (valuesA !== undefined && valuesB !== undefined) {
    return !valuesA.some((value) => valuesB.includes(value));
  }
  const [typesA, typesB] = [possibleTypes(a), possibleTypes(b)];
  if (typesA === undefined || typesB === undefined) return false;
  if (!overlap(typesA, typesB)) return true;
  if (typesA.join() !== 'object' || typesB.join() !== 'object') return false;
  return requiredOf(a).some((name) => {
    if (!requiredOf(b).includes(name)) return false;
    const [one, other] = [propertyOf(a, name), propertyOf(b, name)].map(resolve);
    return differ(one, other, resolve);
  });
}

/** Texts of the values that are allowed, where they are listed. */
function valuesOf(schema: JsonObject): string[] | undefined {
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  return Array.isArray(schema.enum) ? schema.enum.map((value) => JSON.stringify(value)) : undefined;
}

function possibleTypes(schema: JsonObject): readonly JsonType[] | undefined {
  if (schema.type !== undefined) return typesOf(schema.type);
  if (schema.const !== undefined) return [typeOf(schema.const)];
  if (Array.isArray(schema.enum)) return [...new Set(schema.enum.map(typeOf))];
  return isObject(schema.properties) ? ['object'] : undefined;
}

function overlap(a: readonly JsonType[], b: readonly JsonType[]): boolean {
  const isNumber = (type: JsonType) => type === 'integer' || type === 'number';
  return a.some((one) => b.some((other) => one === other || (isNumber(one) && isNumber(other))));
}

const requiredOf = (schema: JsonObject): readonly unknown[] =>
  Array.isArray(schema.required) ? schema.required : [];

function propertyOf(schema: JsonObject, name: unknown): unknown {
  const { properties } = schema;
  return isObject(properties) && typeof name === 'string' && Object.hasOwn(properties, name)
    ? properties[name]
    : undefined;
}
