/** Adapters as the routes show them. */
import { type Static, Type } from 'typebox';
import { MODEL_NAME_LENGTH_MAX } from './limits.ts';

export const AdapterParamsSchema = Type.Object({
  name: Type.String({ minLength: 1, maxLength: MODEL_NAME_LENGTH_MAX }),
});

export const SplitSchema = Type.Object({
  generation: Type.String(),
  weight: Type.Number({
    description: 'Its share of the requests.',
    exclusiveMinimum: 0,
    exclusiveMaximum: 1,
  }),
});

/** On the server that answers; others may differ, see GET /v1/replicas. */
export const ResidencySchema = Type.Object({
  level: Type.Unsafe<'device' | 'host' | 'disk'>({
    type: 'string',
    enum: ['device', 'host', 'disk'],
    description: 'Where its nearest copy is.',
  }),
  pinned: Type.Boolean({ description: 'It is kept in memory.' }),
  references: Type.Integer({ description: 'Requests in the batch that use it.', minimum: 0 }),
  evicting: Type.Boolean({ description: 'It goes as soon as its last reference does.' }),
});
export type WireResidency = Static<typeof ResidencySchema>;

const nullableSplit = Type.Union([SplitSchema, Type.Null()], {
  description: 'A second generation that answers a share of the requests.',
});
const pinned = Type.Boolean({ description: 'To be kept resident by every server with room.' });
const hasChatTemplate = Type.Boolean({
  description: 'Its chats are rendered with a template of its own.',
});
const revision = Type.Integer({ description: 'Grows with every change of the name.' });

export const AdapterSchema = Type.Object({
  name: Type.String(),
  object: Type.Literal('adapter'),
  generation: Type.String({
    description: 'SHA-256 of the current content; changes when the name moves.',
  }),
  created: Type.Integer({ description: 'Seconds since the epoch.' }),
  updated: Type.Integer({ description: 'When the name last changed, seconds since the epoch.' }),
  rank: Type.Integer({ description: 'Largest rank of any module.' }),
  target_modules: Type.Array(Type.String()),
  resident_bytes: Type.Integer({ description: 'Bytes it takes in adapter memory.' }),
  file_bytes: Type.Integer(),
  has_chat_template: hasChatTemplate,
  source: Type.String({
    description: 'Where it came from: a folder, hf:owner/name@commit, a URL or "upload".',
  }),
  revision,
  generations: Type.Integer({ description: 'Generations the name keeps, this one included.' }),
  split: nullableSplit,
  pinned,
  residency: ResidencySchema,
});
export type WireAdapter = Static<typeof AdapterSchema>;

export const AdapterListSchema = Type.Object({
  object: Type.Literal('list'),
  data: Type.Array(AdapterSchema),
  damaged: Type.Array(Type.Object({ name: Type.String(), reason: Type.String() }), {
    description: 'Names whose stored files failed their check; they answer with store_corrupt.',
  }),
});

export const GenerationSchema = Type.Object({
  generation: Type.String({ description: 'SHA-256 of the content.' }),
  object: Type.Literal('adapter.generation'),
  created: Type.Integer({ description: 'When the name got it, seconds since the epoch.' }),
  source: Type.String(),
  rank: Type.Integer(),
  target_modules: Type.Array(Type.String()),
  resident_bytes: Type.Integer(),
  file_bytes: Type.Integer(),
  has_chat_template: hasChatTemplate,
  current: Type.Boolean({ description: 'The name points to it.' }),
  canary: Type.Boolean({ description: 'It is the second side of the split.' }),
  residency: ResidencySchema,
});
export type WireGeneration = Static<typeof GenerationSchema>;

export const GenerationListSchema = Type.Object({
  object: Type.Literal('list'),
  name: Type.String(),
  revision,
  split: nullableSplit,
  pinned,
  data: Type.Array(GenerationSchema, { description: 'Most recently put first.' }),
});

export const AdapterDeletedSchema = Type.Object({
  name: Type.String(),
  object: Type.Literal('adapter'),
  deleted: Type.Literal(true),
});

export const ReplicaSchema = Type.Object({
  id: Type.String(),
  object: Type.Literal('replica'),
  self: Type.Boolean({ description: 'It is the server that answers.' }),
  url: Type.String({ description: 'Where clients reach it.' }),
  version: Type.String(),
  model: Type.String({ description: 'The base model.' }),
  started: Type.Integer({ description: 'Seconds since the epoch.' }),
  updated: Type.Integer({ description: 'Its last sign of life, seconds since the epoch.' }),
  slots: Type.Integer({ description: 'Adapters that fit its memory for one step.' }),
  revision: Type.Integer({ description: 'Revision of the registry that it has applied.' }),
  running: Type.Integer({ description: 'Sequences in its batch.' }),
  waiting: Type.Integer({ description: 'Sequences that wait for it.' }),
  adapters: Type.Array(
    Type.Object({
      generation: Type.String(),
      names: Type.Array(Type.String(), { description: 'Names that lead to it.' }),
      level: Type.Unsafe<'device' | 'host'>({ type: 'string', enum: ['device', 'host'] }),
      pinned: Type.Boolean(),
    }),
    { description: 'What it has in memory.' },
  ),
});
export type WireReplica = Static<typeof ReplicaSchema>;

export const ReplicaListSchema = Type.Object({
  object: Type.Literal('list'),
  data: Type.Array(ReplicaSchema),
});
