/**
 * Revisions that are never given twice, also not after a crash, a removal of the newest name or a
 * damaged file. A block of them is reserved in a file before the first of it is used; what is left of
 * the block after a restart is skipped.
 */
import type { JsonValue } from '../../importer/json.ts';
import { sealJson, unsealJson } from './name-files.ts';

/** Revisions per durable write of the counter. */
export const REVISION_BLOCK = 1024;
export const MAX_COUNTER_FILE_BYTES = 4096;
const COUNTER_VERSION = 1;

export class RevisionCounter {
  readonly #save: (bytes: Uint8Array) => Promise<void>;
  #last = 0;
  #reserved = 0;
  #saving: Promise<void> | undefined;

  /** @param save replaces the counter's file, durably. */
  constructor(save: (bytes: Uint8Array) => Promise<void>) {
    this.#save = save;
  }

  /**
   * @param bytes of the file, undefined when there is none.
   * @param largest revision that is in use.
   * @returns why the file is not believed; then a whole block is skipped instead.
   */
  start(bytes: Uint8Array | undefined, largest: number): string | undefined {
    let problem: string | undefined;
    try {
      this.#reserved = bytes === undefined ? 0 : decode(bytes);
      if (this.#reserved < largest) problem = 'the revision file is missing or behind the names';
    } catch (error) {
      problem = (error as Error).message;
    }
    if (problem !== undefined) this.#reserved = largest + REVISION_BLOCK;
    this.#last = this.#reserved;
    return problem;
  }

  /** A revision found later; the next ones are larger. */
  observe(revision: number): void {
    this.#last = Math.max(this.#last, revision);
  }

  /** @throws what saving the reservation throws; no revision was given then. */
  async next(): Promise<number> {
    while (this.#last >= this.#reserved) {
      this.#saving ??= this.#reserve().finally(() => {
        this.#saving = undefined;
      });
      await this.#saving;
    }
    this.#last++;
    return this.#last;
  }

  async #reserve(): Promise<void> {
    const reserved = this.#last + REVISION_BLOCK;
    await this.#save(sealJson({ version: COUNTER_VERSION, reserved }));
    this.#reserved = reserved;
  }
}

function decode(bytes: Uint8Array): number {
  if (bytes.length > MAX_COUNTER_FILE_BYTES) throw new Error('the revision file is too large');
  const { body } = unsealJson(bytes, 'the revision file');
  const { version, reserved } = body as { version?: JsonValue; reserved?: JsonValue };
  if (version !== COUNTER_VERSION || typeof reserved !== 'number' || reserved < 0) {
    throw new Error('the revision file has another format');
  }
  if (!Number.isSafeInteger(reserved)) throw new Error('the revision file has no whole number');
  return reserved;
}
