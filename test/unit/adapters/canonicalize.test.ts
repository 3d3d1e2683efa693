import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  type ConvertLimits,
  type ConvertResult,
  convert,
} from '../../../src/adapters/convert/canonicalize.ts';
import { openCanonical } from '../../../src/adapters/convert/open-canonical.ts';
import { baseShapesDigest, residentBytesOf } from '../../../src/adapters/formats/canonical-file.ts';
import { LoramuxError } from '../../../src/errors.ts';
import { parseSafetensorsHeader } from '../../../src/importer/index.ts';
import type { LoraDtype } from '../../../src/native/addon-types.ts';
import {
  f32,
  loraConfig,
  loraTensors,
  safetensors,
  TempDir,
  type Tensor,
  TINY_MODULES,
} from '../../support/adapter-files.ts';

const temp = new TempDir();
afterAll(() => temp.remove());

const LIMITS: ConvertLimits = { maxRank: 8, maxAdapterBytes: 1e6, maxResidentBytes: 1e6 };
const BASE = baseShapesDigest(TINY_MODULES);

interface Converted extends ConvertResult {
  path: string;
}

function run(
  config: object,
  weights: Uint8Array | readonly Tensor[],
  limits: Partial<ConvertLimits> = {},
): Converted {
  const bytes = weights instanceof Uint8Array ? weights : safetensors(weights);
  return runDir(temp.adapter(config, bytes), limits);
}

function runDir(dir: string, limits: Partial<ConvertLimits> = {}, root?: string): Converted {
  const outPath = temp.fresh('.safetensors');
  const job = {
    configPath: path.join(dir, 'adapter_config.json'),
    weightsPath: path.join(dir, 'adapter_model.safetensors'),
    root,
    outPath,
    limits: { ...LIMITS, ...limits },
  };
  return { ...convert(job, TINY_MODULES), path: outPath };
}

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof LoramuxError) return error.code;
    throw error;
  }
  return 'accepted';
}

const renamed = (tensors: readonly Tensor[], rename: (name: string) => string) =>
  tensors.map((t) => ({ ...t, name: rename(t.name) }));
const openJob = (from: Converted) => ({
  path: from.path,
  digest: from.digest,
  fileBytes: from.fileBytes,
  headerBytes: from.headerBytes,
  verify: true,
});

describe('canonical file', () => {
  it('holds the tensors, sorted, with scale and shapes in its metadata', () => {
    const spec = { targets: ['v_proj', 'q_proj', 'down_proj'] as const, rank: 3 };
    const tensors = loraTensors(spec);
    const result = run(loraConfig(spec, { rank_pattern: { v_proj: 3 } }), tensors);
    const bytes = readFileSync(result.path);
    expect(bytes.length).toBe(result.fileBytes);
    expect(result.headerBytes % 64).toBe(0);
    const header = parseSafetensorsHeader(bytes, bytes.length);
    expect([...header.tensors.keys()]).toEqual(
      [0, 1].flatMap((layer) =>
        ['q_proj', 'v_proj', 'down_proj'].flatMap((module) =>
          ['A', 'B'].map((letter) => `layers.${layer}.${module}.${letter}`),
        ),
      ),
    );
    expect(header.metadata.get('loramux')).toMatch(
      /^\{"base":"[0-9a-f]{64}","modules":\[\{"in":8,"layer":0,"module":"q_proj","out":8,"rank":3,"scale":2\},/,
    );
    for (const tensor of tensors) {
      const name = tensor.name
        .replace(/^base_model\.model\.model\./, '')
        .replace(/\.(self_attn|mlp)\./, '.')
        .replace('.lora_A.weight', '.A')
        .replace('.lora_B.weight', '.B');
      const stored = header.tensors.get(name)!;
      expect(bytes.subarray(stored.begin, stored.end).equals(tensor.bytes), name).toBe(true);
    }
    expect(result.targetModules).toEqual(['q_proj', 'v_proj', 'down_proj']);
    expect(result.rank).toBe(3);
    expect(result.residentBytes).toBe(
      tensors.reduce((sum, t) => sum + Math.ceil(t.bytes.length / 64) * 64, 0),
    );
  });

  it('is named by its own SHA-256', () => {
    const result = run(loraConfig(), loraTensors());
    const sha = execFileSync('sha256sum', [result.path], { encoding: 'utf8' }).slice(0, 64);
    expect(result.digest).toBe(sha);
    const header = readFileSync(result.path).subarray(0, result.headerBytes);
    expect(result.headerDigest).toBe(createHash('sha256').update(header).digest('hex'));
  });

  it('depends on the content alone', () => {
    const tensors = loraTensors();
    const { digest } = run(loraConfig(), tensors);
    const same = [
      run(loraConfig(), [...tensors].reverse()),
      run(loraConfig(), safetensors(tensors, { made: 'elsewhere' })),
      run(loraConfig({}, { lora_dropout: 0.1, peft_version: '9' }), tensors),
      run(
        loraConfig({}, { target_modules: '.*\\.(q|v)_proj', r: 5, rank_pattern: { '.*': 2 } }),
        tensors,
      ),
      run(
        loraConfig(),
        renamed(tensors, (name) => name.replace('.weight', '.default.weight')),
      ),
    ].map((r) => r.digest);
    // Alpha stays 4 in all of them, so rank 2 gives scale 2 whatever `r` says.
    expect(same).toEqual(same.map(() => digest));

    const nudged = tensors.map((t, i) =>
      i === 3 ? { ...t, bytes: Uint8Array.from(t.bytes, (b, j) => (j === 0 ? b ^ 1 : b)) } : t,
    );
    const different = [
      run(loraConfig({}, { lora_alpha: 5 }), tensors),
      run(loraConfig({}, { use_rslora: true }), tensors),
      run(loraConfig(), nudged),
      run(
        loraConfig(),
        tensors.map((t) => ({
          ...t,
          dtype: 'BF16' as const,
          bytes: t.bytes.slice(t.bytes.length / 2),
        })),
      ),
    ].map((r) => r.digest);
    expect(new Set([digest, ...different]).size).toBe(5);
  });

  it('widens a pair of two dtypes to float32 and keeps the other pairs as they are', () => {
    const tensors = loraTensors();
    // 0x3fc0 is 1.5 in BF16; 0x3e00 is 1.5 in F16.
    const fill = (t: Tensor, dtype: Tensor['dtype'], bits: number): Tensor => ({
      ...t,
      dtype,
      bytes: new Uint8Array(new Uint16Array(t.shape[0]! * t.shape[1]!).fill(bits).buffer),
    });
    tensors[0] = fill(tensors[0]!, 'BF16', 0x3fc0);
    tensors[2] = fill(tensors[2]!, 'F16', 0x3e00);
    tensors[3] = fill(tensors[3]!, 'BF16', 0x3fc0);
    tensors[4] = fill(tensors[4]!, 'F16', 0x3e00);
    tensors[5] = fill(tensors[5]!, 'F16', 0x3e00);
    const result = run(loraConfig(), tensors);
    const image = openCanonical(openJob(result), BASE);
    expect(image.pairs.map((p) => p.dtype)).toEqual(['F32', 'F32', 'F16', 'F32']);
    const bytes = readFileSync(result.path);
    for (const offset of [
      image.pairs[0]!.offsetA,
      image.pairs[1]!.offsetA,
      image.pairs[1]!.offsetB,
    ]) {
      expect(bytes.readFloatLE(offset)).toBe(1.5);
      expect(bytes.readFloatLE(offset + 4)).toBe(1.5);
    }
  });

  it('opens with the offsets of its tensors', () => {
    const tensors = loraTensors({ targets: ['k_proj', 'up_proj'] });
    const result = run(loraConfig({ targets: ['k_proj', 'up_proj'] }), tensors);
    const image = openCanonical(openJob(result), BASE);
    const bytes = readFileSync(result.path);
    expect(bytes.equals(image.bytes)).toBe(true);
    expect(image.pairs.map((p) => [p.layer, p.module])).toEqual([
      [0, 1],
      [0, 5],
      [1, 1],
      [1, 5],
    ]);
    image.pairs.forEach((pair, i) => {
      const [a, b] = [tensors[2 * i]!.bytes, tensors[2 * i + 1]!.bytes];
      expect(bytes.subarray(pair.offsetA, pair.offsetA + a.length).equals(a)).toBe(true);
      expect(bytes.subarray(pair.offsetB, pair.offsetB + b.length).equals(b)).toBe(true);
      expect(pair).toMatchObject({ rank: 2, scale: 2, dtype: 'F32' });
    });
  });

  it('is read into shared memory where that is given', () => {
    const result = run(loraConfig(), loraTensors());
    const offset = 4096;
    const buffer = new SharedArrayBuffer(offset + result.fileBytes + 1);
    const image = openCanonical({ ...openJob(result), into: { buffer, offset } }, BASE);
    expect(image.bytes.buffer).toBe(buffer);
    expect(image.bytes).toHaveLength(result.fileBytes);
    expect(readFileSync(result.path).equals(image.bytes)).toBe(true);
    const around = new Uint8Array(buffer);
    expect(around.subarray(0, offset).every((byte) => byte === 0)).toBe(true);
    expect(around.at(-1)).toBe(0);
    expect(image.pairs).toEqual(openCanonical(openJob(result), BASE).pairs);
  });

  it('is refused as damaged when it is not what was stored', () => {
    const result = run(loraConfig(), loraTensors());
    const job = openJob(result);
    const intact = readFileSync(result.path);
    const withByte = (at: number) => {
      const copy = Buffer.from(intact);
      copy[at]! ^= 0x01;
      writeFileSync(result.path, copy);
    };
    for (const at of [0, 20, result.headerBytes - 1, result.headerBytes, intact.length - 1]) {
      withByte(at);
      expect(
        codeOf(() => openCanonical(job, BASE)),
        `byte ${at}`,
      ).toBe('store_corrupt');
    }
    writeFileSync(result.path, intact);
    // Sound, so neither a new upload nor another copy of the same bytes would help.
    expect(codeOf(() => openCanonical(job, 'another base'))).toBe('adapter_load_failed');
    expect(codeOf(() => openCanonical({ ...job, path: '/nonexistent' }, BASE))).toBe(
      'store_corrupt',
    );
    truncateSync(result.path, intact.length - 1);
    expect(codeOf(() => openCanonical(job, BASE))).toBe('store_corrupt');
  });
});

describe('accounting for tensors', () => {
  const tensors = loraTensors();
  const change = (i: number, with_: Partial<Tensor>) =>
    tensors.map((t, j) => (i === j ? { ...t, ...with_ } : t));
  const extra = (name: string): Tensor[] => [
    ...tensors,
    { name, dtype: 'F32', shape: [1], bytes: f32([1]) },
  ];

  it.each<[string, Tensor[], string]>([
    ['a module without tensors', tensors.slice(2), 'adapter_module_missing'],
    ['a missing lora_A', tensors.slice(1), 'adapter_module_missing'],
    ['a missing lora_B', tensors.slice(0, -1), 'adapter_module_missing'],
    ['no tensors at all', [], 'adapter_module_missing'],
    [
      'a module that is not targeted',
      [...tensors, ...loraTensors({ targets: ['k_proj'] })],
      'adapter_tensor_unexpected',
    ],
    [
      'a module the base lacks',
      extra('base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight'),
      'adapter_module_unknown',
    ],
    ['a foreign name', extra('something'), 'adapter_tensor_unexpected'],
    ['no prefix', renamed(tensors, (n) => n.slice(17)), 'adapter_tensor_unexpected'],
    [
      'two adapters',
      [...tensors, ...renamed(tensors, (n) => n.replace('.weight', '.other.weight'))],
      'adapter_tensor_unexpected',
    ],
    [
      'a bias',
      extra('base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias'),
      'adapter_tensor_unexpected',
    ],
    [
      'a DoRA magnitude',
      extra('base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector'),
      'adapter_tensor_unexpected',
    ],
    ['a saved head', extra('base_model.model.lm_head.weight'), 'adapter_embedding_unsupported'],
    [
      'an adapted embedding',
      extra('base_model.model.model.embed_tokens.lora_embedding_A'),
      'adapter_embedding_unsupported',
    ],
    ['a wrong rank', change(0, { shape: [1, 16] }), 'adapter_shape_mismatch'],
    ['a transposed A', change(0, { shape: [8, 2] }), 'adapter_shape_mismatch'],
    ['a transposed B', change(1, { shape: [2, 8] }), 'adapter_shape_mismatch'],
    ['a flat A', change(0, { shape: [16] }), 'adapter_shape_mismatch'],
    ['an element type', change(0, { dtype: 'I32' }), 'safetensors_dtype_unsupported'],
    [
      'a NaN in A',
      change(0, { bytes: f32([...Array(15).fill(1), Number.NaN]) }),
      'adapter_not_finite',
    ],
    [
      'an infinity in B',
      change(7, { bytes: f32([-Infinity, ...Array(7).fill(0)]) }),
      'adapter_not_finite',
    ],
  ])('refuses %s', (_, list, code) => {
    expect(codeOf(() => run(loraConfig(), list))).toBe(code);
  });

  it('refuses a scale that float32 or lora_B cannot take', () => {
    expect(codeOf(() => run(loraConfig({}, { lora_alpha: 1e39 }), tensors))).toBe(
      'adapter_not_finite',
    );
    const large = change(1, { bytes: f32(Array(16).fill(1e30)) });
    expect(codeOf(() => run(loraConfig({}, { lora_alpha: 1e9 }), large))).toBe(
      'adapter_not_finite',
    );
    expect(codeOf(() => run(loraConfig({}, { lora_alpha: -3 }), tensors))).toBe('accepted');
  });

  it('applies the limits', () => {
    const spec = { rank: 9 };
    expect(codeOf(() => run(loraConfig(spec), loraTensors(spec)))).toBe('adapter_rank_exceeded');
    expect(codeOf(() => run(loraConfig(), tensors, { maxAdapterBytes: 100 }))).toBe(
      'adapter_too_large',
    );
    expect(codeOf(() => run(loraConfig(), tensors, { maxResidentBytes: 100 }))).toBe(
      'adapter_never_fits',
    );
    const wide = { rank: 8 };
    const { residentBytes } = run(loraConfig(wide), loraTensors(wide));
    const codeWithin = (maxResidentBytes: number, loraDtype?: LoraDtype) =>
      codeOf(() => run(loraConfig(wide), loraTensors(wide), { maxResidentBytes, loraDtype }));
    expect(codeWithin(residentBytes)).toBe('accepted');
    expect(codeWithin(residentBytes - 1)).toBe('adapter_never_fits');
    // This model is narrower than what bfloat16 panels are padded to.
    expect(codeWithin(residentBytes, 'bfloat16')).toBe('adapter_never_fits');
  });

  it('knows the bytes of every element type', () => {
    const module = { layer: 0, module: 0, scale: 1, dtype: 'F32' } as const;
    const square = { ...module, rank: 16, inFeatures: 2048, outFeatures: 2048 };
    expect(residentBytesOf([square], 'float32')).toBe(2 * 4 * 16 * 2048);
    expect(residentBytesOf([square], 'bfloat16')).toBe(2 * 2 * 16 * 2048);
    expect(residentBytesOf([square], 'int8')).toBe(2 * 16 * (2048 + 2 * 4));
    const odd = { ...module, rank: 3, inFeatures: 33, outFeatures: 17 };
    expect(residentBytesOf([odd], 'float32')).toBe(448 + 256);
    expect(residentBytesOf([odd], 'bfloat16')).toBe(2 * 3 * 64 + 2 * 4 * 32);
    // 3 * (64 + 4) and 4 * (32 + 4), on multiples of 64.
    expect(residentBytesOf([odd], 'int8')).toBe(256 + 192);
  });

  it('recognises pickles by their first bytes', () => {
    const zip = Buffer.from('504b0304000008080000000000000000', 'hex');
    const bare = Buffer.from('80025d7100000000000000', 'hex');
    for (const bytes of [zip, bare]) {
      expect(codeOf(() => run(loraConfig(), bytes))).toBe('adapter_pickle_refused');
    }
    expect(codeOf(() => run(loraConfig(), Buffer.alloc(0)))).toBe('safetensors_invalid');
  });
});

describe('files of an upload', () => {
  it('must exist', () => {
    const dir = temp.adapter(loraConfig(), safetensors(loraTensors()));
    execFileSync('rm', [path.join(dir, 'adapter_config.json')]);
    expect(codeOf(() => runDir(dir))).toBe('adapter_upload_incomplete');
  });

  it('must be regular files; a named pipe does not block', () => {
    const dir = temp.adapter(loraConfig(), Buffer.alloc(0));
    const weights = path.join(dir, 'adapter_model.safetensors');
    execFileSync('rm', [weights]);
    execFileSync('mkfifo', [weights]);
    expect(codeOf(() => runDir(dir))).toBe('adapter_path_forbidden');
  });

  it('must lie in the jail also behind links', () => {
    const inside = temp.adapter(loraConfig(), safetensors(loraTensors()), 'jail');
    const outside = temp.adapter(loraConfig(), safetensors(loraTensors()), 'elsewhere');
    const jail = temp.join('jail');
    expect(codeOf(() => runDir(inside, {}, jail))).toBe('accepted');
    const weights = path.join(inside, 'adapter_model.safetensors');
    execFileSync('rm', [weights]);
    symlinkSync(path.join(outside, 'adapter_model.safetensors'), weights);
    expect(codeOf(() => runDir(inside, {}, jail))).toBe('adapter_path_forbidden');
    expect(existsSync(weights)).toBe(true);
  });
});
