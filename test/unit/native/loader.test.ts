/** The loader says what it tried, why it failed and what to do. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { LoramuxError } from '../../../src/errors.ts';
import { fromNativeError, nativeErrorCode } from '../../../src/native/errors.ts';
import { loadAddon } from '../../../src/native/loader.ts';
import { addonCandidates, locateOrtLibrary } from '../../../src/native/locate.ts';

const folder = mkdtempSync(join(tmpdir(), 'loramux-loader-'));
afterAll(() => rmSync(folder, { recursive: true }));

const addon = {
  probe: () => {},
  createSession: () => {},
  packWeights: () => {},
  packLevels: () => {},
  closeAllNow: () => {},
};

function file(name: string): string {
  const path = join(folder, name);
  writeFileSync(path, 'x');
  return path;
}

function failure(run: () => unknown): LoramuxError {
  try {
    run();
  } catch (error) {
    if (error instanceof LoramuxError) return error;
    throw error;
  }
  throw new Error('did not throw');
}

describe('loadAddon', () => {
  it('takes the first candidate that loads', () => {
    const [bad, good] = [file('bad.node'), file('good.node')];
    const tried: string[] = [];
    const loaded = loadAddon([join(folder, 'none.node'), bad, good], (path) => {
      tried.push(path);
      if (path === bad) throw new Error('boom');
      return addon;
    });
    expect(loaded).toBe(addon);
    expect(tried).toEqual([bad, good]);
  });

  it.each([
    ['/lib/libc.so.6: version `GLIBC_2.99` not found', '--force'],
    ['invalid ELF header', '--force'],
    ['something else', 'npm run build:native'],
  ])('names each failure and a remedy: %s', (reason, remedy) => {
    const path = file('fails.node');
    const error = failure(() =>
      loadAddon([join(folder, 'none.node'), path], () => {
        throw new Error(reason);
      }),
    );
    expect(error.code).toBe('native_addon_missing');
    for (const part of [join(folder, 'none.node'), 'no such file', path, reason, remedy]) {
      expect(error.message).toContain(part);
    }
  });

  it('refuses a module that exports something else', () => {
    const error = failure(() => loadAddon([file('other.node')], () => ({ probe: () => {} })));
    expect(error.message).toContain('does not export');
  });

  it('really fails on a damaged file', () => {
    expect(failure(() => loadAddon([file('damaged.node')])).message).toContain('damaged.node');
  });
});

describe('where the native parts are', () => {
  it('an environment variable replaces the candidates', () => {
    expect(addonCandidates({ LORAMUX_NATIVE_ADDON: '/x/y.node' })).toEqual(['/x/y.node']);
    for (const path of addonCandidates({})) expect(path).toMatch(/build\/\w+\/loramux\.node$/);
  });

  it('the library comes with onnxruntime-node or from the environment', () => {
    expect(locateOrtLibrary({})).toMatch(/onnxruntime-node.*libonnxruntime\.so\.1$/);
    const path = file('lib.so');
    expect(locateOrtLibrary({ LORAMUX_ORT_LIBRARY: path })).toBe(path);
    const error = failure(() => locateOrtLibrary({ LORAMUX_ORT_LIBRARY: '/nowhere/lib.so' }));
    expect(error.code).toBe('native_addon_missing');
    expect(error.message).toContain('LORAMUX_ORT_LIBRARY');
  });
});

describe('fromNativeError', () => {
  const native = (code: string) => Object.assign(new Error('it broke'), { code });

  it('keeps the native error as the cause', () => {
    const cause = native('native_step_failed');
    const error = fromNativeError(cause, 'The step');
    expect(error).toMatchObject({ code: 'engine_failed', message: 'The step failed: it broke.' });
    expect(error.cause).toBe(cause);
    expect(nativeErrorCode(error)).toBe('native_step_failed');
  });

  it('lets the operation choose another code', () => {
    const error = fromNativeError(native('native_out_of_memory'), 'Loading', {
      native_out_of_memory: 'adapter_load_failed',
    });
    expect(error.code).toBe('adapter_load_failed');
  });

  it('an unknown error is a defect', () => {
    for (const thrown of [new Error('x'), native('ENOENT'), 'text', undefined]) {
      expect(fromNativeError(thrown, 'The step').code).toBe('internal_error');
      expect(nativeErrorCode(thrown)).toBeUndefined();
    }
  });
});
