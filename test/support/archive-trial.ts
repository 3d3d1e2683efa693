/** Archives put before a source opener, and what must hold of the outcome. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect } from 'vitest';
import { createSourceOpener, type SourceOpenerOptions } from '../../src/adapters/sources/opener.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { TempDir } from './adapter-files.ts';
import type { TarEntry, ZipEntry } from './archives.ts';
import { folderTree } from './folder-tree.ts';

export const CONFIG = 'adapter_config.json';
export const WEIGHTS = 'adapter_model.safetensors';
export const config = Buffer.from('{"peft_type":"LORA"}');
export const weights = Buffer.from('weights '.repeat(2000));
export const MAX_ENTRIES = 16;
export const MAX_ADAPTER_BYTES = 64 * 1024;

/** The two files that make an archive whole. */
export const ZIP_PAIR: readonly ZipEntry[] = [
  { name: CONFIG, data: config },
  { name: WEIGHTS, data: weights },
];
export const TAR_PAIR: readonly TarEntry[] = ZIP_PAIR.map(({ name, data }) => ({
  name,
  data: data!,
}));

export type Format = 'zip' | 'tar.gz';

export class ArchiveTrial {
  readonly temp = new TempDir();
  readonly workDir = this.temp.join('work');
  readonly options: SourceOpenerOptions;
  readonly #warnings: string[] = [];
  #count = 0;

  constructor() {
    mkdirSync(this.workDir);
    mkdirSync(this.temp.join('in'));
    writeFileSync(this.temp.join('canary'), 'untouched');
    this.options = {
      workDir: this.workDir,
      adapterRoot: undefined,
      limits: {
        maxAdapterBytes: MAX_ADAPTER_BYTES,
        maxConfigBytes: 4096,
        maxArchiveEntries: MAX_ENTRIES,
      },
      hub: { endpoint: 'https://hub.invalid' },
      remote: false,
      allowPrivate: false,
      timeoutMs: 120_000,
      onWarning: (message, error) => this.#warnings.push(`${message}: ${error}`),
    };
  }

  /** Nothing is left in the work folder, and nothing failed to be removed. */
  checkClean(): void {
    expect(this.#warnings).toEqual([]);
    expect(readdirSync(this.workDir)).toEqual([]);
  }

  async open(bytes: Buffer, format: Format, signal = new AbortController().signal) {
    const file = this.temp.join('in', `${this.#count++}`);
    writeFileSync(file, bytes);
    try {
      const opener = createSourceOpener(this.options);
      return await opener.open({ kind: 'archive', path: file, format }, signal);
    } finally {
      rmSync(file);
    }
  }

  async accepted(bytes: Buffer, format: Format, expected = { config, weights }): Promise<void> {
    const opened = await this.open(bytes, format);
    expect(path.dirname(opened.configPath)).toBe(this.workDir);
    expect(path.dirname(opened.weightsPath)).toBe(this.workDir);
    expect(readFileSync(opened.configPath).equals(expected.config)).toBe(true);
    expect(readFileSync(opened.weightsPath).equals(expected.weights)).toBe(true);
    expect(opened).toMatchObject({ label: 'upload', root: undefined });
    await opened.cleanup();
    await opened.cleanup();
  }

  /** Refused with the code, and not a byte has changed anywhere around. */
  async refused(bytes: Buffer, format: Format, code: ErrorCode, message?: RegExp): Promise<void> {
    const before = folderTree(this.temp.path);
    const error = await this.open(bytes, format).catch((e) => e);
    expect(folderTree(this.temp.path)).toEqual(before);
    expect({ code: error.code, message: error.message }).toEqual({
      code,
      message: message === undefined ? expect.anything() : expect.stringMatching(message),
    });
    expect(error.message.length).toBeLessThan(500);
  }
}

/** Whether a program is there to make archives with; the ones made in code need none. */
export function hasTool(program: string): boolean {
  const { error } = spawnSync(program, ['--version']);
  if (error !== undefined) console.log(`Archives of ${program} are not tested: ${error.message}`);
  return error === undefined;
}
