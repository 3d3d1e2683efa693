/** Which adapters a request names, as the generation layer takes it, and which ones answered. */
import type {
  AdapterRef,
  ChosenAdapter,
  Generation,
  GenerationRequest,
} from '../../generation/types.ts';
import type { AdapterChoice, AnsweredBy } from '../schemas/adapter-choice.ts';
import { refuse } from './refuse.ts';

/** The schema has seen to it that there is exactly one of them. */
function refOf({ name, generation }: { name?: string; generation?: string }): AdapterRef {
  return generation === undefined
    ? { by: 'name', name: name! }
    : { by: 'generation', digest: generation };
}

function choiceOf(body: AdapterChoice, baseName: string): GenerationRequest['adapter'] {
  const adapter = body.adapter ?? undefined;
  const scale = body.adapter_scale ?? undefined;
  const weight = scale ?? 1;
  const several = body.adapters ?? undefined;
  if (several !== undefined) {
    if (adapter !== undefined) {
      throw refuse('a request has adapter or adapters, not both', 'adapters');
    }
    if (scale !== undefined) {
      throw refuse('each of adapters has its own weight, adapter_scale has none', 'adapter_scale');
    }
    const parts = several.map((part) => ({ ref: refOf(part), weight: part.weight ?? 1 }));
    return { kind: 'sum', parts };
  }
  if (adapter !== undefined) {
    const ref = refOf(typeof adapter === 'string' ? { name: adapter } : adapter);
    return { kind: 'one', ref, weight };
  }
  if (weight !== 1 && body.model === baseName) {
    throw refuse('adapter_scale needs an adapter, but the request names none', 'adapter_scale');
  }
  return { kind: 'model', weight };
}

/** @throws LoramuxError invalid_request */
export function adapterChoice(
  body: AdapterChoice,
  baseName: string,
): Pick<GenerationRequest, 'model' | 'adapter'> {
  return { model: body.model, adapter: choiceOf(body, baseName) };
}

const partOf = ({ record, weight }: ChosenAdapter) => ({
  name: record.name,
  generation: record.generation.digest,
  weight,
});

/** What answers, for every object of an answer; nothing for the base. */
export function answeredBy({ adapters }: Generation): AnsweredBy {
  const [first] = adapters;
  if (first === undefined) return {};
  if (adapters.length === 1) return { adapter_generation: first.record.generation.digest };
  return { adapter_generations: adapters.map(partOf) };
}
