/** Bad packets: refused by the name of the field, never run, never a crash. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type NativeSession, nativeErrorCode, type StepPacket } from '../../src/native/index.ts';
import { fixtureImage, fixtureSession, goldenCases } from '../support/native-fixtures.ts';
import { generate } from '../support/native-generate.ts';
import { Random } from '../support/random.ts';
import { packStep } from '../support/step-packets.ts';

const MODEL = 'llama3';
const MAX_TOKENS = 64;
const MAX_ROWS = 16;
const NUM_BLOCKS = 16;
const FUZZ_PACKETS = 2_000;
let session: NativeSession;

beforeAll(async () => {
  session = await fixtureSession(MODEL, {
    numBlocks: NUM_BLOCKS,
    maxTokensPerStep: MAX_TOKENS,
    maxLogitRowsPerStep: MAX_ROWS,
  });
  await session.loadAdapter(0, fixtureImage(MODEL, 'qv-r4'));
});
afterAll(() => session.close());

/** The fields that say which adapters the two segments of `validPacket` have. */
function adaptersOf(slots: number[], starts: number[], scales = slots.map(() => 1)) {
  return {
    segmentAdapterStart: Int32Array.from(starts),
    adapterSlot: Int32Array.from(slots),
    adapterScale: Float32Array.from(scales),
  };
}

/** Two sequences, an adapter and the base, penalties, bias and a block copy. */
function validPacket(): StepPacket {
  return packStep(
    [
      {
        tokens: [5, 6, 7],
        cached: 0,
        blocks: [2],
        slot: 0,
        rows: [
          { at: 1, row: { targetId: 7, numTopLogprobs: 3 } },
          {
            at: 2,
            row: {
              temperature: 1,
              seed: 7n,
              topK: 5,
              topP: 0.9,
              minP: 0.01,
              repetitionPenalty: 1.1,
              history: [5, 6, 7],
              historyPromptLength: 2,
              bias: [
                [3, 2],
                [4, -Infinity],
              ],
            },
          },
        ],
      },
      { tokens: [9], cached: 16, blocks: [3, 4] },
    ],
    [[0, 5]],
  );
}

describe('log-probabilities', () => {
  it('are left out for a row that wants none, and the token is the same', async () => {
    const step = async (numTopLogprobs: number) => {
      const packet = packStep([
        {
          tokens: [5, 6, 7],
          cached: 0,
          blocks: [2],
          slot: 0,
          rows: [{ at: 2, row: { temperature: 1, seed: 7n, numTopLogprobs } }],
        },
      ]);
      return session.step(packet);
    };
    const [without, withSome] = [await step(-1), await step(0)];
    expect(without.tokenIds).toEqual(withSome.tokenIds);
    expect([...without.logprobs, ...without.ranks]).toEqual([0, 0]);
    expect(withSome.logprobs[0]).toBeLessThan(0);
    expect(withSome.ranks[0]).toBeGreaterThan(0);
  });
});

describe('a packet is refused', () => {
  const cases: [string, (packet: StepPacket) => void][] = [
    ['numTokens', (p) => Object.assign(p, { numTokens: 0 })],
    ['numTokens', (p) => Object.assign(p, { numTokens: MAX_TOKENS + 1 })],
    ['numSequences', (p) => Object.assign(p, { numSequences: 5 })],
    ['numRows', (p) => Object.assign(p, { numRows: MAX_ROWS + 1 })],
    ['numSegments', (p) => Object.assign(p, { numSegments: -1 })],
    ['maxBlocksPerSequence', (p) => Object.assign(p, { maxBlocksPerSequence: 0 })],
    ['blockTables', (p) => Object.assign(p, { maxBlocksPerSequence: 2 ** 31 - 1 })],
    ['numBlockCopies', (p) => Object.assign(p, { numBlockCopies: NUM_BLOCKS + 1 })],
    ['inputIds', (p) => p.inputIds.set([320], 1)],
    ['inputIds', (p) => p.inputIds.set([-1], 1)],
    ['inputIds', (p) => Object.assign(p, { inputIds: p.inputIds.slice(1) })],
    ['inputIds', (p) => Object.assign(p, { inputIds: [...p.inputIds] })],
    ['inputIds', (p) => Object.assign(p, { inputIds: undefined })],
    ['positions', (p) => p.positions.set([-1], 0)],
    ['queryStart', (p) => p.queryStart.set([1], 0)],
    ['queryStart', (p) => p.queryStart.set([0], 1)],
    ['queryStart', (p) => p.queryStart.set([5], 2)],
    ['contextLens', (p) => p.contextLens.set([2], 0)],
    ['contextLens', (p) => p.contextLens.set([33], 1)],
    ['blockTables', (p) => p.blockTables.set([NUM_BLOCKS], 2)],
    ['blockTables', (p) => p.blockTables.set([-1], 0)],
    ['slotMapping', (p) => p.slotMapping.set([0], 0)],
    ['slotMapping', (p) => p.blockTables.set([2], 3)],
    ['blockCopies', (p) => p.blockCopies.set([NUM_BLOCKS], 0)],
    ['blockCopies', (p) => p.blockCopies.set([0], 1)],
    ['segmentStart', (p) => p.segmentStart.set([1], 0)],
    ['segmentStart', (p) => p.segmentStart.set([3], 2)],
    ['segmentStart', (p) => p.segmentStart.set([9], 1)],
    ['segmentAdapterStart', (p) => p.segmentAdapterStart.set([1], 0)],
    ['segmentAdapterStart', (p) => Object.assign(p, adaptersOf([0], [0, 1, 0]))],
    ['segmentAdapterStart', (p) => Object.assign(p, { segmentAdapterStart: new Int32Array(2) })],
    ['adapterSlot', (p) => Object.assign(p, adaptersOf([0, 0], [0, 2, 2]))],
    ['adapterSlot', (p) => Object.assign(p, adaptersOf([1], [0, 1, 1]))],
    ['adapterSlot', (p) => Object.assign(p, adaptersOf([-1], [0, 1, 1]))],
    ['adapterSlot', (p) => Object.assign(p, adaptersOf([4], [0, 0, 1]))],
    ['adapterSlot', (p) => p.segmentAdapterStart.set([2 ** 31 - 1], 2)],
    ['adapterSlot', (p) => p.segmentAdapterStart.set([2, 2], 1)],
    ['adapterScale', (p) => Object.assign(p, adaptersOf([0], [0, 1, 1], [Number.NaN]))],
    ['adapterScale', (p) => Object.assign(p, adaptersOf([0], [0, 1, 1], []))],
    ['logitRows', (p) => p.logitRows.set([4], 2)],
    ['logitRows', (p) => p.logitRows.set([2, 1], 0)],
    ['targetIds', (p) => p.sampling.targetIds.set([320], 0)],
    ['temperature', (p) => p.sampling.temperature.set([-1], 0)],
    ['topK', (p) => p.sampling.topK.set([-1], 0)],
    ['topP', (p) => p.sampling.topP.set([0], 0)],
    ['minP', (p) => p.sampling.minP.set([1.5], 0)],
    ['repetitionPenalty', (p) => p.sampling.repetitionPenalty.set([0], 0)],
    ['presencePenalty', (p) => p.sampling.presencePenalty.set([Infinity], 0)],
    ['frequencyPenalty', (p) => p.sampling.frequencyPenalty.set([Number.NaN], 0)],
    ['seed', (p) => Object.assign(p.sampling, { seed: new Uint32Array(5) })],
    ['sampleIndex', (p) => p.sampling.sampleIndex.set([-1], 0)],
    ['numTopLogprobs', (p) => p.sampling.numTopLogprobs.set([21], 0)],
    ['numTopLogprobs', (p) => p.sampling.numTopLogprobs.set([-2], 0)],
    ['historyStart', (p) => p.sampling.historyStart.set([2], 3)],
    ['history', (p) => p.sampling.historyStart.set([999], 3)],
    ['history', (p) => p.sampling.history.set([320], 0)],
    ['historyPromptLength', (p) => p.sampling.historyPromptLength.set([4], 1)],
    ['biasStart', (p) => p.sampling.biasStart.set([-1], 1)],
    ['biasIds', (p) => p.sampling.biasIds.set([-1], 0)],
    ['biasValues', (p) => p.sampling.biasValues.set([Infinity], 0)],
    ['sampling', (p) => Object.assign(p, { sampling: null })],
  ];

  it.each(cases)('for its %s (%#)', async (field, change) => {
    const packet = validPacket();
    change(packet);
    const error = await session.step(packet).catch((caught: unknown) => caught);
    expect(nativeErrorCode(error)).toBe('native_invalid_argument');
    expect(String(error)).toContain(field);
  });

  it('and the next good one runs', async () => {
    const result = await session.step(validPacket());
    expect(result.tokenIds).toHaveLength(3);
    expect(result.tokenIds[0]).toBe(7);
    expect(result.rowStatus).toBeUndefined();
    expect([...result.topLogprobs.slice(0, 3)]).toEqual(
      [...result.topLogprobs.slice(0, 3)].sort((a, b) => b - a),
    );
  });

  it('when it is no packet at all', async () => {
    for (const packet of [undefined, null, 1, 'x', {}, []]) {
      const error = await session.step(packet as unknown as StepPacket).catch((e: unknown) => e);
      expect(nativeErrorCode(error)).toBe('native_invalid_argument');
    }
  });

  it('when a getter detaches an array that was read before', async () => {
    const packet = validPacket();
    const { inputIds } = packet;
    Object.defineProperty(packet, 'logitRows', {
      get: () => {
        structuredClone(inputIds.buffer, { transfer: [inputIds.buffer as ArrayBuffer] });
        return new Int32Array(3);
      },
    });
    const error = await session.step(packet).catch((caught: unknown) => caught);
    expect(nativeErrorCode(error)).toBe('native_invalid_argument');
  });

  it('while another step is in flight', async () => {
    const first = session.step(validPacket());
    const second = await session.step(validPacket()).catch((caught: unknown) => caught);
    expect(nativeErrorCode(second)).toBe('native_invalid_argument');
    expect((await first).tokenIds).toHaveLength(3);
  });
});

const INTERESTING = [-(2 ** 31), -2, -1, 0, 1, 2, 15, 16, 17, 64, 319, 320, 2 ** 20, 2 ** 31 - 1];
const FLOATS = [Number.NaN, Infinity, -Infinity, -1, 0, 1e-40, 0.5, 1, 3e38];

function mutate(packet: StepPacket, random: Random): void {
  const inSampling = random.chance(0.4);
  const target = (inSampling ? packet.sampling : packet) as unknown as Record<string, unknown>;
  const key = random.pick(Object.keys(target));
  const value = target[key];
  if (typeof value === 'number') {
    target[key] = random.pick([...INTERESTING, 1.5, Number.NaN, undefined, '3']);
  } else if (value instanceof Float32Array || value instanceof Int32Array) {
    const kind = random.int(0, 9);
    if (kind === 0) target[key] = value.slice(0, random.int(0, value.length));
    else if (kind === 1) target[key] = random.pick([null, [], new Float64Array(4), {}]);
    else if (value.length > 0) {
      value[random.int(0, value.length - 1)] = random.pick(
        value instanceof Float32Array ? FLOATS : INTERESTING,
      );
    }
  } else if (value instanceof Uint32Array) {
    target[key] = value.slice(0, random.int(0, value.length));
  }
}

describe('fuzz', () => {
  it.each([11, 12])(
    `${FUZZ_PACKETS / 2} mutated packets run or are refused (seed %i)`,
    async (seed) => {
      const random = new Random(seed);
      let ran = 0;
      for (let i = 0; i < FUZZ_PACKETS / 2; i += 1) {
        const packet = validPacket();
        const mutations = random.int(1, 3);
        for (let m = 0; m < mutations; m += 1) mutate(packet, random);
        try {
          const result = await session.step(packet, random.chance(0.1));
          ran += 1;
          expect(result.tokenIds).toHaveLength(packet.numRows);
          for (const id of result.tokenIds) expect(id >= 0 && id < 320).toBe(true);
        } catch (error) {
          expect(nativeErrorCode(error), `seed ${seed} packet ${i}: ${error}`).toBe(
            'native_invalid_argument',
          );
        }
      }
      expect(ran).toBeGreaterThan(50);
      expect(ran).toBeLessThan(FUZZ_PACKETS / 2);
      const golden = goldenCases(MODEL).find((c) => c.adapter === null)!;
      const blocks = [...Array(NUM_BLOCKS).keys()];
      const [after] = await generate(session, [{ prompt: golden.promptIds, blocks }], 32);
      expect(after!.tokenIds).toEqual(golden.greedyIds.slice(0, 32));
    },
  );
});

describe('rows that are not finite', () => {
  it('are marked, and the others are answered', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'loramux-nan-'));
    const path = join(folder, 'huge.bin');
    const values = new Float32Array(4 * 64).fill(3e30);
    writeFileSync(path, values);
    await session.loadAdapter(1, {
      path,
      fileBytes: values.byteLength,
      pairs: [
        { layer: 0, module: 0, rank: 2, scale: 1, dtype: 'F32', offsetA: 0, offsetB: 2 * 64 * 4 },
      ],
    });
    const base = { tokens: [5, 6, 7], cached: 0, blocks: [0] };
    const alone = await session.step(packStep([base]));
    const both = await session.step(
      packStep([{ tokens: [5, 6, 7], cached: 0, blocks: [1], slot: 1 }, base]),
    );
    expect([...both.rowStatus!]).toEqual([1, 0]);
    expect(both.tokenIds[1]).toBe(alone.tokenIds[0]);
    expect(both.logprobs[1]).toBeCloseTo(alone.logprobs[0]!, 5);
    session.freeAdapter(1);
    rmSync(folder, { recursive: true });
  });
});
