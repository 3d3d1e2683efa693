/** Which model a request means: the base or one adapter. Anything unknown is an error. */
import type { AdapterService } from '../adapters/service-types.ts';
import type { AdapterRecord } from '../adapters/types.ts';
import { type ErrorCode, LoramuxError } from '../errors.ts';
import type { AdapterRef } from './types.ts';

/** Between the base's name and an adapter's in `model`, as SGLang's clients write it. */
const SEPARATOR = ':';

export interface TargetRequest {
  readonly model: string;
  readonly adapter: AdapterRef | undefined;
  /** Chooses the side of a split name: calls with equal keys agree. */
  readonly splitKey: string;
}

type Names = Pick<AdapterService, 'resolve' | 'resolveGeneration'>;

const hasCode = (error: unknown, ...codes: ErrorCode[]): boolean =>
  error instanceof LoramuxError && codes.includes(error.code);

/** The adapter's part of `base:adapter`. */
function behindBase(model: string, baseName: string): string | undefined {
  const prefix = baseName + SEPARATOR;
  return model.startsWith(prefix) ? model.slice(prefix.length) : undefined;
}

/**
 * The adapter that `model` names, which is not the base's name. A name that is known as it stands
 * comes first: adapters may have colons in their names, and even the base's before one.
 */
function namedByModel(
  adapters: Names,
  baseName: string,
  { model, splitKey }: TargetRequest,
): AdapterRecord {
  try {
    return adapters.resolve(model, splitKey);
  } catch (error) {
    const behind = behindBase(model, baseName);
    const mayBeBehind = hasCode(error, 'adapter_not_found', 'registry_unavailable');
    if (behind !== undefined && mayBeBehind) {
      try {
        return adapters.resolve(behind, splitKey);
      } catch (second) {
        if (!hasCode(second, 'adapter_not_found')) throw second;
      }
    }
    if (!hasCode(error, 'adapter_not_found')) throw error;
    throw new LoramuxError(
      'model_not_found',
      `model ${JSON.stringify(model)} is neither the base model nor a registered adapter; ` +
        'GET /v1/models lists what this server has',
      { param: 'model', cause: error },
    );
  }
}

function unknownModel(model: string, baseName: string): LoramuxError {
  return new LoramuxError(
    'model_not_found',
    `model ${JSON.stringify(model)} is not the base model ${JSON.stringify(baseName)}; ` +
      'a request with "adapter" names the base (or the same adapter) as its model',
    { param: 'model' },
  );
}

function namedByAdapter(
  adapters: Names,
  baseName: string,
  name: string,
  { model, splitKey }: TargetRequest,
): AdapterRecord {
  if (model !== baseName && model !== name && behindBase(model, baseName) !== name) {
    throw unknownModel(model, baseName);
  }
  try {
    return adapters.resolve(name, splitKey);
  } catch (error) {
    if (!hasCode(error, 'adapter_not_found')) throw error;
    throw new LoramuxError(
      'adapter_not_found',
      `no adapter ${JSON.stringify(name)} is registered; GET /v1/adapters lists them`,
      { param: 'adapter', cause: error },
    );
  }
}

/** Where `model` names an adapter too, the generation must be one of those that it keeps. */
function namedByGeneration(
  adapters: Names,
  baseName: string,
  digest: string,
  request: TargetRequest,
): AdapterRecord {
  const { model } = request;
  const name = model === baseName ? undefined : namedByModel(adapters, baseName, request).name;
  try {
    return adapters.resolveGeneration(digest, name);
  } catch (error) {
    if (!hasCode(error, 'generation_not_found')) throw error;
    const { code, message } = error as LoramuxError;
    throw new LoramuxError(code, message, { param: 'adapter', cause: error });
  }
}

/**
 * The adapter a request names, with the generation that is to answer; undefined for the base.
 * @throws LoramuxError model_not_found, adapter_not_found, generation_not_found, store_corrupt,
 *   registry_unavailable
 */
export function resolveTarget(
  adapters: Names,
  baseName: string,
  request: TargetRequest,
): AdapterRecord | undefined {
  const { model, adapter } = request;
  if (adapter?.by === 'name') return namedByAdapter(adapters, baseName, adapter.name, request);
  if (adapter?.by === 'generation') {
    return namedByGeneration(adapters, baseName, adapter.digest, request);
  }
  return model === baseName ? undefined : namedByModel(adapters, baseName, request);
}
