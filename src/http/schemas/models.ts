/** GET /v1/models, /v1/models/{id} and /health. */
import { type Static, Type } from 'typebox';
import { MODEL_NAME_LENGTH_MAX } from './limits.ts';

export const ModelParamsSchema = Type.Object({
  id: Type.String({ minLength: 1, maxLength: MODEL_NAME_LENGTH_MAX }),
});

const nullableText = (description: string) =>
  Type.Unsafe<string | null>({ type: ['string', 'null'], description });

export const ModelSchema = Type.Object({
  id: Type.String(),
  object: Type.Literal('model'),
  created: Type.Integer(),
  owned_by: Type.Literal('loramux'),
  root: Type.String({ description: "The base's name, or where the adapter came from." }),
  parent: nullableText('The base model of an adapter; null for the base itself.'),
  generation: nullableText('The digest of an adapter; null for the base.'),
  max_model_len: Type.Integer({ description: 'Longest prompt plus output, tokens.' }),
});
export type WireModel = Static<typeof ModelSchema>;

export const ModelListSchema = Type.Object({
  object: Type.Literal('list'),
  data: Type.Array(ModelSchema),
});

export const HealthSchema = Type.Object({
  status: Type.Unsafe<'ok' | 'draining' | 'failed'>({
    type: 'string',
    enum: ['ok', 'draining', 'failed'],
  }),
  model: Type.String(),
  version: Type.String(),
  engine: Type.Object({
    running: Type.Integer(),
    waiting: Type.Integer(),
    steps: Type.Integer(),
    kv_blocks: Type.Integer(),
    kv_blocks_used: Type.Integer(),
    error: nullableText('Why the engine gave up, when status is failed.'),
  }),
  adapters: Type.Object({
    registered: Type.Integer(),
    damaged: Type.Integer(),
    resident: Type.Integer(),
    slots: Type.Integer(),
  }),
});
export type WireHealth = Static<typeof HealthSchema>;
