/** Fields that say what the text of an answer must be: OpenAI's response_format, and vLLM's. */
import { type Static, Type } from 'typebox';

/** A JSON Schema, or any other object that is read later. */
type Json = Record<string, unknown>;

const nullable = <T>(description: string, schema: object) =>
  Type.Optional(Type.Unsafe<T | null>({ description, ...schema }));

export interface ResponseFormat {
  type: 'text' | 'json_object' | 'json_schema' | 'structural_tag';
  json_schema?: {
    name?: string;
    description?: string | null;
    strict?: boolean | null;
    schema?: Json;
  } | null;
  format?: Json | null;
}

export interface StructuredOutputs {
  json?: Json | string | null;
  regex?: string | null;
  choice?: string[] | null;
  grammar?: string | null;
  json_object?: boolean | null;
  structural_tag?: Json | string | null;
  disable_any_whitespace?: false | null;
  disable_additional_properties?: false | null;
  disable_fallback?: boolean | null;
  whitespace_pattern?: null;
}

/** What the text of /v1/responses must be. */
export type TextFormat =
  | { type: 'text' }
  | { type: 'json_object' }
  | {
      type: 'json_schema';
      name: string;
      description?: string | null;
      strict?: boolean | null;
      schema: Json;
    };

/** The field that says so there. */
export interface TextFields {
  text?: { format?: TextFormat | null } | null;
}

const JSON_OR_TEXT = { anyOf: [{ type: 'object' }, { type: 'string' }, { type: 'null' }] };
const TEXT = { type: ['string', 'null'] };
const CHOICES = { type: ['array', 'null'], items: { type: 'string' }, minItems: 1 };
const ONLY_FALSE = { type: ['boolean', 'null'], enum: [false, null] };

const JSON_SCHEMA_FORMAT = {
  type: ['object', 'null'],
  properties: {
    name: { type: 'string', maxLength: 256 },
    description: { type: ['string', 'null'] },
    strict: { type: ['boolean', 'null'], description: 'The schema is kept to in any case.' },
    schema: { type: 'object' },
  },
  additionalProperties: false,
};

export const CONSTRAINT_FIELDS = {
  response_format: nullable<ResponseFormat>('What the answer must be.', {
    type: ['object', 'null'],
    properties: {
      type: { type: 'string', enum: ['text', 'json_object', 'json_schema', 'structural_tag'] },
      json_schema: JSON_SCHEMA_FORMAT,
      format: { type: ['object', 'null'] },
    },
    required: ['type'],
    additionalProperties: false,
  }),
  structured_outputs: nullable<StructuredOutputs>('What the answer must be, one of the fields.', {
    type: ['object', 'null'],
    properties: {
      json: JSON_OR_TEXT,
      regex: TEXT,
      choice: CHOICES,
      grammar: TEXT,
      json_object: { type: ['boolean', 'null'] },
      structural_tag: JSON_OR_TEXT,
      disable_any_whitespace: ONLY_FALSE,
      disable_additional_properties: ONLY_FALSE,
      disable_fallback: { type: ['boolean', 'null'] },
      whitespace_pattern: { type: 'null' },
    },
    additionalProperties: false,
  }),
  guided_json: nullable<Json | string>('A JSON Schema that the answer satisfies.', JSON_OR_TEXT),
  guided_regex: nullable<string>('A pattern that the whole answer matches.', TEXT),
  guided_choice: nullable<string[]>('Texts, one of which is the answer.', CHOICES),
  guided_grammar: nullable<string>('A grammar in EBNF that the answer follows.', TEXT),
  guided_decoding_backend: nullable<'xgrammar' | 'auto'>('The only one there is.', {
    type: ['string', 'null'],
    enum: ['xgrammar', 'auto', null],
  }),
  guided_whitespace_pattern: nullable<never>('Only null is accepted.', { type: 'null' }),
} as const;

const ConstraintFieldsSchema = Type.Object(CONSTRAINT_FIELDS);
/** Those fields of a body, checked. */
export type ConstraintFields = Static<typeof ConstraintFieldsSchema>;
