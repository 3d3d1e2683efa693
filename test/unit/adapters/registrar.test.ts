/**
 * Random changes at the same time, on one embedded registry and on two replicas of a fleet. Whatever
 * the order: afterwards every replica knows what the registry holds, every kept generation can be
 * loaded, nothing else is kept, and no generation went while somebody held it.
 */
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AdapterRegistry } from '../../../src/adapters/adapter-registry.ts';
import type { AdapterSource } from '../../../src/adapters/service-types.ts';
import { openFleet, type Storage } from '../../../src/adapters/storage.ts';
import type { AdapterGeneration } from '../../../src/adapters/types.ts';
import { LoramuxError } from '../../../src/errors.ts';
import { TempDir } from '../../support/adapter-files.ts';
import { openFakeRegistry, openFakeRegistryOn } from '../../support/adapter-registry.ts';
import { fc } from '../../support/properties.ts';
import { startRedis, type TestRedis } from '../../support/redis.ts';
import { sha256, until } from '../../support/registry-entries.ts';

const temp = new TempDir();
afterAll(() => temp.remove());

const NAMES = ['a', 'b', 'c'];
const CONTENTS = ['one', 'two', 'three', 'four'];
const MAX_GENERATIONS = 3;

interface Step {
  readonly kind: 'put' | 'canary' | 'remove' | 'rollback' | 'split' | 'unsplit' | 'pin' | 'hold';
  readonly replica: number;
  readonly name: string;
  readonly content: string;
  /** The next step begins only when this one and all before it have ended. */
  readonly wait: boolean;
  /** Turns of the event loop before it begins. */
  readonly turns: number;
}

const steps = fc.array(
  fc.record<Step>({
    kind: fc.constantFrom(
      ...(['put', 'put', 'put', 'canary', 'remove', 'remove'] as const),
      ...(['rollback', 'split', 'unsplit', 'pin', 'hold', 'hold'] as const),
    ),
    replica: fc.nat(1),
    name: fc.constantFrom(...NAMES),
    content: fc.constantFrom(...CONTENTS),
    wait: fc.boolean(),
    turns: fc.nat(3),
  }),
  { minLength: 1, maxLength: 30 },
);

/** What a change may be refused with while others change the same names. */
const REFUSALS = new Set([
  'adapter_not_found',
  'generation_not_found',
  'generation_mismatch',
  'generation_current',
  'invalid_request',
]);

function upload(content: string): AdapterSource {
  const configPath = temp.fresh('.config');
  const weightsPath = temp.fresh('.weights');
  writeFileSync(configPath, '{}');
  writeFileSync(weightsPath, content);
  return { kind: 'files', configPath, weightsPath };
}

interface Held {
  readonly registry: AdapterRegistry;
  readonly generation: AdapterGeneration;
  readonly release: () => void;
}

/** What residency would have in memory: what was used and not retired since. */
interface Memory {
  readonly used: Set<string>;
  readonly violations: string[];
}

function watchMemory(registry: AdapterRegistry): Memory {
  const memory: Memory = { used: new Set(), violations: [] };
  const held = new Map<string, number>();
  const { hold } = registry;
  registry.hold = (generation) => {
    const { digest } = generation;
    const release = hold.call(registry, generation);
    memory.used.add(digest);
    held.set(digest, (held.get(digest) ?? 0) + 1);
    return () => {
      held.set(digest, held.get(digest)! - 1);
      release();
    };
  };
  registry.onRetired((digest) => {
    memory.used.delete(digest);
    if ((held.get(digest) ?? 0) > 0) memory.violations.push(`${digest} was retired while held`);
    if (registry.namesOf(digest).length > 0) memory.violations.push(`${digest} answers requests`);
  });
  return memory;
}

function giveBack(held: readonly Held[]): void {
  for (const { release } of held) release();
}

async function change(registry: AdapterRegistry, step: Step, held: Held[]): Promise<void> {
  const { kind, name, content } = step;
  const digest = sha256(content);
  switch (kind) {
    case 'put':
      await registry.put(name, upload(content));
      return;
    case 'canary':
      await registry.put(name, upload(content), { canaryWeight: 0.5 });
      return;
    case 'remove':
      return registry.remove(name);
    case 'rollback':
      await registry.rollback(name);
      return;
    case 'split':
      await registry.setSplit(name, { digest, weight: 0.5 });
      return;
    case 'unsplit':
      await registry.setSplit(name, undefined);
      return;
    case 'pin':
      await registry.setPinned(name, content.length > 3);
      return;
    case 'hold': {
      const { generation } = registry.resolve(name);
      const release = registry.hold(generation);
      held.push({ registry, generation, release });
      // A load in the middle of everything.
      const { release: close } = await registry.openImage(generation);
      close();
    }
  }
}

async function run(registries: readonly AdapterRegistry[], plan: readonly Step[]): Promise<Held[]> {
  const held: Held[] = [];
  const running: Promise<void>[] = [];
  for (const step of plan) {
    for (let turn = 0; turn < step.turns; turn++) await new Promise(setImmediate);
    const registry = registries[step.replica % registries.length]!;
    running.push(
      change(registry, step, held).catch((error) => {
        if (error instanceof LoramuxError && REFUSALS.has(error.code)) return;
        throw error;
      }),
    );
    if (step.wait) await Promise.all(running.splice(0));
  }
  await Promise.all(running);
  return held;
}

async function checkHeld(held: readonly Held[]): Promise<void> {
  for (const { registry, generation } of held) {
    const { release } = await registry.openImage(generation);
    release();
  }
}

function keptBy(registry: AdapterRegistry): Set<string> {
  return new Set(
    registry
      .list()
      .flatMap(({ name }) => registry.history(name).generations.map(({ digest }) => digest)),
  );
}

const shown = (registry: AdapterRegistry) =>
  registry.list().map(({ name, revision }) => ({ ...registry.history(name), revision }));

const filesOf = (root: string) =>
  readdirSync(path.join(root, 'blobs'))
    .map((file) => path.basename(file, '.safetensors'))
    .sort();

const RUNS = Number(process.env.LORAMUX_MODEL_RUNS ?? 60);

describe('changes at the same time', () => {
  it('leave an embedded registry whole', async () => {
    await fc.assert(
      fc.asyncProperty(steps, fc.boolean(), async (plan, endsEarly) => {
        const root = temp.fresh();
        const warnings: string[] = [];
        const options = {
          maxGenerations: MAX_GENERATIONS,
          onWarning: (message: string, error: unknown) => warnings.push(`${message} ${error}`),
        };
        const { registry } = await openFakeRegistry(root, options);
        const memory = watchMemory(registry);
        const held = await run([registry], plan);
        await checkHeld(held);
        giveBack(held);
        expect(memory.violations).toEqual([]);
        expect([...memory.used].filter((digest) => registry.namesOf(digest).length === 0)).toEqual(
          [],
        );
        expect(registry.stats()).toMatchObject({ holds: 0, pendingPuts: 0 });
        const kept = keptBy(registry);
        expect(registry.stats().generations).toBe(kept.size);
        if (!endsEarly) await until('files are gone', () => filesOf(root).length === kept.size);
        const before = shown(registry);
        await registry.close();
        expect(filesOf(root)).toEqual([...kept].sort());
        for (const folder of ['tmp', 'uploads']) {
          expect(readdirSync(path.join(root, folder))).toEqual([]);
        }
        const again = (await openFakeRegistry(root, options)).registry;
        expect(shown(again)).toEqual(before);
        await again.close();
        expect(warnings).toEqual([]);
      }),
      { numRuns: RUNS },
    );
  });

  it('that a close interrupts leave nothing but what was registered', async () => {
    await fc.assert(
      fc.asyncProperty(steps, fc.nat(200), async (plan, turns) => {
        const root = temp.fresh();
        const options = { maxGenerations: MAX_GENERATIONS };
        const { registry } = await openFakeRegistry(root, options);
        const held: Held[] = [];
        const running = plan.map((step) =>
          change(registry, step, held).catch((error) => {
            const codes = [...REFUSALS, 'shutting_down'];
            if (error instanceof LoramuxError && codes.includes(error.code)) return;
            throw error;
          }),
        );
        for (let turn = 0; turn < turns; turn++) await new Promise(setImmediate);
        const closed = registry.close();
        await Promise.all(running);
        await closed;
        giveBack(held);
        const before = shown(registry);
        const again = (await openFakeRegistry(root, options)).registry;
        expect(shown(again)).toEqual(before);
        await again.close();
        expect(filesOf(root)).toEqual([...keptBy(again)].sort());
        expect(readdirSync(path.join(root, 'uploads'))).toEqual([]);
      }),
      { numRuns: RUNS },
    );
  });
});

describe('changes at the same time on two replicas', () => {
  let redis: TestRedis;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());
  let prefixes = 0;

  const openStorage = (prefix: string, dataDir: string, blobs: string, warnings: string[]) =>
    openFleet({
      dataDir,
      maxAdapters: 100,
      onWarning: (message, error) => warnings.push(`${message} ${error}`),
      redisUrl: redis.url,
      prefix,
      schemaVersion: 1,
      atStart: 'wait',
      timeoutMs: 30_000,
      waitReplicas: 0,
      reconcileMs: 200,
      replicaTtlMs: 15_000,
      blobStore: blobs,
      redisBlobBytes: 1e6,
      blobGraceMs: 60_000,
      diskCacheBytes: 1e6,
      s3Endpoint: undefined,
      s3PathStyle: false,
    });

  it('are known to both, with every file that is kept', async () => {
    await fc.assert(
      fc.asyncProperty(steps, async (plan) => {
        const prefix = `registrar-${process.pid}-${++prefixes}`;
        const warnings: string[] = [];
        const storages: Storage[] = [];
        const registries: AdapterRegistry[] = [];
        for (let i = 0; i < 2; i++) {
          const storage = await openStorage(prefix, temp.fresh(), 'redis', warnings);
          const { registry } = await openFakeRegistryOn(storage, {
            maxGenerations: MAX_GENERATIONS,
          });
          await registry.ready;
          storages.push(storage);
          registries.push(registry);
        }
        const [one, two] = registries as [AdapterRegistry, AdapterRegistry];
        const held = await run(registries, plan);
        await checkHeld(held);
        const same = () => JSON.stringify(shown(one)) === JSON.stringify(shown(two));
        await until('both know the same', () => same() && one.revision === two.revision);
        const known = shown(one);
        giveBack(held);
        for (const [i, registry] of registries.entries()) {
          const storage = storages[i]!;
          expect(registry.stats()).toMatchObject({ holds: 0, pendingPuts: 0 });
          const kept = keptBy(registry);
          expect(registry.stats().generations).toBe(kept.size);
          // Every generation can be had, from here or from the fleet.
          for (const { name } of registry.list()) {
            for (const meta of registry.history(name).generations) {
              const local = await storage.files.ensureLocal(meta);
              expect(existsSync(local.path)).toBe(true);
              local.release();
            }
          }
          await storage.backend.reconcile();
          expect(shown(registry)).toEqual(known);
        }
        for (const registry of registries) await registry.close();
        expect(warnings).toEqual([]);
      }),
      { numRuns: RUNS },
    );
  });
});
