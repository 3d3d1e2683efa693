/** The adapter routes. */
import { type Static, Type } from 'typebox';
import { MODEL_NAME_LENGTH_MAX, PATH_LENGTH_MAX } from './limits.ts';

export const AdapterParamsSchema = Type.Object({
  name: Type.String({ minLength: 1, maxLength: MODEL_NAME_LENGTH_MAX }),
});

export const AdapterSchema = Type.Object({
  name: Type.String(),
  object: Type.Literal('adapter'),
  generation: Type.String({ description: 'SHA-256 of the content; changes when the name moves.' }),
  created: Type.Integer({ description: 'Seconds since the epoch.' }),
  rank: Type.Integer({ description: 'Largest rank of any module.' }),
  target_modules: Type.Array(Type.String()),
  resident_bytes: Type.Integer({ description: 'Bytes it takes in adapter memory.' }),
  file_bytes: Type.Integer(),
  source: Type.String({ description: 'The folder it came from, or "upload".' }),
});
export type WireAdapter = Static<typeof AdapterSchema>;

export const AdapterListSchema = Type.Object({
  object: Type.Literal('list'),
  data: Type.Array(AdapterSchema),
  damaged: Type.Array(Type.Object({ name: Type.String(), reason: Type.String() }), {
    description: 'Names whose stored files failed their check; they answer with store_corrupt.',
  }),
});
export type WireAdapterList = Static<typeof AdapterListSchema>;

export const AdapterDeletedSchema = Type.Object({
  name: Type.String(),
  object: Type.Literal('adapter'),
  deleted: Type.Literal(true),
});

/** The JSON form of PUT; the other form is multipart/form-data. */
export const AdapterPathSchema = Type.Object(
  {
    path: Type.String({
      description: 'A PEFT folder; relative paths start at the configured adapter root.',
      minLength: 1,
      maxLength: PATH_LENGTH_MAX,
    }),
  },
  { additionalProperties: false },
);
export type AdapterPath = Static<typeof AdapterPathSchema>;
