/** The HTTP application over doubles: fake engine, adapters in a map, single-character tokens. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { FastifyInstance } from 'fastify';
import type { ReplicaInfo } from '../../../src/adapters/registry/types.ts';
import { createChat } from '../../../src/chat/chat-service.ts';
import { createGenerator } from '../../../src/generation/generator.ts';
import { createTokenService } from '../../../src/generation/tokens.ts';
import { buildApp } from '../../../src/http/app.ts';
import type { HttpConfig, HttpServices, Lifecycle } from '../../../src/http/services.ts';
import { createMetrics, type Metrics } from '../../../src/metrics/metrics.ts';
import type { SessionReport } from '../../../src/native/index.ts';
import { FakeAdapters, FakeResidencyControl, sha256 } from '../../support/fake-adapters.ts';
import { FakeEngine, type FakeEngineOptions, repeating } from '../../support/fake-engine.ts';
import { FakeGrammars, noGrammarStats } from '../../support/fake-grammars.ts';
import { fakeSources, SOUND_SESSION } from '../../support/metrics-sources.ts';
import { PATIENCE_MS } from '../../support/until.ts';
import { characters, codes, EOS } from '../generation/support.ts';

export const CONFIG: HttpConfig = {
  bodyLimitKb: 64,
  maxHeaderKb: 8,
  maxConnections: 64,
  // Time passes where the machine does other work: nothing of this happens by itself.
  headersTimeoutMs: 120_000,
  requestTimeoutMs: 120_000,
  keepAliveTimeoutMs: 120_000,
  sseKeepAliveMs: 120_000,
  wsPingMs: 120_000,
  maxGenerationsPerSocket: 4,
  logLevel: 'silent',
  toolCallParser: 'auto',
  adapterLoadTimeoutMs: 1_000,
  remoteSources: true,
};

/** A member of the fleet; the server of the tests is replica-1. */
export const replica = (id: string): ReplicaInfo => ({
  id,
  url: 'http://10.0.0.7:8000',
  version: '0.0.0-test',
  model: 'base',
  startedAtMs: 1_700_000_000_500,
  updatedAtMs: 1_700_000_001_500,
  slots: 4,
  revision: 2,
  requestsRunning: 1,
  requestsWaiting: 0,
  adapters: [{ generation: sha256('sub'), names: ['sub'], level: 'device', pinned: false }],
});

export interface TestServer {
  readonly app: FastifyInstance;
  readonly engine: FakeEngine;
  /** What the native session says of itself; tests change it. */
  readonly session: { current: SessionReport };
  readonly grammars: FakeGrammars;
  readonly adapters: FakeAdapters;
  readonly residency: FakeResidencyControl;
  readonly metrics: Metrics;
  readonly lifecycle: Lifecycle;
  readonly services: HttpServices;
  /** Listens on a free port of the loopback interface. */
  listen(): Promise<string>;
  uploads(): Promise<string[]>;
  close(): Promise<void>;
}

export interface TestServerOptions {
  engine?: Partial<FakeEngineOptions>;
  config?: Partial<HttpConfig>;
  streamBufferBytes?: number;
  /** The base's chat template. */
  template?: string;
  trustRequestTemplates?: boolean;
}

/** Characters only, since the tokens of these tests are characters. */
const TEMPLATE =
  "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}" +
  '{% if add_generation_prompt %}assistant: {% endif %}';

export async function testServer(options: TestServerOptions = {}): Promise<TestServer> {
  const uploadDir = await mkdtemp(path.join(tmpdir(), 'loramux-http-'));
  const script = repeating([...codes('hello'), EOS]);
  const engine = new FakeEngine({ script, ...options.engine });
  const grammars = new FakeGrammars();
  const adapters = new FakeAdapters(uploadDir);
  const residency = new FakeResidencyControl();
  const adapterStats = () => ({ registered: adapters.entries.size, resident: 1, slots: 4 });
  const session: TestServer['session'] = { current: SOUND_SESSION };
  const metrics = createMetrics({
    maxAdapterLabels: 10,
    engine: () => engine.stats(),
    session: () => session.current,
    grammars: noGrammarStats,
    adapters: fakeSources({
      service: () => adapters.stats(),
      has: (name) => adapters.get(name) !== undefined,
    }),
  });
  const lifecycle: Lifecycle = { draining: false };
  const model = { name: 'base', vocabSize: 256, eosTokenIds: [EOS] };
  const services: HttpServices = {
    config: { ...CONFIG, ...options.config },
    model: { name: 'base', created: 1_700_000_000 },
    generator: createGenerator({
      model,
      tokenizer: characters,
      engine,
      grammars,
      adapters,
      prefetch: () => {},
      limits: { maxChoices: 8, streamBufferBytes: options.streamBufferBytes ?? 1 << 20 },
      observe: (adapters, arrivalMs) =>
        metrics.observe(
          adapters.map(({ record }) => record.name),
          arrivalMs,
        ),
    }),
    tokens: createTokenService({ model, tokenizer: characters, adapters }),
    chat: createChat({
      model: { templates: new Map([['default', options.template ?? TEMPLATE]]), specialTokens: {} },
      adapters,
      trustRequests: options.trustRequestTemplates ?? false,
    }),
    engine,
    session: { report: () => session.current },
    adapters,
    residency,
    replicaId: 'replica-1',
    adapterStats,
    metrics,
    lifecycle,
    version: '0.0.0-test',
  };
  const app = await buildApp(services);
  return {
    app,
    engine,
    session,
    grammars,
    adapters,
    residency,
    metrics,
    lifecycle,
    services,
    async listen() {
      await app.listen({ host: '127.0.0.1', port: 0 });
      return `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
    },
    uploads: () => readdir(uploadDir),
    async close() {
      await app.close();
      await services.chat.close();
      await engine.close();
      metrics.close();
      await rm(uploadDir, { recursive: true, force: true });
    },
  };
}

/** The data of a server-sent event stream, parsed; `[DONE]` and comments as strings. */
export function parseSse(text: string): (Record<string, unknown> | string)[] {
  return text
    .split('\n\n')
    .filter((part) => part !== '')
    .map((part) => {
      if (!part.startsWith('data: ')) return part;
      const data = part.slice('data: '.length);
      return data === '[DONE]' ? data : (JSON.parse(data) as Record<string, unknown>);
    });
}

/** Waits until a condition holds, one turn of the event loop at a time. */
export async function until(condition: () => boolean): Promise<void> {
  const endMs = performance.now() + PATIENCE_MS;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`not within ${PATIENCE_MS} ms: ${condition}`);
    await new Promise(setImmediate);
  }
}
