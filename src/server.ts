/**
 * Composition: configuration in, a listening server out.
 *
 * Built in this order: runtime (model, native session, adapters, residency, engine), metrics,
 * generator, HTTP application, preloaded adapters, listening socket. Taking down begins with
 * refusing new work (503 shutting_down) while the engine finishes what runs, up to the drain limit;
 * then the sockets close, then the runtime.
 */
import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import type { AdapterRegistry, ResidencyEvent } from './adapters/index.ts';
import type { Config } from './config/schema.ts';
import { LoramuxError } from './errors.ts';
import { createGenerator } from './generation/generator.ts';
import { createTokenService } from './generation/tokens.ts';
import { buildApp } from './http/app.ts';
import { KIB, type Lifecycle } from './http/services.ts';
import { type AdapterStats, createMetrics } from './metrics/metrics.ts';
import type { NativeSessionInfo } from './native/index.ts';
import { adaptersInMemory, drawReplicaId, Replica, type ReplicaOptions } from './replica.ts';
import { createRuntime, preloadAdapters, type Runtime, type RuntimeHooks } from './runtime.ts';
import { Teardown } from './teardown.ts';
import { VERSION } from './version.ts';

/** How long sockets may take to close once nothing runs any more; then they are cut. */
const CLOSE_GRACE_MS = 2000;
const LATE_PRELOAD =
  'the adapters of --adapter could not be registered when the registry came back';

export interface LoramuxServer {
  /** Where it listens, e.g. http://127.0.0.1:8000. */
  readonly url: string;
  readonly modelName: string;
  readonly session: NativeSessionInfo;
  /** Resolves, if ever, when only a new process can help: native threads are lost for good. */
  readonly hopeless: Promise<LoramuxError>;
  /** Whether native threads are lost, so that the process cannot end by itself. */
  readonly isStuck: () => boolean;
  readonly maxModelLen: number;
  /** Registered adapters, preloaded ones included. */
  readonly numAdapters: number;
  /** Drains and takes everything down. Idempotent. */
  close(): Promise<void>;
}

export interface ServerHooks {
  /** Told what is being done while the server starts. */
  readonly onPhase?: (phase: string) => void;
  /** The model is loaded; from now on the start can be given up by `signal`. */
  readonly onLoaded?: () => void;
  /** Gives up starting: `createServer` rejects with shutting_down, nothing left behind. */
  readonly signal?: AbortSignal;
  /** Opens a native session; tests put their own faults around the real one. */
  readonly openSession?: RuntimeHooks['openSession'];
}

async function listen(app: FastifyInstance, config: Config): Promise<string> {
  const { host, port } = config;
  try {
    await app.listen({ host, port });
  } catch (cause) {
    throw new LoramuxError(
      'config_invalid',
      `cannot listen on ${host} port ${port}: ${cause instanceof Error ? cause.message : cause}; ` +
        'choose another --port (0 takes a free one) or --host',
      { cause },
    );
  }
  const address = app.server.address() as AddressInfo;
  return `http://${host.includes(':') ? `[${host}]` : host}:${address.port}`;
}

/** Closes the application; peers that do not finish in time are cut. */
async function closeApp(app: FastifyInstance): Promise<void> {
  const cut = setTimeout(() => {
    app.server.closeAllConnections();
    for (const client of app.websocketServer.clients) client.terminate();
  }, CLOSE_GRACE_MS);
  await app.close();
  clearTimeout(cut);
}

/**
 * Builds everything and listens.
 * @throws LoramuxError with nothing left behind
 */
export async function createServer(
  config: Config,
  hooks: ServerHooks = {},
): Promise<LoramuxServer> {
  const teardown = new Teardown();
  try {
    return await build(config, hooks, teardown);
  } catch (error) {
    await teardown.run().catch(() => {});
    throw error;
  }
}

/** Settles as `work` does, or rejects when the signal is given before. */
async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const given = new AbortController();
  const aborted = new Promise<never>((_, reject) => {
    const stop = () => reject(new LoramuxError('shutting_down', 'The start was given up.'));
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { signal: given.signal });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    given.abort();
  }
}

/** Makes this server visible to the others of its registry. */
function joinFleet(
  { adapters, residency, engine, modelName }: Runtime,
  options: Pick<ReplicaOptions, 'url' | 'onWarning'> & { config: Config; replicaId: string },
  teardown: Teardown,
): Replica {
  const { config, replicaId, url, onWarning } = options;
  const replica = new Replica({
    adapters,
    residency,
    engine,
    id: replicaId,
    url: config.advertiseUrl ?? url,
    model: modelName,
    ttlMs: config.replicaTtlMs,
    onWarning,
  });
  teardown.add(() => replica.close());
  adapters.onChange(() => replica.touch());
  return replica;
}

/** One line when the registry comes or goes; the requests it fails are not logged one by one. */
function logRegistryState(adapters: AdapterRegistry, log: FastifyInstance['log']): void {
  let shown = 'ok';
  const show = () => {
    const { kind, state, reason } = adapters.registry();
    if (state === shown) return;
    shown = state;
    const line = `the adapter registry (${kind}) is ${state}`;
    if (state === 'ok') log.info(line);
    else log.warn({ reason }, line);
  };
  adapters.onChange(show);
  show();
}

/** Calls once, as soon as the registry can be changed. */
function whenOk(adapters: AdapterRegistry, then: () => void): void {
  let done = false;
  adapters.onChange(() => {
    if (done || adapters.registry().state !== 'ok') return;
    done = true;
    then();
  });
}

async function build(
  config: Config,
  hooks: ServerHooks,
  teardown: Teardown,
): Promise<LoramuxServer> {
  const { onPhase = () => {}, signal = new AbortController().signal, openSession } = hooks;
  let log: FastifyInstance['log'] | undefined;
  const onWarning = (message: string, error: unknown) => {
    if (log === undefined) process.emitWarning(`${message}: ${String(error)}`);
    else log.warn({ err: error }, message);
  };
  let onResidency: (event: ResidencyEvent) => void = () => {};
  const runtime = await createRuntime(
    config,
    {
      onPhase,
      onWarning,
      onNotice: (message) => log?.info(message),
      onResidency: (event) => onResidency(event),
      ...(openSession !== undefined && { openSession }),
    },
    teardown,
  );
  hooks.onLoaded?.();
  const { modelName, imported, tokenizer, chat, session, adapters, residency, engine } = runtime;

  const adapterStats = (): AdapterStats => {
    const { resident, maxSlots } = residency.stats();
    return { registered: adapters.stats().names, resident, slots: maxSlots };
  };
  const metrics = createMetrics({
    maxAdapterLabels: config.maxAdapterLabels,
    engine: () => engine.stats(),
    session: () => session.report(),
    grammars: () => runtime.grammarPool.stats(),
    adapters: {
      service: () => adapters.stats(),
      residency: () => residency.stats(),
      inMemory: () => adaptersInMemory(adapters, residency),
      registry: () => adapters.registry(),
      namesOf: (digest) => adapters.namesOf(digest),
      has: (name) => adapters.get(name) !== undefined,
    },
  });
  teardown.add(() => metrics.close());
  onResidency = (event) => metrics.residencyEvent(event);

  const lifecycle: Lifecycle = { draining: false };
  const replicaId = config.replicaId ?? drawReplicaId();
  const model = {
    name: modelName,
    vocabSize: imported.metadata.config.vocabSize,
    eosTokenIds: imported.metadata.eosTokenIds,
  };
  const app = await buildApp({
    config,
    model: { name: modelName, created: Math.floor(Date.now() / 1000) },
    generator: createGenerator({
      model,
      tokenizer,
      adapters,
      prefetch: (generation) => residency.prefetch(generation),
      engine,
      grammars: runtime.grammars,
      limits: { maxChoices: config.maxChoices, streamBufferBytes: config.streamBufferKb * KIB },
      observe: (adapters, arrivalMs) =>
        metrics.observe(
          adapters.map(({ record }) => record.name),
          arrivalMs,
        ),
    }),
    tokens: createTokenService({ model, tokenizer, adapters }),
    chat,
    engine,
    session,
    adapters,
    residency,
    replicaId,
    adapterStats,
    metrics,
    lifecycle,
    version: VERSION,
  });
  log = app.log;
  teardown.add(() => closeApp(app));

  const register = () => unlessAborted(preloadAdapters(adapters, config.adapter, signal), signal);
  const preload = async () => {
    if (config.adapter.length > 0) onPhase('registering adapters');
    await register();
  };
  // A shared registry may be away: the server listens meanwhile, and /health says what it waits for.
  // With what its disk cache has it serves at once, and registers when the registry is back.
  const waits = !adapters.isKnown;
  if (adapters.registry().state === 'ok') await preload();
  else if (!waits) whenOk(adapters, () => register().catch((e) => onWarning(LATE_PRELOAD, e)));
  const url = await listen(app, config);
  teardown.add(async () => {
    lifecycle.draining = true;
    await engine.close({ drainMs: config.drainMs });
  });
  const replica = joinFleet(runtime, { config, replicaId, url, onWarning }, teardown);
  logRegistryState(adapters, app.log);
  onResidency = (event) => {
    metrics.residencyEvent(event);
    replica.touch();
  };
  if (waits) {
    onPhase('waiting for the adapter registry');
    await unlessAborted(adapters.ready, signal);
    await preload();
  }
  return {
    url,
    modelName,
    session: session.info,
    hopeless: session.hopeless,
    isStuck: () => session.abandoned > 0,
    maxModelLen: engine.limits.maxModelLen,
    numAdapters: adapters.list().length,
    close: () => teardown.run(),
  };
}
