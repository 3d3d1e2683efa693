/** The embedded registry, by the suite that every registry passes. */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll } from 'vitest';
import { FileRegistry } from '../../../../src/adapters/registry/file-registry.ts';
import { nameToFile } from '../../../../src/adapters/registry/name-files.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import { registryConformance } from '../../../support/registry-conformance.ts';

const temp = new TempDir();
afterAll(() => temp.remove());

registryConformance('file registry', {
  shared: false,
  checksBlobs: false,
  async openWorld({ maxNames }) {
    const root = temp.fresh();
    return {
      backend: () => new FileRegistry({ root, maxNames }),
      async damage(name) {
        const file = `${root}/names/${nameToFile(name)}`;
        const bytes = readFileSync(file);
        bytes[bytes.length >> 1]! ^= 1;
        writeFileSync(file, bytes);
      },
      dispose: async () => undefined,
    };
  },
});
