/** What the adapter routes take: bodies, query and conditions. */
import { type Static, type TSchema, Type } from 'typebox';
import {
  MODEL_NAME_LENGTH_MAX,
  PATH_LENGTH_MAX,
  REVISION_LENGTH_MAX,
  URL_LENGTH_MAX,
} from './limits.ts';
import { nullableString } from './nullable.ts';

const CLOSED = { additionalProperties: false };

/** SHA-256 in lower-case hex. */
const digest = (description: string) => Type.String({ description, pattern: '^[0-9a-f]{64}$' });

/** A route without query parameters; one that is sent is refused. */
export const NoQuerySchema = Type.Object({}, CLOSED);

const weight = (description: string) =>
  Type.Number({ description, exclusiveMinimum: 0, exclusiveMaximum: 1 });

export const PutQuerySchema = Type.Object(
  {
    canary_weight: Type.Optional(
      weight('Give the new generation this share of the requests instead of moving the name.'),
    ),
  },
  CLOSED,
);

const ifMatch = Type.Optional(
  Type.Union([Type.Literal('*'), Type.String({ pattern: '^"[\\x21\\x23-\\x7e\\x80-\\xff]*"$' })], {
    description:
      'A quoted generation that must be current, as in the ETag of an answer; * when any will do.',
  }),
);

/** Headers of changes; others pass. */
export const IfMatchSchema = Type.Object({ 'if-match': ifMatch });

export const PutConditionsSchema = Type.Object({
  'if-match': ifMatch,
  'if-none-match': Type.Optional(
    Type.Literal('*', { description: 'Only *: the name must not exist yet.' }),
  ),
});

/** The JSON form of PUT; the others are multipart/form-data and an archive as the body. */
export const AdapterSourceSchema = Type.Object(
  {
    path: Type.Optional(
      Type.String({
        description: 'A PEFT folder; relative paths start at the configured adapter root.',
        minLength: 1,
        maxLength: PATH_LENGTH_MAX,
      }),
    ),
    repo: Type.Optional(
      Type.String({
        description: 'A repository of the Hugging Face hub, owner/name.',
        minLength: 1,
        maxLength: MODEL_NAME_LENGTH_MAX,
      }),
    ),
    revision: nullableString("The repository's branch, tag or commit. Default: main.", {
      minLength: 1,
      maxLength: REVISION_LENGTH_MAX,
    }),
    subfolder: nullableString('Folder of the repository that has the adapter.', {
      minLength: 1,
      maxLength: PATH_LENGTH_MAX,
    }),
    url: Type.Optional(
      Type.String({
        description: 'An https URL of a .zip or .tar.gz archive.',
        minLength: 1,
        maxLength: URL_LENGTH_MAX,
      }),
    ),
  },
  { description: 'Exactly one of path, repo and url.', ...CLOSED },
);
export type WireAdapterSource = Static<typeof AdapterSourceSchema>;

const keptGeneration = (description: string) =>
  Type.Optional(
    Type.Unsafe<string | null>({ ...digest(description), type: ['string', 'null'] } as TSchema),
  );

export const RollbackSchema = Type.Object(
  { generation: keptGeneration('A kept generation. Default: the one before the current one.') },
  CLOSED,
);

export const SetSplitSchema = Type.Object(
  {
    generation: digest('A kept generation that is not the current one.'),
    weight: weight('Its share of the requests.'),
  },
  CLOSED,
);

export const LoadSchema = Type.Object(
  {
    generation: keptGeneration('A kept generation. Default: those that answer requests.'),
    pinned: Type.Optional(
      Type.Unsafe<boolean | null>({
        type: ['boolean', 'null'],
        description: 'Also pin the name, or unpin it.',
      } as TSchema),
    ),
  },
  CLOSED,
);

export const EvictSchema = Type.Object(
  { generation: keptGeneration('A kept generation. Default: those that answer requests.') },
  CLOSED,
);
