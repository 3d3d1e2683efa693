/** Adapter slots: their life cycle and every way a load can fail. */
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type AdapterImage, type NativeSession, nativeErrorCode } from '../../src/native/index.ts';
import { fixtureImage, fixtureSession } from '../support/native-fixtures.ts';
import { packStep } from '../support/step-packets.ts';

const MODEL = 'llama3';
const good = fixtureImage(MODEL, 'qv-r4');
const folder = mkdtempSync(join(tmpdir(), 'loramux-slots-'));
let session: NativeSession;

beforeAll(async () => {
  session = await fixtureSession(MODEL);
});
afterAll(async () => {
  await session.close();
  rmSync(folder, { recursive: true });
});

function shared(bytes: Uint8Array): Uint8Array {
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
}

function within(bytes: Uint8Array, offset: number): Uint8Array {
  const copy = new Uint8Array(offset + bytes.length + 7);
  copy.set(bytes, offset);
  return copy.subarray(offset, offset + bytes.length);
}

function detached(): Uint8Array {
  const bytes = new Uint8Array(good.fileBytes);
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
  return bytes;
}

const step = (slot: number) =>
  session.step(packStep([{ tokens: [1, 2, 3], cached: 0, blocks: [0], slot }]), true);

async function codeOf(run: () => unknown): Promise<string | undefined> {
  try {
    await run();
    return undefined;
  } catch (error) {
    return nativeErrorCode(error);
  }
}

describe('slots', () => {
  it('are empty, load, serve, are freed and load again with the same result', async () => {
    expect(await codeOf(() => step(0))).toBe('native_invalid_argument');
    const loaded = await session.loadAdapter(0, good);
    const floats = good.pairs.length * 4 * 64;
    expect(loaded.bytes).toBeGreaterThanOrEqual(floats);
    expect(loaded.loadMs).toBeGreaterThan(0);
    const before = await step(0);
    expect(await codeOf(() => session.loadAdapter(0, good))).toBe('native_slot_busy');
    session.freeAdapter(0);
    expect(await codeOf(() => step(0))).toBe('native_invalid_argument');
    expect(await codeOf(() => session.freeAdapter(0))).toBe('native_invalid_argument');
    await session.loadAdapter(0, fixtureImage(MODEL, 'all-r8-rslora'));
    const other = await step(0);
    session.freeAdapter(0);
    await session.loadAdapter(0, good);
    const again = await step(0);
    expect(again.logits).toEqual(before.logits);
    expect(other.logits).not.toEqual(before.logits);
    session.freeAdapter(0);
  });

  it('cannot be freed while a step names them or they load', async () => {
    await session.loadAdapter(1, good);
    await session.loadAdapter(2, good);
    const running = step(1);
    expect(await codeOf(() => session.freeAdapter(1))).toBe('native_slot_busy');
    session.freeAdapter(2);
    await running;
    session.freeAdapter(1);
    const loading = session.loadAdapter(1, good);
    const busy = codeOf(() => session.freeAdapter(1));
    // The load may end at any moment on its own thread, so either it was busy or it was freed.
    expect(['native_slot_busy', undefined]).toContain(await busy);
    await loading;
    if ((await busy) !== undefined) session.freeAdapter(1);
  });

  it('load several at once, beside steps', async () => {
    const loads = [0, 1, 2, 3].map((slot) => session.loadAdapter(slot, good));
    for (let i = 0; i < 5; i += 1) await step(-1);
    await Promise.all(loads);
    const answers = await Promise.all([step(0)]);
    for (const slot of [1, 2, 3]) expect((await step(slot)).logits).toEqual(answers[0]!.logits);
    for (const slot of [0, 1, 2, 3]) session.freeAdapter(slot);
  });

  it.each([
    ['shared memory', (bytes: Uint8Array) => shared(bytes)],
    ['memory of its own', (bytes: Uint8Array) => new Uint8Array(bytes)],
    ['a part of a buffer, at an odd offset', (bytes: Uint8Array) => within(bytes, 13)],
  ])('load from bytes in %s, without the file', async (_, place) => {
    await session.loadAdapter(0, good);
    const expected = await step(0);
    const bytes = place(readFileSync(good.path));
    const image = { ...good, path: '/nowhere/none', bytes };
    const loading = session.loadAdapter(1, image);
    const { bytes: resident } = await loading;
    expect(resident).toBeGreaterThan(0);
    bytes.fill(0);
    expect((await step(1)).logits, 'the bytes may go after the load').toEqual(expected.logits);
    for (const slot of [0, 1]) session.freeAdapter(slot);
  });

  it('keep the bytes of a load under way from the garbage collector', async () => {
    setFlagsFromString('--expose_gc');
    const gc = runInNewContext('gc') as () => void;
    await session.loadAdapter(0, good);
    const expected = await step(0);
    const file = readFileSync(good.path);
    const loads = [1, 2, 3].map((slot) =>
      session.loadAdapter(slot, { ...good, bytes: shared(file) }),
    );
    gc();
    await Promise.all(loads);
    for (const slot of [1, 2, 3]) expect((await step(slot)).logits).toEqual(expected.logits);
    for (const slot of [0, 1, 2, 3]) session.freeAdapter(slot);
  });

  it('keep f16 and bf16 tensors as their float32 values', async () => {
    const rank = 2;
    const [features, outputs] = [64, 64];
    const count = rank * (features + outputs);
    const halves = new Uint16Array(count);
    const brains = new Uint16Array(count);
    const floats = new Float32Array(count);
    for (let i = 0; i < count; i += 1) {
      // Powers of two, negative ones and subnormal halves: exact in every one of the three.
      const exponent = (i % 20) - 24 + 10;
      const value = (i % 3 === 0 ? -1 : 1) * 2 ** exponent;
      floats[i] = value;
      brains[i] = new Uint32Array(new Float32Array([value]).buffer)[0]! >>> 16;
      halves[i] =
        (value < 0 ? 0x8000 : 0) | (exponent >= -14 ? (exponent + 15) << 10 : 1 << (exponent + 24));
    }
    const path = join(folder, 'dtypes.bin');
    const results: Float32Array[] = [];
    for (const [dtype, array] of [
      ['F32', floats],
      ['F16', halves],
      ['BF16', brains],
    ] as const) {
      writeFileSync(path, array);
      const size = array.BYTES_PER_ELEMENT;
      const image: AdapterImage = {
        path,
        fileBytes: array.byteLength,
        pairs: [
          {
            layer: 0,
            module: 0,
            rank,
            scale: 3,
            dtype,
            offsetA: 0,
            offsetB: rank * features * size,
          },
        ],
      };
      await session.loadAdapter(0, image);
      results.push((await step(0)).logits!);
      session.freeAdapter(0);
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
    expect(results[0]).not.toEqual((await step(-1)).logits);
  });
});

describe('loads that must fail', () => {
  const pair = good.pairs[0]!;
  const changed = (change: Partial<typeof pair>): AdapterImage => ({
    ...good,
    pairs: [{ ...pair, ...change }, ...good.pairs.slice(1)],
  });
  const cases: [string, () => AdapterImage, string][] = [
    ['a missing file', () => ({ ...good, path: join(folder, 'none') }), 'native_adapter_load'],
    ['a folder', () => ({ ...good, path: folder }), 'native_adapter_load'],
    ['another size', () => ({ ...good, fileBytes: good.fileBytes + 1 }), 'native_adapter_load'],
    ['A beyond the file', () => changed({ offsetA: good.fileBytes - 4 }), 'native_adapter_load'],
    ['B beyond the file', () => changed({ offsetB: good.fileBytes }), 'native_adapter_load'],
    ['a negative offset', () => changed({ offsetA: -1 }), 'native_invalid_argument'],
    ['a fractional offset', () => changed({ offsetA: 0.5 }), 'native_invalid_argument'],
    ['a layer that is not there', () => changed({ layer: 99 }), 'native_invalid_argument'],
    ['a module that is not there', () => changed({ module: 7 }), 'native_invalid_argument'],
    ['rank 0', () => changed({ rank: 0 }), 'native_invalid_argument'],
    ['a huge rank', () => changed({ rank: 2 ** 31 - 1 }), 'native_invalid_argument'],
    ['a scale of infinity', () => changed({ scale: Infinity }), 'native_invalid_argument'],
    ['a scale that overflows', () => changed({ scale: 1e39 }), 'native_invalid_argument'],
    ['an unknown dtype', () => changed({ dtype: 'I8' as 'F32' }), 'native_invalid_argument'],
    ['a pair twice', () => ({ ...good, pairs: [pair, pair] }), 'native_invalid_argument'],
    ['a relative path', () => ({ ...good, path: 'x' }), 'native_invalid_argument'],
    ['too few bytes', () => ({ ...good, bytes: new Uint8Array(8) }), 'native_invalid_argument'],
    ['detached bytes', () => ({ ...good, bytes: detached() }), 'native_invalid_argument'],
    [
      'bytes of another type',
      () => ({ ...good, bytes: new Float32Array(good.fileBytes) as unknown as Uint8Array }),
      'native_invalid_argument',
    ],
    [
      'B beyond the bytes',
      () => ({ ...changed({ offsetB: good.fileBytes }), bytes: readFileSync(good.path) }),
      'native_adapter_load',
    ],
    ['a path with NUL', () => ({ ...good, path: '/x\0y' }), 'native_invalid_argument'],
  ];

  it.each(cases)('%s', async (_, image, code) => {
    expect(await codeOf(() => session.loadAdapter(3, image()))).toBe(code);
    // Nothing is left behind: the slot takes a good adapter.
    await session.loadAdapter(3, good);
    session.freeAdapter(3);
  });

  it('a file that was cut after it was registered', async () => {
    const path = join(folder, 'cut.safetensors');
    copyFileSync(good.path, path);
    truncateSync(path, good.fileBytes - 1);
    const image = { ...good, path };
    expect(await codeOf(() => session.loadAdapter(3, image))).toBe('native_adapter_load');
  });

  it.each([
    ['in A', 100, Number.NaN, 1],
    ['in B', 200, Number.NEGATIVE_INFINITY, 1],
    ['in B after its scale', 200, 2, 3e38],
  ])('values that are not finite %s', async (_, at, value, scale) => {
    const path = join(folder, 'nan.bin');
    const values = new Float32Array(2 * 64 + 2 * 64).fill(0.5);
    values[at] = value;
    writeFileSync(path, values);
    const image: AdapterImage = {
      path,
      fileBytes: values.byteLength,
      pairs: [
        { layer: 0, module: 0, rank: 2, scale, dtype: 'F32', offsetA: 0, offsetB: 2 * 64 * 4 },
      ],
    };
    expect(await codeOf(() => session.loadAdapter(3, image))).toBe('native_adapter_load');
  });

  it.each([-1, 4, 1.5, Number.NaN])('slot %s', async (slot) => {
    expect(await codeOf(() => session.loadAdapter(slot, good))).toBe('native_invalid_argument');
    expect(await codeOf(() => session.freeAdapter(slot))).toBe('native_invalid_argument');
  });
});

describe('a failed load', () => {
  it('of a pipe does not wait for its writer', async () => {
    const path = join(folder, 'pipe');
    execFileSync('mkfifo', [path]);
    const error = await session
      .loadAdapter(3, { ...good, path })
      .catch((caught: unknown) => caught);
    expect(nativeErrorCode(error)).toBe('native_adapter_load');
    expect(String(error)).toContain('regular file');
    expect(await codeOf(() => step(3))).toBe('native_invalid_argument');
  });

  it('settles although the application’s Error.prepareStackTrace throws', async () => {
    const before = Error.prepareStackTrace;
    Error.prepareStackTrace = () => {
      throw new Error('no stack today');
    };
    let code: string | undefined;
    try {
      code = await codeOf(() =>
        session.loadAdapter(3, { ...good, path: '/nowhere/a.safetensors' }),
      );
    } finally {
      Error.prepareStackTrace = before;
    }
    expect(code).toBe('native_adapter_load');
  });
});
