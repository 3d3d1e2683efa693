/**
 * Content addresses of KV blocks. A block's keys and values are determined by the tokens up to its
 * end and by what computed them, so its hash covers exactly that:
 *
 *   root    = H("loramux.kv.v1" | adapter digest or base | adapter scale | cache salt)
 *   hash[i] = H(hash[i - 1] or root | token ids of block i)
 *
 * H is SHA-256 cut to 128 bits: a stale or foreign block would answer with wrong text and leak
 * another caller's prompt, so a fast non-cryptographic hash that clients can collide is not enough.
 * The adapter enters as the digest of its bytes, never as its name.
 */
import { hash } from 'node:crypto';

/** 16 bytes as a latin1 string: a compact Map key that can be written back to bytes. */
export type BlockHash = string;

const HASH_BYTES = 16;
const DOMAIN = 'loramux.kv.v1';

/** What, besides the tokens, determines the keys and values of a sequence. */
export interface CacheIdentity {
  /** Content digest of the adapter generation; undefined is the base. */
  adapterDigest: string | undefined;
  /** Weight on the adapter's delta; ignored for the base. */
  adapterScale: number;
  /** Keeps unrelated callers apart. */
  cacheSalt: string;
}

/** Root of a hash chain. Two identities share blocks only if all three fields agree. */
export function rootHash(identity: CacheIdentity): BlockHash {
  const base = identity.adapterDigest === undefined;
  // JSON quotes and escapes its strings, so no two identities serialise alike.
  const text = JSON.stringify([
    DOMAIN,
    base ? null : identity.adapterDigest,
    base ? null : scaleBits(identity.adapterScale),
    identity.cacheSalt,
  ]);
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

/** The float64 bits: scales that print alike but differ must not share blocks. */
function scaleBits(scale: number): string {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(scale);
  return bytes.toString('hex');
}
