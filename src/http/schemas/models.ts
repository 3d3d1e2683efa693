/** GET /v1/models, /v1/models/{id} and /health. */
import { type Static, Type } from 'typebox';
import type { RegistryState } from '../../adapters/registry/types.ts';
import type { SessionState } from '../../native/index.ts';
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

export type HealthStatus = 'ok' | 'degraded' | 'connecting' | 'restarting' | 'draining' | 'failed';

export const HealthSchema = Type.Object({
  status: Type.Unsafe<HealthStatus>({
    type: 'string',
    enum: ['ok', 'degraded', 'connecting', 'restarting', 'draining', 'failed'],
    description: 'Requests are answered while it is ok or degraded.',
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
  session: Type.Object({
    state: Type.Unsafe<SessionState>({
      type: 'string',
      enum: ['ok', 'restarting', 'failed'],
    }),
    since: Type.Integer({ description: 'Since when, seconds since the epoch.' }),
    restarts: Type.Integer({ description: 'How often it was replaced since the server started.' }),
    last_error: nullableText('What last put it at fault.'),
  }),
  adapters: Type.Object({
    registered: Type.Integer(),
    damaged: Type.Integer(),
    resident: Type.Integer(),
    slots: Type.Integer(),
  }),
  registry: Type.Object({
    kind: Type.Unsafe<'file' | 'redis'>({ type: 'string', enum: ['file', 'redis'] }),
    state: Type.Unsafe<RegistryState>({
      type: 'string',
      enum: ['connecting', 'ok', 'degraded', 'lost'],
    }),
    reason: nullableText('Why it is not ok, or a warning while it is.'),
    since: Type.Integer({ description: 'Since when, seconds since the epoch.' }),
    lag_ms: Type.Integer({ description: 'Age of what is known of it, milliseconds.' }),
  }),
});
export type WireHealth = Static<typeof HealthSchema>;
