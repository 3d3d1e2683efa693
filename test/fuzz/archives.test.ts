/** Seeded damage to archives: each is refused cleanly or yields two files, and nothing is left. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterAll, describe, expect, it } from 'vitest';
import { createSourceOpener } from '../../src/adapters/sources/opener.ts';
import { LoramuxError } from '../../src/errors.ts';
import { TempDir } from '../support/adapter-files.ts';
import { type TarEntry, tarGz, type ZipEntry, zip } from '../support/archives.ts';
import { folderTree } from '../support/folder-tree.ts';
import { Random } from '../support/random.ts';

const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 20_260_821);
const CASES = Number(process.env.LORAMUX_FUZZ_CASES ?? 2_000);
const MAX_ADAPTER_BYTES = 20_000;
const MAX_CONFIG_BYTES = 2_000;

const temp = new TempDir();
const workDir = temp.join('work');
mkdirSync(workDir);
const warnings: unknown[] = [];
const opener = createSourceOpener({
  workDir,
  adapterRoot: undefined,
  limits: {
    maxAdapterBytes: MAX_ADAPTER_BYTES,
    maxConfigBytes: MAX_CONFIG_BYTES,
    maxArchiveEntries: 8,
  },
  hub: { endpoint: 'https://hub.invalid' },
  remote: false,
  allowPrivate: false,
  timeoutMs: 120_000,
  onWarning: (_, error) => warnings.push(error),
});
afterAll(() => temp.remove());

const NAMES = ['adapter_config.json', 'adapter_model.safetensors', 'README.md'];

function good(random: Random): { name: string; data: Buffer }[] {
  const folder = random.pick(['', './', 'a/', 'a/b/']);
  return NAMES.map((name) => ({
    name: folder + name,
    // Half noise, half repeats: both stored and compressed blocks of deflate.
    data: Buffer.from(
      Array.from({ length: random.int(0, 1500) }, (_, i) =>
        i % 200 < 100 ? random.int(0, 255) : i,
      ),
    ),
  }));
}

function goodZip(random: Random): Buffer {
  const entries: ZipEntry[] = good(random).map((e) => ({ ...e, method: random.pick([0, 8]) }));
  return zip(entries, random.chance(0.3) ? { zip64: {} } : {});
}

const flip = (bytes: Buffer, random: Random, from = 0, to = bytes.length): Buffer => {
  const out = Buffer.from(bytes);
  for (let n = random.int(1, 6); n > 0; n--) {
    const at = random.int(from, to - 1);
    out[at] = random.pick([0, 0xff, 0x80, out[at]! ^ (1 << random.int(0, 7)), random.int(0, 255)]);
  }
  return out;
};

const INTS = [0, 1, 2, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff];

/** Puts an edge value over a field of some width. */
const poke = (bytes: Buffer, random: Random, from: number, to: number): Buffer => {
  const out = Buffer.from(bytes);
  const width = random.pick([1, 2, 4, 8]);
  const at = random.int(from, Math.max(from, to - width));
  if (at + width > out.length) return out;
  const value = random.chance(0.5) ? random.pick(INTS) : random.int(0, out.length);
  if (width === 8) out.writeBigUInt64LE(BigInt(value) << random.pick([0n, 21n, 31n]), at);
  else out.writeUIntLE(value % 2 ** (8 * width), at, width);
  return out;
};

const cut = (bytes: Buffer, random: Random) => bytes.subarray(0, random.int(0, bytes.length - 1));

const splice = (bytes: Buffer, random: Random): Buffer => {
  const from = random.int(0, bytes.length);
  const to = random.int(from, Math.min(bytes.length, from + 600));
  const at = random.int(0, bytes.length);
  return Buffer.concat([bytes.subarray(0, at), bytes.subarray(from, to), bytes.subarray(at)]);
};

/** Redoes the checksums of all tar headers, so that damage to fields gets past them. */
function resum(raw: Buffer): Buffer {
  for (let at = 0; at + 512 <= raw.length; at += 512) {
    const head = raw.subarray(at, at + 512);
    if (head.toString('latin1', 257, 262) !== 'ustar') continue;
    head.fill(' ', 148, 156);
    const sum = head.reduce((total, byte) => total + byte, 0);
    head.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  }
  return raw;
}

const inTar =
  (change: (raw: Buffer, random: Random) => Buffer) =>
  (random: Random): Buffer =>
    gzipSync(change(gunzipSync(tarGz(good(random) as TarEntry[])), random), { level: 1 });
const inGzip = (change: (bytes: Buffer, random: Random) => Buffer) => (random: Random) =>
  change(tarGz(good(random)), random);
const inZip = (change: (bytes: Buffer, random: Random) => Buffer) => (random: Random) =>
  change(goodZip(random), random);
const directoryAt = (bytes: Buffer) => bytes.indexOf('PK\x01\x02', 0, 'latin1');

type Format = 'zip' | 'tar.gz';
const MUTATIONS: Record<string, [Format, (random: Random) => Buffer]> = {
  'zip: bytes': ['zip', inZip(flip)],
  'zip: directory bytes': ['zip', inZip((b, r) => flip(b, r, directoryAt(b)))],
  'zip: directory fields': ['zip', inZip((b, r) => poke(b, r, directoryAt(b), b.length))],
  'zip: end record': ['zip', inZip((b, r) => poke(b, r, Math.max(0, b.length - 98), b.length))],
  'zip: local headers': ['zip', inZip((b, r) => poke(b, r, 0, 60))],
  'zip: cut': ['zip', inZip(cut)],
  'zip: spliced': ['zip', inZip(splice)],
  'gzip: bytes': ['tar.gz', inGzip(flip)],
  'gzip: cut': ['tar.gz', inGzip(cut)],
  'gzip: spliced': ['tar.gz', inGzip(splice)],
  'tar: bytes': ['tar.gz', inTar(flip)],
  'tar: header fields': ['tar.gz', inTar((b, r) => resum(flip(b, r, 0, 512)))],
  'tar: any fields': ['tar.gz', inTar((b, r) => resum(flip(b, r)))],
  'tar: types': [
    'tar.gz',
    inTar((b, r) => {
      b[512 * r.int(0, b.length / 512 - 1) + 156] = r
        .pick([...'01234567LKxgSVNDM\0'])
        .charCodeAt(0);
      return resum(b);
    }),
  ],
  'tar: cut': ['tar.gz', inTar(cut)],
  'tar: blocks moved': [
    'tar.gz',
    inTar((b, r) => {
      const at = 512 * r.int(0, b.length / 512 - 1);
      const to = 512 * r.int(0, b.length / 512 - 1);
      b.copy(b, to, at, at + 512);
      return b;
    }),
  ],
  'tar: spliced': ['tar.gz', inTar(splice)],
  'either as the other': ['zip', inGzip((b) => b)],
  untouched: ['tar.gz', inGzip((b) => b)],
  'untouched zip': ['zip', inZip((b) => b)],
};

describe('fuzzed archives', () => {
  it(`${CASES} mutations, seed ${SEED}`, async () => {
    const kinds = Object.keys(MUTATIONS);
    const accepted = new Map<string, number>();
    const input = temp.join('input');
    for (let i = 0; i < CASES; i++) {
      const random = new Random(SEED + i);
      const kind = kinds[i % kinds.length]!;
      const [format, make] = MUTATIONS[kind]!;
      const context = `${kind}, case ${i}, seed ${SEED}`;
      writeFileSync(input, make(random));
      const source = { kind: 'archive', path: input, format } as const;
      const before = folderTree(temp.path);
      const result = await opener.open(source, new AbortController().signal).catch((e) => e);
      if (result instanceof Error) {
        expect(result, context).toBeInstanceOf(LoramuxError);
        const { status, code } = result as LoramuxError;
        expect(status, `${context}: ${code} ${result}`).toBeGreaterThanOrEqual(400);
        expect(status, `${context}: ${code} ${result}`).toBeLessThan(500);
      } else {
        accepted.set(kind, (accepted.get(kind) ?? 0) + 1);
        expect(readdirSync(workDir).length, context).toBe(2);
        expect(readFileSync(result.configPath).length, context).toBeLessThanOrEqual(
          MAX_CONFIG_BYTES,
        );
        expect(readFileSync(result.weightsPath).length, context).toBeLessThanOrEqual(
          MAX_ADAPTER_BYTES,
        );
        await result.cleanup();
      }
      expect(folderTree(temp.path), context).toEqual(before);
    }
    expect(warnings).toEqual([]);
    const each = CASES / kinds.length;
    expect(accepted.get('untouched') ?? 0).toBeGreaterThanOrEqual(Math.floor(each));
    expect(accepted.get('untouched zip') ?? 0).toBeGreaterThanOrEqual(Math.floor(each));
    // These can never be sound.
    for (const kind of ['zip: cut', 'gzip: cut', 'either as the other']) {
      expect(accepted.get(kind), kind).toBeUndefined();
    }
  });
});
