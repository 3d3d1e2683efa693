/**
 * The one configuration schema. Validation, defaults, the TypeScript type, command-line flags,
 * environment names and docs/configuration.md all come from it.
 */
import { type Static, type TSchema, Type } from 'typebox';
import { WEIGHTS_MODES } from '../importer/types.ts';
import { ISAS, type Isa, LORA_DTYPES } from '../native/addon-types.ts';

/** Largest limit of any kind: positions, slots and Node's buffers are 31-bit. */
const INT_MAX = 2 ** 31 - 1;

const int = (description: string, value: number, minimum: number, maximum = INT_MAX) =>
  Type.Integer({ description, default: value, minimum, maximum });
const optionalInt = (description: string, minimum: number, maximum = INT_MAX) =>
  Type.Optional(Type.Integer({ description, minimum, maximum }));
const oneOf = <Value extends string>(
  description: string,
  values: readonly Value[],
  value: NoInfer<Value>,
) => Type.Unsafe<Value>(Type.String({ description, enum: [...values], default: value }));

const MODEL = {
  model: Type.String({
    description: 'Model folder in Hugging Face format (config.json, safetensors, tokenizer.json).',
    minLength: 1,
  }),
  servedModelName: Type.Optional(
    Type.String({
      description: "Name of the base model in requests. Default: the model folder's name.",
      minLength: 1,
      maxLength: 256,
    }),
  ),
  maxModelLen: optionalInt(
    'Longest prompt plus output, tokens. Default: what the model was trained for, or what the KV ' +
      'cache holds if that is less.',
    1,
  ),
  weights: oneOf(
    "What the model's weights are computed with. auto: the format of an imported folder; else bf16 " +
      'for bfloat16 checkpoints, float32 for others. Packed formats (bf16, int8, int4) of a ' +
      'checkpoint are packed at each start; loramux import does it once.',
    WEIGHTS_MODES,
    'auto',
  ),
  weightsGroupSize: optionalInt(
    'Inputs per weight scale of int8 and int4: 0 (one scale per output), 32, 64, 128, 256 or a ' +
      'multiple of 256. Default: int8 256, int4 64.',
    0,
  ),
  chatTemplate: Type.Optional(
    Type.String({
      description:
        "File with the model's chat template (Jinja). Default: chat_template.jinja of the model " +
        'folder, else chat_template of its tokenizer_config.json.',
      minLength: 1,
    }),
  ),
  trustRequestChatTemplate: Type.Boolean({
    description: 'Accept the chat_template field of requests.',
    default: false,
  }),
  toolCallParser: oneOf(
    'How the model writes calls of tools; auto goes by the chat template.',
    ['auto', 'hermes', 'llama3_json', 'mistral'],
    'auto',
  ),
};

const SERVER = {
  host: Type.String({ description: 'Address to listen on.', default: '127.0.0.1', minLength: 1 }),
  port: int('Port to listen on; 0 takes a free one and the ready line names it.', 8000, 0, 65535),
  logLevel: oneOf(
    'Least severe log lines that are written (JSON, to standard error).',
    ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'],
    'info',
  ),
  drainMs: int(
    'After SIGTERM: how long running requests may take to finish, milliseconds.',
    30_000,
    0,
  ),
};

const ADAPTERS = {
  dataDir: Type.String({
    description: 'Folder for uploaded adapters; they are there again after a restart.',
    default: '.data',
    minLength: 1,
  }),
  adapterRoot: Type.Optional(
    Type.String({
      description:
        'Folder below which PUT /v1/adapters/{name} with a JSON path may read. Default: none, only ' +
        'uploads are accepted.',
      minLength: 1,
    }),
  ),
  adapter: Type.Array(Type.String({ minLength: 1 }), {
    description:
      'An adapter to register before the server is ready, as NAME=FOLDER. Repeatable; in the ' +
      'environment, separated by commas.',
    default: [],
    maxItems: 10_000,
  }),
  maxLoras: int('Adapters that fit one step: slots of the native session.', 16, 1, 4096),
  maxLoraRank: int('Largest rank of an adapter.', 256, 1, 4096),
  adapterMemoryMb: int('Memory for resident adapters, MiB.', 1024, 1),
  loraDtype: oneOf(
    'Element type of resident adapters. bfloat16 takes half the memory of float32 and is read ' +
      'twice as fast; int8 takes a quarter, rounded to 255 levels; auto: bfloat16 where the ' +
      "model's weights are packed, else float32.",
    ['auto', ...LORA_DTYPES],
    'auto',
  ),
  hostCacheMb: int(
    'Host memory for checked adapter files that are not resident, MiB; 0 turns it off.',
    512,
    0,
  ),
  maxConcurrentLoads: int('Adapters that are read and loaded at the same time.', 4, 1, 64),
  adapterLoadTimeoutMs: int(
    'How long POST /v1/adapters/{name}/load waits for room and the load, milliseconds.',
    30_000,
    1,
  ),
  maxAdapters: int('Adapters that may be registered.', 10_000, 0, 1_000_000),
  maxAdapterMb: int('Largest adapter_model.safetensors, MiB.', 512, 1, 65_536),
  maxGenerations: int(
    'Generations a name keeps, the current one included: those it can be rolled back to.',
    5,
    1,
    64,
  ),
};

const SOURCES = {
  hubEndpoint: Type.String({
    description: 'Hugging Face hub that {"repo": ...} uploads are fetched from.',
    default: 'https://huggingface.co',
    minLength: 1,
  }),
  hubToken: Type.Optional(
    Type.String({
      description: 'Access token for the hub; better given by its environment name.',
      minLength: 1,
    }),
  ),
  remoteSources: Type.Boolean({
    description: 'Accept uploads from the hub and from https URLs.',
    default: true,
  }),
  allowPrivateSources: Type.Boolean({
    description:
      'Fetch also from private, loopback and link-local addresses, and without TLS. For hubs and ' +
      'file servers inside your network.',
    default: false,
  }),
  sourceTimeoutMs: int('Longest fetch of a remote source, milliseconds.', 600_000, 1),
  maxArchiveEntries: int('Entries of an archive that is uploaded or fetched.', 64, 2, 10_000),
};

const REGISTRY = {
  redisUrl: Type.Optional(
    Type.String({
      description:
        'Keep the registry in this Redis (redis:// or rediss://) and share it with every server ' +
        'that names it. Default: the embedded registry in the data folder.',
      minLength: 1,
    }),
  ),
  redisPrefix: Type.String({
    description: 'Begins every key in Redis; two deployments with different ones never meet.',
    default: 'loramux',
    minLength: 1,
    maxLength: 64,
  }),
  redisSchemaVersion: int('Version of the key layout in Redis; part of every key.', 1, 1, 1),
  redisAtStart: oneOf(
    'Redis away at start: wait for it, or serve what the disk cache has meanwhile.',
    ['wait', 'cached'],
    'wait',
  ),
  redisTimeoutMs: int('Longest answer of Redis to one command, milliseconds.', 2000, 10),
  redisWaitReplicas: int(
    'Redis replicas that must have a change before it is acknowledged (WAIT).',
    0,
    0,
    64,
  ),
  registryReconcileMs: int(
    'How often the registry is read again in case a notice was lost, milliseconds.',
    2000,
    50,
  ),
  replicaTtlMs: int(
    'After this long without a sign of life a replica is not listed any more, milliseconds.',
    15_000,
    500,
  ),
  replicaId: Type.Optional(
    Type.String({
      description: 'Name of this replica in the fleet. Default: drawn at start.',
      minLength: 1,
      maxLength: 128,
    }),
  ),
  advertiseUrl: Type.Optional(
    Type.String({
      description: 'Where the fleet reaches this replica. Default: the address it listens on.',
      minLength: 1,
    }),
  ),
  blobStore: Type.String({
    description:
      'Where a fleet shares adapter files: redis, s3://BUCKET/PREFIX, or file:///FOLDER on a disk ' +
      'that all replicas mount.',
    default: 'redis',
    minLength: 1,
  }),
  redisBlobMb: int('Largest adapter file that is shared through Redis, MiB.', 512, 1, 65_536),
  blobGraceMs: int(
    'How long a shared file stays after its last name, for requests that still use it, milliseconds.',
    300_000,
    0,
  ),
  diskCacheMb: int('Disk for adapter files of the fleet on this replica, MiB.', 10_240, 1),
  s3Endpoint: Type.Optional(
    Type.String({
      description:
        'Endpoint of an S3-compatible server. Default: the one of AWS. Credentials and region come ' +
        'from the AWS environment and files.',
      minLength: 1,
    }),
  ),
  s3PathStyle: Type.Boolean({
    description: 'Address the bucket by path instead of by host name; most other servers need it.',
    default: false,
  }),
};

const ENGINE = {
  kvDtype: oneOf(
    'Element type of the KV cache. int8 keeps a float32 scale per token and head. auto: bf16 with ' +
      'packed weights, f32 with float32 weights.',
    ['auto', 'f32', 'bf16', 'int8'],
    'auto',
  ),
  kvCacheMb: optionalInt(
    'Memory for the KV cache, MiB, taken at start. Default: 512, less for models so small that four ' +
      'full batches need less. Excludes numBlocks.',
    1,
  ),
  numBlocks: optionalInt('KV blocks of 16 tokens, instead of kvCacheMb.', 1),
  maxSequences: int('Sequences in one step.', 64, 1, 4096),
  maxTokensPerStep: int('Token budget of one step, prompt chunks included.', 512, 1, 65_536),
  maxLogitRowsPerStep: int('Logit rows of one step: sampled and scored tokens.', 256, 1, 65_536),
  maxQueuedRequests: int('Requests that may wait for their first step.', 1024, 1, 1_000_000),
  adapterWaitMs: int(
    'How long others may pass a request whose adapter waits for room in memory, milliseconds.',
    5000,
    0,
  ),
  grammarCompileMs: int(
    'How long one schema, pattern or grammar may take to be prepared, milliseconds.',
    5000,
    1,
    600_000,
  ),
  grammarCacheEntries: int('Prepared grammars that are kept when nobody uses them.', 64, 0, 10_000),
  grammarMaskWaitMs: int(
    'How long a step waits for the tokens that its constrained requests may use, milliseconds. ' +
      'Those whose do not come then end with grammar_failed.',
    2000,
    0,
    60_000,
  ),
  prefixCaching: Type.Boolean({
    description: 'Reuse KV blocks of equal prompts under the same adapter generation.',
    default: true,
  }),
  stepTimeoutMs: int(
    'A native step that takes longer puts the session at fault, and it is restarted, milliseconds. ' +
      'Far above what the largest step takes.',
    300_000,
    100,
  ),
  maxSessionRestarts: int(
    'Restarts of the native session within 10 minutes; at the next fault the server gives up.',
    3,
    0,
    1000,
  ),
  threads: optionalInt('Threads of a step. Default: the cores this process may use.', 1, 1024),
  isa: Type.Optional(
    Type.Unsafe<Isa>(
      Type.String({
        description: 'Instruction set of the kernels. Default: the best of this processor.',
        enum: [...ISAS],
      }),
    ),
  ),
};

const TRANSPORT = {
  bodyLimitKb: int('Largest JSON body or WebSocket frame, KiB.', 4096, 1, 1_048_576),
  maxHeaderKb: int('Largest request header, KiB.', 16, 1, 1024),
  maxConnections: int('Open connections; more are closed at once.', 4096, 1, 1_000_000),
  headersTimeoutMs: int('Time a client has to send its headers, milliseconds.', 10_000, 1),
  requestTimeoutMs: int('Time a client has to send its whole request, milliseconds.', 300_000, 1),
  keepAliveTimeoutMs: int('Idle time after which a connection is closed, milliseconds.', 72_000, 1),
  maxChoices: int('Prompts times n of one request.', 128, 1, 4096),
  streamBufferKb: int(
    'Events of one generation that may wait for a slow reader, KiB. Beyond it the generation is ' +
      'cancelled with slow_reader.',
    1024,
    1,
    1_048_576,
  ),
  sseKeepAliveMs: int('A comment is sent on a stream that is silent this long.', 15_000, 1),
  wsPingMs: int('A WebSocket peer must answer a ping within this time.', 30_000, 1),
  maxGenerationsPerSocket: int('Generations at once on one WebSocket.', 64, 1, 4096),
  maxAdapterLabels: int(
    'Adapters with metrics of their own; the rest are "other".',
    100,
    0,
    10_000,
  ),
};

/** Sections of the reference page, in order. */
export const CONFIG_SECTIONS = {
  Model: MODEL,
  Server: SERVER,
  Adapters: ADAPTERS,
  'Adapter sources': SOURCES,
  Registry: REGISTRY,
  Engine: ENGINE,
  Transport: TRANSPORT,
} as const;

export const ConfigSchema = Type.Object(
  { ...MODEL, ...SERVER, ...ADAPTERS, ...SOURCES, ...REGISTRY, ...ENGINE, ...TRANSPORT },
  { additionalProperties: false },
);

export type Config = Static<typeof ConfigSchema>;
export type ConfigKey = keyof Config;

/** What the loader and the reference page read of a field's schema. */
export interface FieldSchema {
  readonly type: 'string' | 'integer' | 'boolean' | 'array';
  readonly description: string;
  readonly default?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly enum?: readonly string[];
}

export interface ConfigField {
  readonly key: ConfigKey;
  readonly flag: string;
  readonly env: string;
  readonly required: boolean;
  readonly schema: FieldSchema;
}

/** Flags that are not their key in kebab case. */
const FLAGS: Readonly<Record<string, string>> = { redisUrl: '--redis' };

const words = (key: string) => key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

const REQUIRED: readonly string[] = (ConfigSchema as { required?: string[] }).required ?? [];

/** All fields, in the order of the schema. */
export const CONFIG_FIELDS: readonly ConfigField[] = Object.entries(
  ConfigSchema.properties as Record<string, TSchema>,
).map(([key, schema]) => ({
  key: key as ConfigKey,
  flag: FLAGS[key] ?? `--${words(key).replaceAll('_', '-')}`,
  env: `LORAMUX_${words(key).toUpperCase()}`,
  required: REQUIRED.includes(key) && !('default' in schema),
  schema: schema as unknown as FieldSchema,
}));
