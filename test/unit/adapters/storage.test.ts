import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { createAdapterService } from '../../../src/adapters/index.ts';
import type { RedisRegistry } from '../../../src/adapters/registry/redis/redis-registry.ts';
import type { AdapterSource } from '../../../src/adapters/service-types.ts';
import { type FleetOptions, openFleet, type Storage } from '../../../src/adapters/storage.ts';
import { describeModules } from '../../../src/importer/index.ts';
import {
  loraConfig,
  loraTensors,
  safetensors,
  TempDir,
  TINY_BASE,
  TINY_MODULES,
} from '../../support/adapter-files.ts';
import { openFakeRegistryOn } from '../../support/adapter-registry.ts';
import { startRedis, type TestRedis } from '../../support/redis.ts';
import { codeOf, sha256 } from '../../support/registry-entries.ts';
import { PATIENCE_MS } from '../../support/until.ts';

const temp = new TempDir();
let redis: TestRedis;
const closers: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  redis = await startRedis();
});
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});
afterAll(async () => {
  await redis.stop();
  temp.remove();
});

function upload(content: string): AdapterSource {
  const configPath = temp.fresh('.config');
  const weightsPath = temp.fresh('.weights');
  writeFileSync(configPath, '{}');
  writeFileSync(weightsPath, content);
  return { kind: 'files', configPath, weightsPath };
}

let prefixes = 0;

function fleetOptions(blobStore: string): FleetOptions {
  return {
    redisUrl: redis.url,
    prefix: `storage-${process.pid}-${++prefixes}`,
    schemaVersion: 1,
    atStart: 'wait',
    timeoutMs: 20_000,
    waitReplicas: 0,
    reconcileMs: 200,
    replicaTtlMs: 15_000,
    blobStore,
    redisBlobBytes: 1e6,
    blobGraceMs: 60_000,
    diskCacheBytes: 1e6,
    s3Endpoint: undefined,
    s3PathStyle: true,
  };
}

function openOnS3(s3Endpoint: string): Promise<Storage> {
  const common = { dataDir: temp.fresh(), maxAdapters: 100, onWarning: () => undefined };
  return openFleet({ ...common, ...fleetOptions('s3://bucket'), s3Endpoint });
}

/** Accepts connections and never answers. */
async function silentServer(): Promise<{ endpoint: string; connections(): number }> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  closers.push(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address() as net.AddressInfo;
  return { endpoint: `http://127.0.0.1:${port}`, connections: () => sockets.size };
}

/** Far above what it takes, below the time that the blob store is given: three tries of 10 s. */
const SOON_MS = 25_000;
const soon = (work: Promise<unknown>) =>
  Promise.race([work.then(() => 'ended'), sleep(SOON_MS, 'still under way', { ref: false })]);

describe('a fleet whose blob store hangs', () => {
  beforeAll(() => {
    vi.stubEnv('AWS_ACCESS_KEY_ID', 'key');
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'secret');
  });
  afterAll(() => {
    vi.unstubAllEnvs();
  });

  it('closes while an upload is under way', async () => {
    const { endpoint, connections } = await silentServer();
    const storage = await openOnS3(endpoint);
    const { registry } = await openFakeRegistryOn(storage);
    await registry.ready;
    const put = codeOf(registry.put('a', upload('content')));
    await vi.waitUntil(() => connections() > 0, PATIENCE_MS);
    expect(await soon(registry.close())).toBe('ended');
    expect(await put).toBe('blob_unavailable');
  });

  it('ends downloads, which residency waits for before the registry closes', async () => {
    const { endpoint, connections } = await silentServer();
    const storage = await openOnS3(endpoint);
    const { registry } = await openFakeRegistryOn(storage);
    closers.push(() => registry.close());
    await registry.ready;
    const { files, local } = storage;
    const share = vi.spyOn(files, 'ensureShared').mockResolvedValue();
    const { ledger } = storage.backend as RedisRegistry;
    const digest = sha256('content');
    await ledger.commitUpload(digest, await ledger.beginUpload(digest));
    const { generation } = (await registry.put('a', upload('content'))).record;
    share.mockRestore();
    await local.remove(digest);
    const opening = codeOf(registry.openImage(generation));
    await vi.waitUntil(() => connections() > 0, PATIENCE_MS);
    expect(await soon(registry.stop())).toBe('ended');
    expect(await opening).toBe('blob_unavailable');
  });
});

describe('a fleet whose registry is for a base model of another shape', () => {
  it('refuses the server and says where the registry is', async () => {
    const dir = temp.adapter(loraConfig(), safetensors(loraTensors()), 'fleet');
    const common = {
      baseModelName: 'tiny-base',
      maxResidentBytes: 1e6,
      fleet: fleetOptions('redis'),
    };
    const first = await createAdapterService({
      ...common,
      dataDir: temp.fresh(),
      adapterRoot: temp.join('fleet'),
      modules: TINY_MODULES,
    });
    closers.push(() => first.close());
    await first.ready;
    await first.put('a', { kind: 'directory', path: dir });
    const other = createAdapterService({
      ...common,
      dataDir: temp.fresh(),
      modules: describeModules({ ...TINY_BASE, numLayers: 3 }),
    });
    await expect(other).rejects.toThrow(
      `prefix ${common.fleet.prefix} holds 1 adapters (such as a)`,
    );
  });
});
