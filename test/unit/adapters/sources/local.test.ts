/** Sources on local disk: folders below the root, and files that were uploaded. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { createSourceOpener } from '../../../../src/adapters/sources/opener.ts';
import type { ErrorCode } from '../../../../src/errors.ts';
import { loraConfig, loraTensors, safetensors, TempDir } from '../../../support/adapter-files.ts';

const temp = new TempDir();
afterAll(() => temp.remove());
const root = temp.join('root');
mkdirSync(root);
const weights = safetensors(loraTensors());
const inside = temp.adapter(loraConfig(), weights, 'root');
const outside = temp.adapter(loraConfig(), weights);
const signal = new AbortController().signal;

const opener = (adapterRoot: string | undefined) =>
  createSourceOpener({
    workDir: temp.join('none'),
    adapterRoot,
    limits: { maxAdapterBytes: 1e6, maxConfigBytes: 1e6, maxArchiveEntries: 9 },
    hub: { endpoint: 'https://hub.invalid' },
    remote: true,
    allowPrivate: false,
    timeoutMs: 30_000,
    onWarning: () => undefined,
  });

describe('a folder', () => {
  const name = inside.slice(root.length + 1);

  it('is used where it lies', async () => {
    for (const path of [inside, name, `./x/../${name}`]) {
      const opened = await opener(root).open({ kind: 'directory', path }, signal);
      expect(opened).toMatchObject({
        root,
        label: name,
        configPath: `${inside}/adapter_config.json`,
        weightsPath: `${inside}/adapter_model.safetensors`,
      });
      await opened.cleanup();
    }
  });

  it('is refused outside of the root, however it is named', async () => {
    symlinkSync(outside, temp.join('root', 'link'));
    symlinkSync('/', temp.join('root', 'slash'));
    mkdirSync(temp.join('root', 'pickle'));
    writeFileSync(temp.join('root', 'pickle', 'adapter_model.bin'), '');
    writeFileSync(temp.join('root', 'file'), '');
    const cases: Record<string, ErrorCode> = {
      [outside]: 'adapter_path_forbidden',
      '..': 'adapter_path_forbidden',
      [`../${outside.split('/').at(-1)}`]: 'adapter_path_forbidden',
      '/etc': 'adapter_path_forbidden',
      link: 'adapter_path_forbidden',
      'slash/etc': 'adapter_path_forbidden',
      [`${name}\0`]: 'adapter_path_forbidden',
      none: 'adapter_upload_incomplete',
      file: 'adapter_upload_incomplete',
      pickle: 'adapter_pickle_refused',
    };
    for (const [path, code] of Object.entries(cases)) {
      const error = await opener(root)
        .open({ kind: 'directory', path }, signal)
        .catch((e) => e);
      expect(error.code, JSON.stringify(path)).toBe(code);
    }
    const off = await opener(undefined)
      .open({ kind: 'directory', path: inside }, signal)
      .catch((e) => e);
    expect(off.code).toBe('adapter_path_forbidden');
  });
});

it('uploaded files are used where they lie', async () => {
  const files = {
    configPath: `${outside}/adapter_config.json`,
    weightsPath: `${outside}/adapter_model.safetensors`,
  };
  const opened = await opener(undefined).open({ kind: 'files', ...files }, signal);
  expect(opened).toMatchObject({ ...files, root: undefined, label: 'upload' });
  await opened.cleanup();
});
