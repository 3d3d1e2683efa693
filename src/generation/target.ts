/** Which model a request means: the base, or adapters on it. Anything unknown is an error. */
import type { AdapterService } from '../adapters/service-types.ts';
import type { AdapterRecord } from '../adapters/types.ts';
import { type ErrorCode, LoramuxError } from '../errors.ts';
import type { AdapterChoice, AdapterRef, ChosenAdapter } from './types.ts';

/** Between the base's name and an adapter's in `model`, as SGLang's clients write it. */
const SEPARATOR = ':';

export interface TargetRequest {
  readonly model: string;
  readonly adapter: AdapterChoice;
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
 * The adapter that `name` or `base:name` means, which is not the base's name. A name that is known as
 * it stands comes first: adapters may have colons in their names, and even the base's before one.
 * @param find throws adapter_not_found, or registry_unavailable where it cannot know
 */
export function findNamed(
  model: string,
  baseName: string,
  find: (name: string) => AdapterRecord,
): AdapterRecord {
  try {
    return find(model);
  } catch (error) {
    const behind = behindBase(model, baseName);
    const mayBeBehind = hasCode(error, 'adapter_not_found', 'registry_unavailable');
    if (behind !== undefined && mayBeBehind) {
      try {
        return find(behind);
      } catch (second) {
        if (!hasCode(second, 'adapter_not_found')) throw second;
      }
    }
    throw error;
  }
}

function namedByModel(
  adapters: Names,
  baseName: string,
  { model, splitKey }: TargetRequest,
): AdapterRecord {
  try {
    return findNamed(model, baseName, (name) => adapters.resolve(name, splitKey));
  } catch (error) {
    if (!hasCode(error, 'adapter_not_found')) throw error;
    throw new LoramuxError(
      'model_not_found',
      `model ${JSON.stringify(model)} is neither the base model nor a registered adapter; ` +
        'GET /v1/models lists what this server has',
      { param: 'model', cause: error },
    );
  }
}

function otherModel(model: string, baseName: string, rule: string): LoramuxError {
  return new LoramuxError(
    'model_not_found',
    `model ${JSON.stringify(model)} is not the base model ${JSON.stringify(baseName)}; ${rule}`,
    { param: 'model' },
  );
}

/** @param param the field that names it */
function byName(adapters: Names, name: string, splitKey: string, param: string): AdapterRecord {
  try {
    return adapters.resolve(name, splitKey);
  } catch (error) {
    if (!hasCode(error, 'adapter_not_found')) throw error;
    throw new LoramuxError(
      'adapter_not_found',
      `no adapter ${JSON.stringify(name)} is registered; GET /v1/adapters lists them`,
      { param, cause: error },
    );
  }
}

/** @param name must keep the generation, where one is given */
function byGeneration(
  adapters: Names,
  digest: string,
  name: string | undefined,
  param: string,
): AdapterRecord {
  try {
    return adapters.resolveGeneration(digest, name);
  } catch (error) {
    if (!hasCode(error, 'generation_not_found')) throw error;
    const { code, message } = error as LoramuxError;
    throw new LoramuxError(code, message, { param, cause: error });
  }
}

/** The one of `adapter`. Where `model` names an adapter too, both must mean the same. */
function named(
  adapters: Names,
  baseName: string,
  ref: AdapterRef,
  request: TargetRequest,
): AdapterRecord {
  const { model, splitKey } = request;
  if (ref.by === 'generation') {
    const name = model === baseName ? undefined : namedByModel(adapters, baseName, request).name;
    return byGeneration(adapters, ref.digest, name, 'adapter');
  }
  const { name } = ref;
  if (model !== baseName && model !== name && behindBase(model, baseName) !== name) {
    const rule = 'a request with "adapter" names the base (or the same adapter) as its model';
    throw otherModel(model, baseName, rule);
  }
  return byName(adapters, name, splitKey, 'adapter');
}

/**
 * The adapters a request names, with the generations that are to answer, in its order; none is the
 * base. A name of a sum is split by the request's key like any other.
 * @throws LoramuxError model_not_found, adapter_not_found, generation_not_found, store_corrupt,
 *   registry_unavailable
 */
export function resolveTarget(
  adapters: Names,
  baseName: string,
  request: TargetRequest,
): readonly ChosenAdapter[] {
  const { model, adapter, splitKey } = request;
  if (adapter.kind === 'sum') {
    if (model !== baseName) {
      throw otherModel(model, baseName, 'a request with "adapters" names the base as its model');
    }
    return adapter.parts.map(({ ref, weight }, i) => {
      const record =
        ref.by === 'name'
          ? byName(adapters, ref.name, splitKey, `adapters.${i}.name`)
          : byGeneration(adapters, ref.digest, undefined, `adapters.${i}.generation`);
      return { record, weight };
    });
  }
  const { weight } = adapter;
  if (adapter.kind === 'one') {
    return [{ record: named(adapters, baseName, adapter.ref, request), weight }];
  }
  if (model === baseName) return [];
  return [{ record: namedByModel(adapters, baseName, request), weight }];
}

/** Whether one request, resolved twice, came to the same generations. */
export function areSame(a: readonly ChosenAdapter[], b: readonly ChosenAdapter[]): boolean {
  return (
    a.length === b.length &&
    a.every(({ record }, i) => record.generation.digest === b[i]!.record.generation.digest)
  );
}
