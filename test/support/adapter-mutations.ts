/** Damaged and hostile variants of a good PEFT LoRA adapter. */
import type { Random } from './random.ts';

export interface AdapterFiles {
  config: Buffer;
  weights: Buffer;
}

type Header = Record<string, { dtype: unknown; shape: unknown; data_offsets: unknown }>;
type Mutation = (files: AdapterFiles, random: Random) => AdapterFiles;

const DTYPES = ['F16', 'BF16', 'F64', 'I8', 'I32', 'BOOL', 'F8_E4M3', 'float', '', null, 32];
const JSON_VALUES = [
  null,
  true,
  false,
  0,
  -1,
  3,
  1.5,
  1e308,
  2 ** 53,
  '',
  'q_proj',
  '.*',
  'pissa',
  '(a*)*b',
  [],
  ['q_proj'],
  [[]],
  [null],
  {},
  { q_proj: 1 },
  { a: { b: {} } },
];
const CONFIG_FIELDS = [
  'peft_type',
  'task_type',
  'r',
  'lora_alpha',
  'target_modules',
  'exclude_modules',
  'layers_to_transform',
  'layers_pattern',
  'rank_pattern',
  'alpha_pattern',
  'use_rslora',
  'use_dora',
  'bias',
  'modules_to_save',
  'init_lora_weights',
  'fan_in_fan_out',
  'lora_dropout',
  'revision',
  'target_parameters',
  'arrow_config',
  'made_up',
];

export function headerBytes(weights: Buffer): number {
  return Number(weights.readBigUInt64LE(0));
}

function withHeader(weights: Buffer, text: string): Buffer {
  const body = Buffer.from(text);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(body.length));
  return Buffer.concat([length, body, weights.subarray(8 + headerBytes(weights))]);
}

const headerOf = (weights: Buffer): Header =>
  JSON.parse(weights.subarray(8, 8 + headerBytes(weights)).toString()) as Header;

/** Changes the parsed header of the weights file. */
const onHeader =
  (change: (header: Header, names: string[], random: Random) => void): Mutation =>
  (files, random) => {
    const header = headerOf(files.weights);
    const names = Object.keys(header).filter((name) => name !== '__metadata__');
    change(header, names, random);
    return { ...files, weights: withHeader(files.weights, JSON.stringify(header)) };
  };

/** Changes the text of the weights file's header. */
const onHeaderText =
  (change: (text: string, random: Random) => string): Mutation =>
  (files, random) => {
    const text = files.weights.subarray(8, 8 + headerBytes(files.weights)).toString();
    return { ...files, weights: withHeader(files.weights, change(text, random)) };
  };

const onConfig =
  (change: (config: Record<string, unknown>, random: Random) => void): Mutation =>
  (files, random) => {
    const config = JSON.parse(files.config.toString()) as Record<string, unknown>;
    change(config, random);
    return { ...files, config: Buffer.from(JSON.stringify(config)) };
  };

function flipBits(bytes: Buffer, from: number, to: number, count: number, random: Random): Buffer {
  const copy = Buffer.from(bytes);
  for (let i = 0; i < count; i++) copy[random.int(from, to - 1)]! ^= 1 << random.int(0, 7);
  return copy;
}

const deep = (random: Random) => {
  const depth = random.int(1000, 200_000);
  return random.chance(0.5)
    ? '['.repeat(depth) + ']'.repeat(random.chance(0.5) ? depth : 0)
    : '{"a":'.repeat(depth);
};

export const MUTATIONS: Readonly<Record<string, Mutation>> = {
  'weights cut off': (files, random) => ({
    ...files,
    weights: files.weights.subarray(0, random.int(0, files.weights.length - 1)),
  }),
  'weights extended': (files, random) => ({
    ...files,
    weights: Buffer.concat([files.weights, Buffer.alloc(random.int(1, 100), random.int(0, 255))]),
  }),
  'bits of the length': (files, random) => ({
    ...files,
    weights: flipBits(files.weights, 0, 8, random.int(1, 3), random),
  }),
  'hostile length': (files, random) => {
    const weights = Buffer.from(files.weights);
    const high = random.chance(0.5) ? 0n : BigInt(random.int(0, 0xffff_ffff));
    weights.writeBigUInt64LE((high << 32n) | BigInt(random.int(0, 0xffff_ffff)));
    return { ...files, weights };
  },
  'bits of the header': (files, random) => ({
    ...files,
    weights: flipBits(files.weights, 8, 8 + headerBytes(files.weights), random.int(1, 4), random),
  }),
  'bits of the data': (files, random) => {
    const from = 8 + headerBytes(files.weights);
    const { length } = files.weights;
    return { ...files, weights: flipBits(files.weights, from, length, random.int(1, 40), random) };
  },
  'a value that is not finite': (files, random) => {
    const weights = Buffer.from(files.weights);
    const from = 8 + headerBytes(weights);
    const at = from + 4 * random.int(0, (weights.length - from) / 4 - 1);
    weights.writeFloatLE(random.pick([Number.NaN, Infinity, -Infinity]), at);
    return { ...files, weights };
  },
  offsets: onHeader((header, names, random) => {
    const entry = header[random.pick(names)]!;
    const number = () =>
      random.pick([0, 1, -1, 4, 64, 1e9, 2 ** 53, 1.5, Number.MAX_SAFE_INTEGER, null, '0']);
    entry.data_offsets = random.pick([[number(), number()], [number()], [0, 64, 64], null, {}, 7]);
  }),
  overlap: onHeader((header, names, random) => {
    const from = random.pick(names);
    const to = random.pick(names.filter((name) => name !== from));
    header[to]!.data_offsets = header[from]!.data_offsets;
  }),
  'swapped tensors': onHeader((header, names, random) => {
    const [a, b] = [random.pick(names), random.pick(names)];
    const kept = header[a]!;
    header[a] = header[b]!;
    header[b] = kept;
  }),
  dtype: onHeader((header, names, random) => {
    header[random.pick(names)]!.dtype = random.pick(DTYPES);
  }),
  shape: onHeader((header, names, random) => {
    const entry = header[random.pick(names)]!;
    const [rows, columns] = entry.shape as [number, number];
    entry.shape = random.pick<unknown>([
      [columns, rows],
      [rows * columns],
      [1, rows, columns],
      [rows, columns, 1],
      [rows * 2, columns / 2],
      [rows + 1, columns],
      [],
      [0, columns],
      [2 ** 31, 2 ** 31],
      [-rows, -columns],
      ['2', columns],
      null,
      Array.from({ length: 40 }, () => 1),
    ]);
  }),
  'a tensor less': onHeader((header, names, random) => {
    delete header[random.pick(names)];
  }),
  'a renamed tensor': onHeader((header, names, random) => {
    const name = random.pick(names);
    const entry = header[name]!;
    delete header[name];
    const to = random.pick([
      'x',
      '__proto__x',
      `${name}.default`,
      name.replace('lora_A', 'lora_E'),
      name.replace('layers.', 'layers.9'),
      name.replace('self_attn.q_proj', 'mlp.down_proj'),
      'base_model.model.lm_head.weight',
      '',
    ]);
    header[to] = entry;
  }),
  'an extra field': onHeader((header, names, random) => {
    (header[random.pick(names)] as Record<string, unknown>)[random.pick(['x', 'crc', ''])] = 1;
  }),
  'strange metadata': onHeader((header, _, random) => {
    (header as Record<string, unknown>).__metadata__ = random.pick<unknown>([
      1,
      null,
      [],
      { a: 1 },
      { loramux: '{}' },
      'text',
    ]);
  }),
  'a repeated tensor': onHeaderText((text) => {
    const first = /"base_model[^}]*\}/.exec(text)![0];
    return `${text.trimEnd().slice(0, -1)},${first}}`;
  }),
  'a header that is other JSON': onHeaderText((_, random) =>
    random.pick(['{}', '[]', '"', 'null', '{"a":1}', '{"__metadata__":{}}', '\ufeff{}', '\0\0']),
  ),
  'a deep header': onHeaderText((_, random) => deep(random)),
  'random weights': (files, random) => ({
    ...files,
    weights: Buffer.from(Array.from({ length: random.int(0, 400) }, () => random.int(0, 255))),
  }),
  'config cut off': (files, random) => ({
    ...files,
    config: files.config.subarray(0, random.int(0, files.config.length - 1)),
  }),
  'bits of the config': (files, random) => ({
    ...files,
    config: flipBits(files.config, 0, files.config.length, random.int(1, 4), random),
  }),
  'a field of the config': onConfig((config, random) => {
    config[random.pick(CONFIG_FIELDS)] = random.pick<unknown>(JSON_VALUES);
  }),
  'a field of the config less': onConfig((config, random) => {
    delete config[random.pick(Object.keys(config))];
  }),
  'a repeated field of the config': (files, random) => {
    const field = random.pick(['r', 'lora_alpha', 'peft_type', 'bias']);
    const text = files.config.toString();
    const doubled = `${text.slice(0, -1)},"${field}":${JSON.stringify(random.pick(JSON_VALUES))}}`;
    return { ...files, config: Buffer.from(doubled) };
  },
  'a deep config': (files, random) => ({ ...files, config: Buffer.from(deep(random)) }),
};
