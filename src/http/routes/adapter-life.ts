/** An adapter's life: roll back, split, pin, load, evict. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { AdapterGeneration, AdapterRecord } from '../../adapters/types.ts';
import { type ErrorCode, LoramuxError } from '../../errors.ts';
import {
  EvictSchema,
  IfMatchSchema,
  LoadSchema,
  NoQuerySchema,
  RollbackSchema,
  SetSplitSchema,
} from '../schemas/adapter-requests.ts';
import { AdapterParamsSchema, AdapterSchema } from '../schemas/adapters.ts';
import { BODILESS_ERRORS, BODY_ERRORS, CHANGE_ERRORS, errorResponses } from '../schemas/error.ts';
import type { HttpServices } from '../services.ts';
import { generationOfKept, recordOf, wireAdapter } from '../wire/adapter-json.ts';
import { checkCondition, conditionOf, refuseConditions, setETag } from '../wire/conditions.ts';

const KNOWN_ERRORS: readonly ErrorCode[] = [
  'adapter_not_found',
  'store_corrupt',
  'registry_unavailable',
  'registry_lost',
];
const ADAPTER_CHANGE_ERRORS: readonly ErrorCode[] = ['adapter_not_found', ...CHANGE_ERRORS];
const LOAD_ERRORS: readonly ErrorCode[] = [
  ...BODY_ERRORS,
  ...ADAPTER_CHANGE_ERRORS,
  'generation_not_found',
  'adapter_never_fits',
  'adapter_load_failed',
  'adapter_load_timeout',
  'pin_limit_exceeded',
];

type App = Parameters<FastifyPluginAsyncTypebox>[0];

/** A route whose body may be left out. */
async function bodyMayBeAbsent(request: FastifyRequest): Promise<void> {
  if (request.body === undefined) request.body = {};
}

const responses = (codes: readonly ErrorCode[]) => ({
  200: AdapterSchema,
  ...errorResponses([...new Set(codes)]),
});

const named = { params: AdapterParamsSchema, querystring: NoQuerySchema };

class AdapterLife {
  readonly #services: HttpServices;

  constructor(services: HttpServices) {
    this.#services = services;
  }

  /** The answer of every route here. */
  show(reply: FastifyReply, record: AdapterRecord) {
    setETag(reply, record.generation.digest);
    return wireAdapter(record, this.#services.residency);
  }

  /** Those that answer requests for the name. */
  #answering(name: string): AdapterGeneration[] {
    const { generation, split } = recordOf(this.#services.adapters, name);
    return split === undefined ? [generation] : [generation, split.generation];
  }

  #kept(name: string, digest: string): AdapterGeneration {
    const { generations } = this.#services.adapters.history(name);
    const kept = generations.find((one) => one.digest === digest);
    if (kept !== undefined) return generationOfKept(kept);
    throw new LoramuxError(
      'generation_not_found',
      `${JSON.stringify(name)} keeps no generation ${digest}; GET /v1/adapters/{name}/generations ` +
        'lists those it keeps',
      { param: 'generation' },
    );
  }

  #checkPins(wanted: readonly AdapterGeneration[]): void {
    const { adapters, residency } = this.#services;
    const all = [...adapters.pinnedGenerations(), ...wanted];
    residency.checkPins([...new Map(all.map((one) => [one.digest, one])).values()]);
  }

  /** Resolves when the name's generations, or the given one, are in memory. */
  async load(name: string, digest: string | undefined, pinned: boolean | undefined) {
    const { adapters, residency, config } = this.#services;
    if (digest !== undefined && pinned !== undefined) {
      throw new LoramuxError(
        'invalid_request',
        'pinned is of the name, not of one generation; leave generation out',
        { param: 'pinned' },
      );
    }
    const wanted = digest === undefined ? this.#answering(name) : [this.#kept(name, digest)];
    const holds = wanted.map((generation) => adapters.hold(generation));
    try {
      if (pinned === true) this.#checkPins(wanted);
      const loads = wanted.map((one) => residency.load(one, config.adapterLoadTimeoutMs));
      await Promise.all(loads);
    } finally {
      for (const release of holds) release();
    }
    return pinned === undefined ? recordOf(adapters, name) : adapters.setPinned(name, pinned);
  }

  evict(name: string, digest: string | undefined): AdapterRecord {
    const { adapters, residency } = this.#services;
    const wanted = digest === undefined ? this.#answering(name) : [this.#kept(name, digest)];
    const pins = new Set(adapters.pinnedGenerations().map((pin) => pin.digest));
    for (const generation of wanted) {
      if (!pins.has(generation.digest) && !residency.view(generation).pinned) continue;
      throw new LoramuxError(
        'adapter_pinned',
        `generation ${generation.digest} is pinned, by this name or another one with the same ` +
          'content; POST /v1/adapters/{name}/unpin first',
      );
    }
    for (const generation of wanted) residency.evict(generation);
    return recordOf(adapters, name);
  }

  async pin(name: string, pinned: boolean): Promise<AdapterRecord> {
    if (pinned) this.#checkPins(this.#answering(name));
    return this.#services.adapters.setPinned(name, pinned);
  }
}

function registerGenerations(app: App, { adapters }: HttpServices, life: AdapterLife): void {
  const codes = [...ADAPTER_CHANGE_ERRORS, 'generation_not_found' as const];
  app.post(
    '/v1/adapters/:name/rollback',
    {
      schema: {
        summary: 'Make a kept generation current again.',
        ...named,
        headers: IfMatchSchema,
        body: RollbackSchema,
        response: responses([...BODY_ERRORS, ...codes]),
      },
      onRequest: checkCondition,
      preValidation: bodyMayBeAbsent,
    },
    async (request, reply) => {
      const generation = request.body.generation ?? undefined;
      const options = { generation, ...conditionOf(request.headers) };
      return life.show(reply, await adapters.rollback(request.params.name, options));
    },
  );
  app.put(
    '/v1/adapters/:name/split',
    {
      schema: {
        summary: "Give a kept generation a share of the name's requests.",
        ...named,
        headers: IfMatchSchema,
        body: SetSplitSchema,
        response: responses([...BODY_ERRORS, ...codes, 'generation_current']),
      },
      onRequest: checkCondition,
    },
    async (request, reply) => {
      const { generation: digest, weight } = request.body;
      const condition = conditionOf(request.headers);
      const { name } = request.params;
      return life.show(reply, await adapters.setSplit(name, { digest, weight }, condition));
    },
  );
  app.delete(
    '/v1/adapters/:name/split',
    {
      schema: {
        summary: 'End the split; the current generation answers all requests.',
        ...named,
        headers: IfMatchSchema,
        response: responses([...BODILESS_ERRORS, ...ADAPTER_CHANGE_ERRORS]),
      },
      onRequest: checkCondition,
    },
    async (request, reply) => {
      const condition = conditionOf(request.headers);
      return life.show(reply, await adapters.setSplit(request.params.name, undefined, condition));
    },
  );
}

function registerResidency(app: App, life: AdapterLife): void {
  const refuse = async ({ headers }: FastifyRequest) => refuseConditions(headers);
  app.post(
    '/v1/adapters/:name/load',
    {
      schema: {
        summary: 'Bring an adapter to memory and wait until it is there.',
        ...named,
        body: LoadSchema,
        response: responses(LOAD_ERRORS),
      },
      onRequest: refuse,
      preValidation: bodyMayBeAbsent,
    },
    async (request, reply) => {
      const { generation, pinned } = request.body;
      const { name } = request.params;
      return life.show(reply, await life.load(name, generation ?? undefined, pinned ?? undefined));
    },
  );
  app.post(
    '/v1/adapters/:name/evict',
    {
      schema: {
        summary: 'Drop an adapter from the memory of this server.',
        ...named,
        body: EvictSchema,
        response: responses([
          ...BODY_ERRORS,
          ...KNOWN_ERRORS,
          'generation_not_found',
          'adapter_pinned',
        ]),
      },
      onRequest: refuse,
      preValidation: bodyMayBeAbsent,
    },
    async (request, reply) => {
      const generation = request.body.generation ?? undefined;
      return life.show(reply, life.evict(request.params.name, generation));
    },
  );
  for (const pinned of [true, false]) {
    app.post(
      `/v1/adapters/:name/${pinned ? 'pin' : 'unpin'}`,
      {
        schema: {
          summary: pinned
            ? 'Keep an adapter in the memory of every server that has room.'
            : 'Let an adapter be evicted again.',
          ...named,
          response: responses([
            ...BODILESS_ERRORS,
            ...ADAPTER_CHANGE_ERRORS,
            ...(pinned ? (['pin_limit_exceeded'] as const) : []),
          ]),
        },
        onRequest: refuse,
      },
      async (request, reply) => {
        const { name } = request.params as { name: string };
        return life.show(reply, await life.pin(name, pinned));
      },
    );
  }
}

export function adapterLifeRoutes(services: HttpServices): FastifyPluginAsyncTypebox {
  const life = new AdapterLife(services);
  return async (app) => {
    registerGenerations(app, services, life);
    registerResidency(app, life);
  };
}
