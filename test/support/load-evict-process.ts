/**
 * A process that loads and evicts adapters again and again, through residency, the image tiers and a
 * real session; see load-evict.test.ts. Prints one JSON value: resident bytes after every so many
 * loads, and what was counted.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { ConvertPool } from '../../src/adapters/convert/pool.ts';
import { baseShapesDigest } from '../../src/adapters/formats/canonical-file.ts';
import type { GenerationMeta } from '../../src/adapters/registry/types.ts';
import { createImageTiers } from '../../src/adapters/residency/image-tiers.ts';
import { SlotResidency } from '../../src/adapters/residency/slot-residency.ts';
import { importModel, synthesizeAdapters } from '../../src/importer/index.ts';
import { createNativeSession } from '../../src/native/index.ts';
import { FIXTURES } from './adapter-files.ts';
import { CanonicalStore, TieredImages } from './canonical-store.ts';
import { Random } from './random.ts';
import { packStep } from './step-packets.ts';

const LOADS = 10_000;
const LOADS_PER_SAMPLE = 250;
const ADAPTERS = 24;
const SLOTS = 4;
const RANKS = [1, 4, 16, 32, 64];
/** Room for a few of the files, and not for the largest. */
const HOST_BYTES = 300 * 1024;
const LOADS_AT_ONCE = 3;
/** Every so many loads a step uses the adapter. */
const LOADS_PER_STEP = 100;
const LOAD_MS_MAX = 60_000;

setFlagsFromString('--expose_gc');
const gc = runInNewContext('gc') as () => void;

function residentBytes(): number {
  const pages = readFileSync('/proc/self/statm', 'utf8').split(' ')[1];
  return Number(pages) * 4096;
}

const folder = mkdtempSync(path.join(tmpdir(), 'loramux-load-evict-'));
const modelDir = path.join(FIXTURES, 'models', 'llama3');
const imported = await importModel(modelDir, { weights: 'float32' });
const { modules } = imported.metadata;
const pool = new ConvertPool({ modules });
const store = new CanonicalStore(folder);

async function makeAdapters(): Promise<GenerationMeta[]> {
  const made = await synthesizeAdapters(modelDir, path.join(folder, 'peft'), {
    count: ADAPTERS,
    ranks: RANKS,
    dtype: 'BF16',
  });
  const metas: GenerationMeta[] = [];
  for (const { dir } of made) {
    const outPath = path.join(folder, 'canonical');
    const result = await pool.convert({
      configPath: path.join(dir, 'adapter_config.json'),
      weightsPath: path.join(dir, 'adapter_model.safetensors'),
      root: undefined,
      outPath,
      limits: { maxRank: 64, maxAdapterBytes: 1e8, maxResidentBytes: 1e8 },
    });
    metas.push(store.add(outPath, result, baseShapesDigest(modules)));
    rmSync(outPath);
  }
  return metas;
}

const metas = await makeAdapters();
const session = await createNativeSession({
  model: imported.native,
  intraOpThreads: 2,
  numBlocks: 64,
  blockSize: 16,
  kvDtype: 'f32',
  maxSlots: SLOTS,
  maxTokensPerStep: 64,
  maxLogitRowsPerStep: 16,
});
const tiers = createImageTiers({ files: store, pool, budgetBytes: HOST_BYTES, verify: true });
const residency = new SlotResidency({
  native: session,
  images: new TieredImages(tiers, metas),
  maxSlots: SLOTS,
  maxBytes: 2 ** 30,
});

const random = new Random(1);
const samples: number[] = [];

/** One load, now and then used by a step; then an eviction, or the next load takes its slot. */
async function cycle(): Promise<void> {
  const meta = random.pick(metas);
  if (random.chance(0.2)) residency.prefetch(random.pick(metas));
  await residency.load(meta, LOAD_MS_MAX);
  if (random.chance(1 / LOADS_PER_STEP)) await use(meta);
  if (random.chance(0.5)) residency.evict(meta);
}

/** One step at a time, as the session has it. */
let stepping = Promise.resolve();

async function use(meta: GenerationMeta): Promise<void> {
  const slots = residency.tryAcquire([meta]);
  if (!Array.isArray(slots)) {
    residency.forget([meta]);
    return;
  }
  const [slot] = slots;
  const packet = packStep([{ tokens: [1, 2, 3], cached: 0, blocks: [0], slot }]);
  stepping = stepping.then(async () => {
    await session.step(packet);
    residency.release([meta]);
  });
  await stepping;
}

while (residency.stats().loads < LOADS) {
  const until = Math.min(LOADS, (samples.length + 1) * LOADS_PER_SAMPLE);
  await Promise.all(
    Array.from({ length: LOADS_AT_ONCE }, async () => {
      while (residency.stats().loads < until) await cycle();
    }),
  );
  gc();
  await new Promise((resolve) => setImmediate(resolve));
  gc();
  samples.push(residentBytes());
}
const { loadsByTier, loadFailures, evictions } = residency.stats();
for (const meta of metas) residency.evict(meta);
const { resident, residentBytes: adapterBytes, freesRefused } = residency.stats();
await residency.close();
await tiers.close();
const left = { resident, adapterBytes, freesRefused, hostBytes: tiers.stats().bytes };
await pool.close();
await session.close();
rmSync(folder, { recursive: true });
const counts = { ...loadsByTier, loadFailures, evictions, filesHeld: store.numHeld };
console.log(JSON.stringify({ samples, counts, left }));
