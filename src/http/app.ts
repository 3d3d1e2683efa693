/** The HTTP application, built apart from listening: `inject` in tests, `listen` in the server. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import Fastify, { type FastifyInstance, LogController, type RouteOptions } from 'fastify';
import { answerClientError, registerErrors, sendError } from './plugins/errors.ts';
import { registerHeadRules } from './plugins/head-rules.ts';
import { registerIdleConnections } from './plugins/idle-connections.ts';
import { registerLifecycle } from './plugins/lifecycle.ts';
import { registerMetrics } from './plugins/metrics.ts';
import { registerRequestId, requestIdOf } from './plugins/request-id.ts';
import { Turns } from './plugins/turns.ts';
import { registerWebSocket } from './plugins/websocket.ts';
import { adapterLifeRoutes } from './routes/adapter-life.ts';
import { adapterRoutes } from './routes/adapters.ts';
import { chatRoutes } from './routes/chat.ts';
import { completionRoutes } from './routes/completions.ts';
import { healthRoutes } from './routes/health.ts';
import { modelRoutes } from './routes/models.ts';
import { replicaRoutes } from './routes/replicas.ts';
import { responseRoutes } from './routes/responses.ts';
import { sglangRoutes } from './routes/sglang.ts';
import { streamRoutes } from './routes/stream.ts';
import { tokenizeRoutes } from './routes/tokenize.ts';
import { vllmRoutes } from './routes/vllm.ts';
import { MODEL_NAME_LENGTH_MAX } from './schemas/limits.ts';
import { type HttpServices, KIB } from './services.ts';

/** How often Node looks for connections that exceeded their time. */
const TIMEOUT_CHECK_MS = 1000;

function createFastify({ config }: HttpServices) {
  const { headersTimeoutMs, requestTimeoutMs } = config;
  return Fastify({
    bodyLimit: config.bodyLimitKb * KIB,
    requestTimeout: requestTimeoutMs,
    keepAliveTimeout: config.keepAliveTimeoutMs,
    http: {
      maxHeaderSize: config.maxHeaderKb * KIB,
      headersTimeout: headersTimeoutMs,
      requestTimeout: requestTimeoutMs,
      connectionsCheckingInterval: Math.min(TIMEOUT_CHECK_MS, headersTimeoutMs),
      // registerHeadRules refuses requests without it, with a body that says so.
      requireHostHeader: false,
    },
    // A name of full length, every character percent-encoded.
    routerOptions: { maxParamLength: 3 * MODEL_NAME_LENGTH_MAX },
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    logController: new LogController({ disableRequestLogging: true }),
    // Standard output is for the ready line and results.
    logger: { level: config.logLevel, stream: process.stderr },
    ajv: {
      customOptions: {
        removeAdditional: false,
        coerceTypes: false,
        useDefaults: false,
        allErrors: false,
        discriminator: true,
      },
    },
    genReqId: requestIdOf,
    clientErrorHandler: answerClientError,
    frameworkErrors: (error, request, reply) => sendError(request, reply, error),
  }).withTypeProvider<TypeBoxTypeProvider>();
}

export interface AppOptions {
  /** Sees every route with its schemas, to compare them with openapi.yaml. */
  readonly onRoute?: (route: RouteOptions) => void;
}

/** The application, ready to listen; nothing in it is global. */
export async function buildApp(
  services: HttpServices,
  options: AppOptions = {},
): Promise<FastifyInstance> {
  const app = createFastify(services);
  if (options.onRoute !== undefined) app.addHook('onRoute', options.onRoute);
  app.server.maxConnections = services.config.maxConnections;
  // Response schemas are the contract, checked by tests; they never drop a field at run time.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  // Bodies are JSON; a text is refused as such instead of being parsed to a string.
  app.removeContentTypeParser('text/plain');
  registerRequestId(app as unknown as FastifyInstance);
  registerErrors(app as unknown as FastifyInstance);
  registerHeadRules(app as unknown as FastifyInstance);
  // Before any hook that refuses requests: it must know refused handshakes to close their sockets.
  await registerWebSocket(app as unknown as FastifyInstance, {
    maxFrameBytes: services.config.bodyLimitKb * KIB,
  });
  registerIdleConnections(app as unknown as FastifyInstance);
  registerLifecycle(app as unknown as FastifyInstance, services.lifecycle);
  registerMetrics(app as unknown as FastifyInstance, services.metrics);
  // One for all that generates: a burst may come by several routes.
  const turns = new Turns();
  await app.register(completionRoutes(services, turns));
  await app.register(chatRoutes(services, turns));
  await app.register(responseRoutes(services, turns));
  await app.register(tokenizeRoutes(services));
  await app.register(modelRoutes(services));
  await app.register(adapterRoutes(services));
  await app.register(adapterLifeRoutes(services));
  await app.register(replicaRoutes(services));
  await app.register(vllmRoutes(services));
  await app.register(sglangRoutes(services));
  await app.register(healthRoutes(services));
  await app.register(streamRoutes(services, turns));
  return app as unknown as FastifyInstance;
}
