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
import type { Config } from './config/schema.ts';
import { LoramuxError } from './errors.ts';
import { createGenerator } from './generation/generator.ts';
import { buildApp } from './http/app.ts';
import { KIB, type Lifecycle } from './http/services.ts';
import { type AdapterStats, createMetrics } from './metrics/metrics.ts';
import type { NativeSessionInfo } from './native/index.ts';
import { createRuntime, preloadAdapters } from './runtime.ts';
import { Teardown } from './teardown.ts';
import { VERSION } from './version.ts';

/** How long sockets may take to close once nothing runs any more; then they are cut. */
const CLOSE_GRACE_MS = 2000;

export interface LoramuxServer {
  /** Where it listens, e.g. http://127.0.0.1:8000. */
  readonly url: string;
  readonly modelName: string;
  readonly session: NativeSessionInfo;
  readonly maxModelLen: number;
  /** Registered adapters, preloaded ones included. */
  readonly numAdapters: number;
  /** Drains and takes everything down. Idempotent. */
  close(): Promise<void>;
}

export interface ServerHooks {
  /** Told what is being done while the server starts. */
  readonly onPhase?: (phase: string) => void;
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
    return await build(config, hooks.onPhase ?? (() => {}), teardown);
  } catch (error) {
    await teardown.run().catch(() => {});
    throw error;
  }
}

async function build(
  config: Config,
  onPhase: (phase: string) => void,
  teardown: Teardown,
): Promise<LoramuxServer> {
  let log: FastifyInstance['log'] | undefined;
  const onWarning = (message: string, error: unknown) => {
    if (log === undefined) process.emitWarning(`${message}: ${String(error)}`);
    else log.warn({ err: error }, message);
  };
  const runtime = await createRuntime(config, { onPhase, onWarning }, teardown);
  const { modelName, imported, tokenizer, session, adapters, residency, engine } = runtime;

  const adapterStats = (): AdapterStats => {
    const stats = residency.stats();
    return { ...stats, registered: adapters.list().length, slots: stats.maxSlots };
  };
  const metrics = createMetrics({
    maxAdapterLabels: config.maxAdapterLabels,
    engine: () => engine.stats(),
    adapters: adapterStats,
  });
  teardown.add(() => metrics.close());

  const lifecycle: Lifecycle = { draining: false };
  const app = await buildApp({
    config,
    model: { name: modelName, created: Math.floor(Date.now() / 1000) },
    generator: createGenerator({
      model: {
        name: modelName,
        vocabSize: imported.metadata.config.vocabSize,
        eosTokenIds: imported.metadata.eosTokenIds,
      },
      tokenizer,
      adapters,
      engine,
      limits: { maxChoices: config.maxChoices, streamBufferBytes: config.streamBufferKb * KIB },
      observe: (adapter, arrivalMs) => metrics.observe(adapter, arrivalMs),
    }),
    engine,
    adapters,
    adapterStats,
    metrics,
    lifecycle,
    version: VERSION,
  });
  log = app.log;
  teardown.add(() => closeApp(app));

  if (config.adapter.length > 0) onPhase('registering adapters');
  await preloadAdapters(adapters, config.adapter);
  const url = await listen(app, config);
  teardown.add(async () => {
    lifecycle.draining = true;
    await engine.close({ drainMs: config.drainMs });
  });
  return {
    url,
    modelName,
    session: session.info,
    maxModelLen: engine.limits.maxModelLen,
    numAdapters: adapters.list().length,
    close: () => teardown.run(),
  };
}
