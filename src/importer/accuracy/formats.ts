/** Names of what can be measured. */
import { LoramuxError } from '../../errors.ts';
import type { KvDtype } from '../../native/addon-types.ts';

/** What is compared with float32 weights and a float32 cache. */
export interface AccuracyFormat {
  /** As given, e.g. `kv-bf16`. */
  name: string;
  kvDtype: KvDtype;
}

const KV_FORMATS: Readonly<Record<string, KvDtype>> = { float32: 'f32', 'kv-bf16': 'bf16' };

export const DEFAULT_ACCURACY_FORMATS = 'kv-bf16';

/**
 * Reads a comma-separated list of formats.
 * @throws LoramuxError config_invalid
 */
export function parseAccuracyFormats(list: string): AccuracyFormat[] {
  const names = list.split(',').map((name) => name.trim());
  return [...new Set(names)].map((name) => {
    const kvDtype = KV_FORMATS[name];
    if (kvDtype === undefined) {
      throw new LoramuxError(
        'config_invalid',
        `'${name}' is not a format that can be measured; there are ` +
          `${Object.keys(KV_FORMATS).join(', ')}.`,
      );
    }
    return { name, kvDtype };
  });
}
