/** Every fixture adapter through the real service: served, or refused with its own code. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  type AdapterImages,
  type AdapterService,
  createAdapterService,
} from '../../../src/adapters/index.ts';
import { ERRORS } from '../../../src/errors.ts';
import { FIXTURES, fixtureModules, TempDir } from '../../support/adapter-files.ts';

interface ManifestEntry {
  case: string;
  baseModel: string;
  expectedCode?: keyof typeof ERRORS;
}

const temp = new TempDir();
const services = new Map<string, Promise<AdapterService & AdapterImages>>();
afterAll(async () => {
  for (const service of services.values()) await (await service).close();
  temp.remove();
});

function serviceFor(model: string): Promise<AdapterService & AdapterImages> {
  const existing = services.get(model);
  if (existing !== undefined) return existing;
  const service = createAdapterService({
    dataDir: temp.join(model),
    adapterRoot: FIXTURES,
    baseModelName: model,
    modules: fixtureModules(model),
    maxResidentBytes: 1e9,
    convertThreads: 1,
  });
  services.set(model, service);
  return service;
}

const manifest = (folder: string): ManifestEntry[] =>
  JSON.parse(readFileSync(path.join(FIXTURES, folder, 'manifest.json'), 'utf8'));
const foldersOf = (...parts: string[]) =>
  readdirSync(path.join(FIXTURES, ...parts), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name);

describe('fixture adapters', () => {
  const served = foldersOf('adapters').flatMap((model) =>
    foldersOf('adapters', model).map((name) => [model, `adapters/${model}/${name}`] as const),
  );
  const accepted = manifest('accepted').map(
    (entry) => [entry.baseModel, `accepted/${entry.case}`] as const,
  );

  it.each([...served, ...accepted])('%s: %s is accepted', async (model, folder) => {
    const service = await serviceFor(model);
    const { record } = await service.put(folder, { kind: 'directory', path: folder });
    const { image, release } = await service.openImage(record.generation);
    release();
    expect(image.fileBytes).toBe(record.fileBytes);
    const tensors = readFileSync(path.join(FIXTURES, folder, 'adapter_model.safetensors'));
    const names = tensors.toString('latin1').match(/lora_[AB]\.weight/g);
    expect(image.pairs).toHaveLength(names!.length / 2);
    // Saved twice, the same adapter is the same generation.
    const again = await service.put(`${folder}-again`, { kind: 'directory', path: folder });
    expect(again.record.generation).toEqual(record.generation);
  });

  const unsupported = manifest('unsupported');
  it('has the cases that the manifest names', () => {
    expect(unsupported.length).toBeGreaterThan(90);
    expect(unsupported.map((entry) => entry.case).sort()).toEqual(foldersOf('unsupported').sort());
  });

  it.each(unsupported.map((entry) => [entry.case, entry] as const))(
    '%s is refused with its code',
    async (_, entry) => {
      const service = await serviceFor(entry.baseModel);
      const before = service.stats();
      await expect(
        service.put('refused', { kind: 'directory', path: `unsupported/${entry.case}` }),
      ).rejects.toThrow(expect.objectContaining({ code: entry.expectedCode }));
      expect(Math.floor(ERRORS[entry.expectedCode!].status / 100)).toBe(4);
      expect(service.stats()).toEqual(before);
      expect(readdirSync(temp.join(entry.baseModel, 'adapters', 'tmp'))).toEqual([]);
      expect(existsSync(temp.join(entry.baseModel, 'adapters', 'names', 'refused.json'))).toBe(
        false,
      );
    },
  );
});
