/** Which adapter a request names, as the generation layer takes it, and which one answered. */
import { LoramuxError } from '../../errors.ts';
import type { AdapterRef, Generation, GenerationRequest } from '../../generation/types.ts';
import type { AdapterChoice } from '../schemas/adapter-choice.ts';

function refOf(adapter: AdapterChoice['adapter']): AdapterRef | undefined {
  if (adapter === undefined || adapter === null) return undefined;
  if (typeof adapter === 'string') return { by: 'name', name: adapter };
  const { name, generation } = adapter;
  return generation === undefined
    ? { by: 'name', name: name! }
    : { by: 'generation', digest: generation };
}

/** @throws LoramuxError invalid_request */
export function adapterChoice(
  body: AdapterChoice,
  baseName: string,
): Pick<GenerationRequest, 'model' | 'adapter' | 'adapterScale'> {
  const adapter = refOf(body.adapter);
  const scale = body.adapter_scale ?? 1;
  if (scale !== 1 && adapter === undefined && body.model === baseName) {
    throw new LoramuxError(
      'invalid_request',
      'adapter_scale needs an adapter, but the request names none',
      { param: 'adapter_scale' },
    );
  }
  return { model: body.model, adapter, adapterScale: scale };
}

/** Which adapter generation answers, for every object of an answer; nothing for the base. */
export function generationOf({ adapter }: Generation): { adapter_generation?: string } {
  return adapter === undefined ? {} : { adapter_generation: adapter.generation.digest };
}
