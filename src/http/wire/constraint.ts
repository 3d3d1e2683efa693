/** The fields that say what an answer must be, as one constraint. */
import type { Constraint } from '../../generation/constraint.ts';
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from '../../importer/json.ts';
import type { ConstraintFields, ResponseFormat, TextFields } from '../schemas/constraint.ts';
import { refuse } from './refuse.ts';

/** A field's value as a constraint; undefined where it asks for nothing. */
type Readers<T> = {
  readonly [K in keyof T]?: (value: NonNullable<T[K]>, field: string) => Constraint | undefined;
};

const OF_STRUCTURED: Readers<NonNullable<ConstraintFields['structured_outputs']>> = {
  json: schemaConstraint,
  regex: (pattern, field) => ({ kind: 'regex', pattern, field }),
  choice: (choices, field) => ({ kind: 'choice', choices, field }),
  grammar: (ebnf, field) => ({ kind: 'grammar', ebnf, field }),
  json_object: (wanted, field) => (wanted ? { kind: 'json_object', field } : undefined),
  structural_tag: (tag, field) => ({ kind: 'structural_tag', tag: objectOf(tag, field), field }),
};

const OF_BODY: Readers<ConstraintFields & TextFields> = {
  response_format: ofResponseFormat,
  text: ofTextField,
  structured_outputs: (given, field) => {
    const found = constraintsOf(given, OF_STRUCTURED, `${field}.`);
    if (found.length === 0) throw refuse(`${field} must have one field that is not null`, field);
    return onlyOne(found);
  },
  guided_json: schemaConstraint,
  guided_regex: (pattern, field) => ({ kind: 'regex', pattern, field }),
  guided_choice: (choices, field) => ({ kind: 'choice', choices, field }),
  guided_grammar: (ebnf, field) => ({ kind: 'grammar', ebnf, field }),
};

/**
 * What the text must be, from any of the fields that can say so.
 * @throws LoramuxError invalid_request: several of them, or one that says nothing
 */
export function constraintOf(body: ConstraintFields & TextFields): Constraint | undefined {
  return onlyOne(constraintsOf(body, OF_BODY, ''));
}

function constraintsOf<T extends object>(
  fields: T,
  readers: Readers<T>,
  prefix: string,
): Constraint[] {
  const found: Constraint[] = [];
  for (const name of Object.keys(readers) as (keyof T & string)[]) {
    const value = fields[name];
    if (value === undefined || value === null) continue;
    const constraint = readers[name]!(value, `${prefix}${name}`);
    if (constraint !== undefined) found.push(constraint);
  }
  return found;
}

function onlyOne(found: readonly Constraint[]): Constraint | undefined {
  const [first, second] = found;
  if (second === undefined) return first;
  throw refuse(`${first!.field} and ${second.field} exclude each other`, second.field!);
}

function schemaConstraint(value: JsonObject | object | string, field: string): Constraint {
  return { kind: 'json_schema', schema: objectOf(value, field), field };
}

function ofResponseFormat(format: ResponseFormat, field: string): Constraint | undefined {
  const { type } = format;
  for (const own of ['json_schema', 'format'] as const) {
    const owner = own === 'format' ? 'structural_tag' : own;
    if (format[own] === undefined || format[own] === null || owner === type) continue;
    throw refuse(`${field}.${own} has no meaning with type ${type}`, `${field}.${own}`);
  }
  if (type === 'text') return undefined;
  if (type === 'json_object') return { kind: 'json_object', field };
  if (type === 'structural_tag') {
    const place = `${field}.format`;
    if (!format.format) throw refuse(`${place} is missing`, place);
    return { kind: 'structural_tag', tag: objectOf(format.format, place), field: place };
  }
  const place = `${field}.json_schema.schema`;
  const schema = format.json_schema?.schema;
  if (schema === undefined) throw refuse(`${place} is missing`, place);
  return { kind: 'json_schema', schema: objectOf(schema, place), field: place };
}

/** Of /v1/responses: the members of response_format.json_schema stand beside the type. */
function ofTextField({ format }: NonNullable<TextFields['text']>, field: string) {
  if (!format || format.type === 'text') return undefined;
  const place = `${field}.format`;
  if (format.type === 'json_object') return { kind: 'json_object', field: place } as const;
  return schemaConstraint(format.schema, `${place}.schema`);
}

/** An object, or the text of one. */
function objectOf(value: object | string, field: string): JsonObject {
  let given: JsonValue | object = value as object;
  if (typeof value === 'string') {
    try {
      given = parseJson(value);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw refuse(`${field} is not JSON: ${reason}`, field);
    }
  }
  if (!isJsonObject(given)) throw refuse(`${field} must be an object`, field);
  return given;
}
