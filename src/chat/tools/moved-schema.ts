/** A schema that becomes a part of another one. */
import { isJsonObject, type JsonObject, type JsonValue } from '../../importer/json.ts';

/** What stands in these is data, not schemas. */
const DATA: ReadonlySet<string> = new Set(['const', 'enum', 'default', 'example', 'examples']);
/** The keys in these are names of the schema's own. */
const NAMED: ReadonlySet<string> = new Set([
  'properties',
  'patternProperties',
  '$defs',
  'definitions',
  'dependentSchemas',
]);

function moved(node: JsonValue, place: string, isSchema: boolean): JsonValue {
  if (Array.isArray(node)) return node.map((one) => moved(one, place, true));
  if (!isJsonObject(node)) return node;
  const entries = Object.entries(node).map(([key, value]): [string, JsonValue] => {
    if (!isSchema) return [key, moved(value, place, true)];
    if (DATA.has(key)) return [key, value];
    if (key === '$ref' && typeof value === 'string' && value.startsWith('#')) {
      return [key, `#${place}${value.slice(1)}`];
    }
    return [key, moved(value, place, !NAMED.has(key))];
  });
  return Object.fromEntries(entries);
}

/**
 * The schema with its references as they must be when it stands elsewhere.
 * @param place where, as a JSON pointer
 */
export function movedSchema(schema: JsonObject, place: string): JsonObject {
  return moved(schema, place, true) as JsonObject;
}
