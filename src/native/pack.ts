/** Packing of weights by the addon: for the importer, without a session. */
import type { PackLevelsJob, PackResult, PackWeightsJob } from './addon-types.ts';
import { fromNativeError } from './errors.ts';
import { loadAddon } from './loader.ts';

/**
 * Packs rows of a float weight into a blob.
 * @throws LoramuxError native_addon_missing
 */
export async function packWeights(job: PackWeightsJob): Promise<PackResult> {
  const addon = loadAddon();
  try {
    return await addon.packWeights(job);
  } catch (error) {
    throw fromNativeError(error, 'Packing weights');
  }
}

/**
 * Packs the levels of a quantized checkpoint into a blob.
 * @throws LoramuxError native_addon_missing
 */
export async function packLevels(job: PackLevelsJob): Promise<PackResult> {
  const addon = loadAddon();
  try {
    return await addon.packLevels(job);
  } catch (error) {
    throw fromNativeError(error, 'Packing quantized weights');
  }
}
