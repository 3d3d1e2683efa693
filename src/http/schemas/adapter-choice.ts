/** Fields of a request that say which adapter answers, and of an answer that say which one did. */
import { type Static, Type } from 'typebox';
import { ADAPTER_SCALE_MAX, MODEL_NAME_LENGTH_MAX, REQUEST_ADAPTERS_MAX } from './limits.ts';
import { nullableNumber } from './nullable.ts';

/** How an adapter is named inside of an object. */
const NAMING = {
  name: Type.Optional(Type.String({ maxLength: MODEL_NAME_LENGTH_MAX })),
  generation: Type.Optional(Type.String({ pattern: '^[0-9a-f]{64}$' })),
};

const AdapterSchema = Type.Union(
  [
    Type.String({ maxLength: MODEL_NAME_LENGTH_MAX }),
    Type.Object(NAMING, { minProperties: 1, maxProperties: 1, additionalProperties: false }),
    Type.Null(),
  ],
  {
    description:
      'An adapter by name, or by one of the generations that a name keeps; model is then the base.',
  },
);

const WEIGHT = { minimum: -ADAPTER_SCALE_MAX, maximum: ADAPTER_SCALE_MAX };

export interface AdapterPart {
  readonly name?: string;
  readonly generation?: string;
  readonly weight?: number;
}

const AdaptersSchema = Type.Unsafe<readonly AdapterPart[] | null>({
  type: ['array', 'null'],
  description: 'Several adapters: the sum of their weighted deltas on the base model.',
  minItems: 1,
  maxItems: REQUEST_ADAPTERS_MAX,
  items: {
    type: 'object',
    properties: { ...NAMING, weight: { type: 'number', ...WEIGHT, default: 1 } },
    oneOf: [{ required: ['name'] }, { required: ['generation'] }],
    additionalProperties: false,
  },
});

/** Shared by all routes that generate text. */
export const ADAPTER_CHOICE_FIELDS = {
  model: Type.String({
    description: 'The base model, an adapter, or base:adapter.',
    minLength: 1,
    maxLength: MODEL_NAME_LENGTH_MAX,
  }),
  adapter: Type.Optional(AdapterSchema),
  adapter_scale: nullableNumber("Weight of the adapter's delta; 1 as trained.", WEIGHT, 1),
  adapters: Type.Optional(AdaptersSchema),
} as const;

const AdapterChoiceSchema = Type.Object(ADAPTER_CHOICE_FIELDS);
export type AdapterChoice = Static<typeof AdapterChoiceSchema>;

/** Of an answer and its parts; at most one of the two. */
export const ANSWERED_BY_FIELDS = {
  adapter_generation: Type.Optional(
    Type.String({ description: 'Digest of the adapter that answered.' }),
  ),
  adapter_generations: Type.Optional(
    Type.Array(
      Type.Object({
        name: Type.String(),
        generation: Type.String({ description: 'Digest of the adapter.' }),
        weight: Type.Number(),
      }),
      { description: 'The adapters that answered together, in the order of the request.' },
    ),
  ),
} as const;

const AnsweredBySchema = Type.Object(ANSWERED_BY_FIELDS);
export type AnsweredBy = Static<typeof AnsweredBySchema>;
