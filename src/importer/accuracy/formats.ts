/** Names of what can be measured. */
import { LoramuxError } from '../../errors.ts';
import type { KvDtype } from '../../native/addon-types.ts';
import type { ImportOptions } from '../import.ts';
import type { WeightsMode } from '../types.ts';

/** What is compared with float32 weights and a float32 cache. */
export interface AccuracyFormat {
  /** As given, e.g. `int8` or `int4:64+kv-bf16`. */
  name: string;
  import: ImportOptions & { weights: WeightsMode };
  kvDtype: KvDtype;
}

const WEIGHTS: readonly WeightsMode[] = ['float32', 'bf16', 'int8', 'int4'];
const KV_DTYPES: readonly KvDtype[] = ['f32', 'bf16', 'int8'];

export const DEFAULT_ACCURACY_FORMATS = 'bf16,int8,int4,kv-bf16,kv-int8';

/**
 * Reads a comma-separated list of formats: weights, weights with a group size (`int8:128`), a cache
 * (`kv-bf16`), or both with a plus between.
 * @throws LoramuxError config_invalid
 */
export function parseAccuracyFormats(list: string): AccuracyFormat[] {
  return [...new Set(list.split(',').map((name) => name.trim()))].map(parseFormat);
}

function parseFormat(name: string): AccuracyFormat {
  const match = /^(?:([a-z0-9]+)(?::(\d+))?)?(?:(?:^|\+)kv-([a-z0-9]+))?$/.exec(name);
  const [, weights = 'float32', group, kv = 'f32'] = match ?? [];
  const mode = WEIGHTS.find((one) => one === weights);
  const kvDtype = KV_DTYPES.find((one) => one === kv);
  if (name === '' || match === null || mode === undefined || kvDtype === undefined) {
    throw new LoramuxError(
      'config_invalid',
      `'${name}' is not a format that can be measured: weights ${WEIGHTS.join(', ')}, for int8 ` +
        'and int4 with a group size if wanted (int8:128), cache ' +
        `${KV_DTYPES.map((one) => `kv-${one}`).join(', ')}, or both (int8+kv-bf16).`,
    );
  }
  const weightsGroupSize = group === undefined ? undefined : Number(group);
  return { name, import: { weights: mode, weightsGroupSize }, kvDtype };
}
