/** Which model a request means: the base or one adapter. Anything unknown is an error. */
import type { AdapterService } from '../adapters/service-types.ts';
import type { AdapterRecord } from '../adapters/types.ts';
import { LoramuxError } from '../errors.ts';

export interface TargetRequest {
  readonly model: string;
  readonly adapter: string | undefined;
  /** Chooses the side of a split name: calls with equal keys agree. */
  readonly splitKey: string;
}

const isUnknown = (error: unknown): boolean =>
  error instanceof LoramuxError && error.code === 'adapter_not_found';

/**
 * The adapter a request names, with the generation that is to answer; undefined for the base.
 * @throws LoramuxError model_not_found, adapter_not_found, store_corrupt, registry_unavailable
 */
export function resolveTarget(
  adapters: Pick<AdapterService, 'resolve'>,
  baseName: string,
  request: TargetRequest,
): AdapterRecord | undefined {
  const { model, adapter, splitKey } = request;
  if (adapter !== undefined) {
    if (model !== baseName && model !== adapter) {
      throw new LoramuxError(
        'model_not_found',
        `model ${JSON.stringify(model)} is not the base model ${JSON.stringify(baseName)}; ` +
          'a request with "adapter" names the base (or the same adapter) as its model',
        { param: 'model' },
      );
    }
    try {
      return adapters.resolve(adapter, splitKey);
    } catch (error) {
      if (!isUnknown(error)) throw error;
      throw new LoramuxError(
        'adapter_not_found',
        `no adapter ${JSON.stringify(adapter)} is registered; GET /v1/adapters lists them`,
        { param: 'adapter', cause: error },
      );
    }
  }
  if (model === baseName) return undefined;
  try {
    return adapters.resolve(model, splitKey);
  } catch (error) {
    if (!isUnknown(error)) throw error;
    throw new LoramuxError(
      'model_not_found',
      `model ${JSON.stringify(model)} is neither the base model nor a registered adapter; ` +
        'GET /v1/models lists what this server has',
      { param: 'model', cause: error },
    );
  }
}
