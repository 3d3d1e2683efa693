/**
 * Content addresses of KV blocks. A block's keys and values are determined by the tokens up to its
 * end and by what computed them, so its hash covers exactly that:
 *
 *   root    = H("loramux.kv.v2" | digest and weight of each adapter | cache salt)
 *   hash[i] = H(hash[i - 1] or root | token ids of block i)
 *
 * H is SHA-256 cut to 128 bits: a stale or foreign block would answer with wrong text and leak
 * another caller's prompt, so a fast non-cryptographic hash that clients can collide is not enough.
 * An adapter enters as the digest of its bytes, never as its name; the base has none.
 */
import { hash } from 'node:crypto';

/** 16 bytes as a latin1 string: a compact Map key that can be written back to bytes. */
export type BlockHash = string;

const HASH_BYTES = 16;
const DOMAIN = 'loramux.kv.v2';

/** What, besides the tokens, determines the keys and values of a sequence. */
export interface CacheIdentity {
  /** Whose weighted deltas are added, ordered by digest; none is the base. */
  adapters: readonly {
    readonly generation: { readonly digest: string };
    readonly weight: number;
  }[];
  /** Keeps unrelated callers apart. */
  cacheSalt: string;
}

/** Root of a hash chain. Two identities share blocks only if all of them agrees. */
export function rootHash({ adapters, cacheSalt }: CacheIdentity): BlockHash {
  const parts = adapters.map(({ generation, weight }) => [generation.digest, weightBits(weight)]);
  // JSON quotes and escapes its strings, so no two identities serialise alike.
  const text = JSON.stringify([DOMAIN, parts, cacheSalt]);
  return hash('sha256', text, 'binary').slice(0, HASH_BYTES);
}

/** Hashes the blocks of one block size; owns a scratch buffer, so use one per engine. */
export class BlockHasher {
  readonly blockSize: number;
  readonly #bytes: Buffer;
  readonly #tokens: Int32Array;

  constructor(blockSize: number) {
    this.blockSize = blockSize;
    const memory = new ArrayBuffer(HASH_BYTES + blockSize * 4);
    this.#bytes = Buffer.from(memory);
    this.#tokens = new Int32Array(memory, HASH_BYTES, blockSize);
  }

  /** Buffer for the tokens of the block to be hashed, int32 [blockSize]; fill, then call `next`. */
  get tokens(): Int32Array {
    return this.#tokens;
  }

  /** Hash of the block whose tokens are in `tokens`, after the block (or root) `parent`. */
  next(parent: BlockHash): BlockHash {
    this.#bytes.write(parent, 0, HASH_BYTES, 'latin1');
    return hash('sha256', this.#bytes, 'binary').slice(0, HASH_BYTES);
  }
}

/** The float64 bits: weights that print alike but differ must not share blocks. */
function weightBits(weight: number): string {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(weight);
  return bytes.toString('hex');
}
