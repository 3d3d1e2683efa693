/** Conversion without checks or threads: the weights file is the canonical file. */
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import type { ConvertJob, ConvertResult } from '../../src/adapters/convert/canonicalize.ts';
import type { OpenJob } from '../../src/adapters/convert/open-canonical.ts';
import type { Converter } from '../../src/adapters/convert/pool.ts';
import { LoramuxError } from '../../src/errors.ts';
import type { AdapterImage } from '../../src/native/addon-types.ts';

const HEADER_BYTES = 8;
const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

export class FakeConverter implements Converter {
  /** Called with each file written, before the conversion ends. */
  onWrite: (file: string) => void = () => {};
  /** Holds conversions back until it resolves. */
  gate: Promise<void> = Promise.resolve();
  conversions = 0;

  async convert(job: ConvertJob): Promise<ConvertResult> {
    this.conversions++;
    const bytes = readFileSync(job.weightsPath);
    await this.gate;
    if (bytes.includes('refuse me')) {
      throw new LoramuxError('adapter_config_invalid', 'The content asks to be refused.');
    }
    writeFileSync(job.outPath, bytes, { flag: 'wx' });
    this.onWrite(job.outPath);
    return {
      digest: sha(bytes),
      fileBytes: bytes.length,
      headerBytes: Math.min(HEADER_BYTES, bytes.length),
      headerDigest: sha(bytes.subarray(0, HEADER_BYTES)),
      rank: 4,
      residentBytes: bytes.length * 2,
      targetModules: ['q_proj'],
    };
  }

  async open(job: OpenJob): Promise<AdapterImage> {
    const bytes = readFileSync(job.path);
    if (sha(bytes) !== job.digest) throw new LoramuxError('store_corrupt', 'Another digest.');
    return { path: job.path, fileBytes: job.fileBytes, pairs: [] };
  }

  async close(): Promise<void> {}
}
