/** The HTTP application over doubles: fake engine, adapters in a map, single-character tokens. */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { FastifyInstance } from 'fastify';
import type {
  AdapterService,
  AdapterSource,
  DamagedAdapter,
} from '../../../src/adapters/service-types.ts';
import type { AdapterRecord } from '../../../src/adapters/types.ts';
import { LoramuxError } from '../../../src/errors.ts';
import { createGenerator } from '../../../src/generation/generator.ts';
import { buildApp } from '../../../src/http/app.ts';
import type { HttpConfig, HttpServices, Lifecycle } from '../../../src/http/services.ts';
import { createMetrics, type Metrics } from '../../../src/metrics/metrics.ts';
import { FakeEngine, type FakeEngineOptions, repeating } from '../../support/fake-engine.ts';
import { characters, codes, EOS, record } from '../generation/support.ts';

export const CONFIG: HttpConfig = {
  bodyLimitKb: 64,
  maxHeaderKb: 8,
  maxConnections: 64,
  headersTimeoutMs: 5_000,
  requestTimeoutMs: 10_000,
  keepAliveTimeoutMs: 5_000,
  sseKeepAliveMs: 10_000,
  wsPingMs: 10_000,
  maxGenerationsPerSocket: 4,
  logLevel: 'silent',
};

/** Adapters in a map; `put` keeps what it was given so that tests can look at it. */
export class FakeAdapters implements AdapterService {
  readonly limits = { maxAdapters: 10, maxAdapterBytes: 4096, maxConfigBytes: 1024 };
  readonly puts: { name: string; source: AdapterSource; files: Record<string, string> }[] = [];
  readonly records = new Map<string, AdapterRecord>();
  holds = 0;
  readonly uploadDir: string;

  constructor(uploadDir: string) {
    this.uploadDir = uploadDir;
    for (const name of ['sub', 'mul']) this.records.set(name, record(name));
  }

  async put(name: string, source: AdapterSource) {
    const files: Record<string, string> = {};
    if (source.kind === 'files') {
      files.config = await readFile(source.configPath, 'utf8');
      files.weights = await readFile(source.weightsPath, 'utf8');
      await Promise.all([rm(source.configPath), rm(source.weightsPath)]);
    } else if (source.path.startsWith('/')) {
      throw new LoramuxError('adapter_path_forbidden', 'outside the root', { param: 'path' });
    }
    if (name.includes(' ')) throw new LoramuxError('adapter_name_invalid', 'a space');
    this.puts.push({ name, source, files });
    const replaced = this.records.has(name);
    this.records.set(name, record(name));
    return { record: record(name), replaced };
  }

  get(name: string) {
    return this.records.get(name);
  }

  list() {
    return [...this.records.values()].sort((a, b) => a.name.localeCompare(b.name));
  }

  resolve(name: string) {
    const found = this.records.get(name);
    if (found === undefined) throw new LoramuxError('adapter_not_found', `no adapter ${name}`);
    return found;
  }

  hold() {
    this.holds += 1;
    let given = false;
    return () => {
      if (!given) this.holds -= 1;
      given = true;
    };
  }

  async remove(name: string) {
    this.resolve(name);
    this.records.delete(name);
  }

  damaged(): readonly DamagedAdapter[] {
    return [{ name: 'broken', reason: 'digest mismatch' }];
  }

  stats() {
    return {
      names: this.records.size,
      damaged: 1,
      generations: this.records.size,
      storedBytes: 0,
      holds: this.holds,
      pendingPuts: 0,
    };
  }

  async close() {}
}

export interface TestServer {
  readonly app: FastifyInstance;
  readonly engine: FakeEngine;
  readonly adapters: FakeAdapters;
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
}

export async function testServer(options: TestServerOptions = {}): Promise<TestServer> {
  const uploadDir = await mkdtemp(path.join(tmpdir(), 'loramux-http-'));
  const script = repeating([...codes('hello'), EOS]);
  const engine = new FakeEngine({ script, ...options.engine });
  const adapters = new FakeAdapters(uploadDir);
  const adapterStats = () => ({
    registered: adapters.records.size,
    resident: 1,
    slots: 4,
    residentBytes: 1024,
    loads: 1,
    loadFailures: 0,
    evictions: 0,
  });
  const metrics = createMetrics({
    maxAdapterLabels: 10,
    engine: () => engine.stats(),
    adapters: adapterStats,
  });
  const lifecycle: Lifecycle = { draining: false };
  const services: HttpServices = {
    config: { ...CONFIG, ...options.config },
    model: { name: 'base', created: 1_700_000_000 },
    generator: createGenerator({
      model: { name: 'base', vocabSize: 256, eosTokenIds: [EOS] },
      tokenizer: characters,
      engine,
      adapters,
      limits: { maxChoices: 8, streamBufferBytes: options.streamBufferBytes ?? 1 << 20 },
      observe: (adapter, arrivalMs) => metrics.observe(adapter, arrivalMs),
    }),
    engine,
    adapters,
    adapterStats,
    metrics,
    lifecycle,
    version: '0.0.0-test',
  };
  const app = await buildApp(services);
  return {
    app,
    engine,
    adapters,
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
export async function until(condition: () => boolean, turnsMax = 20_000): Promise<void> {
  for (let turn = 0; turn < turnsMax; turn++) {
    if (condition()) return;
    await new Promise(setImmediate);
  }
  throw new Error(`the condition did not hold within ${turnsMax} turns`);
}
