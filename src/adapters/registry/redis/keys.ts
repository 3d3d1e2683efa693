/** Names of everything a deployment keeps in Redis. One hash tag, so one slot of a cluster. */
import { LoramuxError } from '../../../errors.ts';

export interface RedisKeys {
  /** What every key begins with. */
  readonly root: string;
  readonly meta: string;
  readonly index: string;
  readonly removed: string;
  readonly log: string;
  readonly refs: string;
  readonly blobs: string;
  readonly uploads: string;
  readonly garbage: string;
  readonly deleting: string;
  readonly wanted: string;
  readonly replicas: string;
  /** Channel on which changes are published. */
  readonly channel: string;
  /** What the keys of names, outcomes and replicas begin with. */
  readonly names: string;
  readonly done: string;
  readonly replica: string;
}

const PREFIX = /^[!-z|~]{1,64}$/;

/**
 * @throws LoramuxError config_invalid for a prefix with braces, blanks or other than ASCII
 *   characters: braces would end the hash tag early.
 */
export function redisKeys(prefix: string, schemaVersion: number): RedisKeys {
  if (!PREFIX.test(prefix)) {
    throw new LoramuxError(
      'config_invalid',
      `The Redis prefix ${JSON.stringify(prefix)} must have 1 to 64 printable ASCII characters, ` +
        'without blanks and braces (--redis-prefix).',
    );
  }
  const root = `{${prefix}:v${schemaVersion}}`;
  return {
    root,
    meta: `${root}:meta`,
    index: `${root}:index`,
    removed: `${root}:removed`,
    log: `${root}:log`,
    refs: `${root}:refs`,
    blobs: `${root}:blobs`,
    uploads: `${root}:uploads`,
    garbage: `${root}:garbage`,
    deleting: `${root}:deleting`,
    wanted: `${root}:wanted`,
    replicas: `${root}:replicas`,
    channel: `${root}:changes`,
    names: `${root}:name:`,
    done: `${root}:done:`,
    replica: `${root}:replica:`,
  };
}
