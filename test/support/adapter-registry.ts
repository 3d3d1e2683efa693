/** An adapter registry over real files, with conversion and loading that a test can watch. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { AdapterRegistry, type RegistryOptions } from '../../src/adapters/adapter-registry.ts';
import { createBlobFiles } from '../../src/adapters/blobs/blob-files.ts';
import { createLocalBlobs } from '../../src/adapters/blobs/local-blobs.ts';
import { FileRegistry } from '../../src/adapters/registry/file-registry.ts';
import { createSourceOpener } from '../../src/adapters/sources/opener.ts';
import { checkBlobFile } from '../../src/adapters/storage.ts';
import { nodeStoreFs, type StoreFs } from '../../src/adapters/store/store-fs.ts';
import { LoramuxError } from '../../src/errors.ts';
import { FakeConverter } from './fake-converter.ts';

export interface FakeRegistry {
  readonly registry: AdapterRegistry;
  readonly pool: FakeConverter;
}

/** Opens below `root`; a conversion copies the weights file, and its digest is theirs. */
export async function openFakeRegistry(
  root: string,
  options: Partial<RegistryOptions> & { readonly fs?: StoreFs } = {},
): Promise<FakeRegistry> {
  const { fs = nodeStoreFs, onWarning = () => undefined, maxAdapters = 100 } = options;
  const local = createLocalBlobs({ root, fs, onWarning: (message) => onWarning(message, '') });
  await local.open();
  const files = createBlobFiles({
    local,
    concurrency: 2,
    retries: 1,
    onWarning: (message) => onWarning(message, ''),
  });
  const backend = new FileRegistry({
    root,
    fs,
    maxNames: maxAdapters,
    checkBlob: (meta) => checkBlobFile(fs, local.path(meta.digest), meta),
    onWarning,
  });
  return openFakeRegistryOn({ backend, local, files }, options);
}

/** As `openFakeRegistry`, over any storage whose local files are open. */
export async function openFakeRegistryOn(
  storage: Pick<RegistryOptions, 'backend' | 'local' | 'files' | 'onClose'>,
  options: Partial<RegistryOptions> = {},
): Promise<FakeRegistry> {
  const { local, files } = storage;
  const { onWarning = () => undefined } = options;
  const pool = new FakeConverter();
  const registry = new AdapterRegistry({
    ...storage,
    images: {
      async open(meta) {
        const { digest, fileBytes } = meta;
        const file = await files.ensureLocal(meta);
        const bytes = readFileSync(file.path);
        if (createHash('sha256').update(bytes).digest('hex') !== digest) {
          throw new LoramuxError('store_corrupt', 'Another digest.');
        }
        const image = { path: file.path, fileBytes, pairs: [] };
        return { image, tier: file.tier, release: file.release };
      },
      prefetch: () => undefined,
      drop: () => false,
      has: () => false,
      digests: () => [],
      stats: () => {
        throw new Error('there is no host memory here');
      },
      close: async () => undefined,
    },
    opener: createSourceOpener({
      workDir: local.uploadDir,
      adapterRoot: undefined,
      limits: { maxAdapterBytes: 1e6, maxConfigBytes: 1e4, maxArchiveEntries: 16 },
      hub: { endpoint: 'https://hub.invalid' },
      remote: false,
      allowPrivate: false,
      timeoutMs: 120_000,
      onWarning,
    }),
    pool,
    baseModelName: 'tiny-base',
    base: 'shapes',
    maxAdapters: 100,
    maxGenerations: 1,
    maxArchiveBytes: 1e6,
    maxAdapterBytes: 1e6,
    maxRank: 8,
    maxResidentBytes: 1e6,
    now: () => 1234,
    onWarning,
    ...options,
  });
  try {
    await registry.open();
  } catch (error) {
    await registry.close();
    throw error;
  }
  return { registry, pool };
}
