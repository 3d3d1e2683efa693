/** Several real servers that share one real Redis. */

import { answerOf, askBody, CONTENT_MODEL_DIR, type Content } from './contents.ts';
import { startRedis, type TestRedis } from './redis.ts';
import { startTestServer, type TestServer } from './server.ts';
import { PATIENCE_MS } from './until.ts';

/**
 * A Redis that runs answers within this time on any machine, so that no server of a fleet takes it
 * for one that is away; one that was killed is noticed at once all the same.
 */
const REDIS_TIMEOUT_MS = 30_000;

export interface Fleet {
  readonly redis: TestRedis;
  readonly servers: TestServer[];
  /** Flags of every server, for one that is started again. */
  readonly args: readonly string[];
  start(args?: readonly string[], dataDir?: string): Promise<TestServer>;
  end(): Promise<void>;
}

export interface FleetOptions {
  readonly replicas: number;
  readonly args?: readonly string[];
  readonly redis?: Parameters<typeof startRedis>[0];
  /** Added to the environment of every server. */
  readonly env?: NodeJS.ProcessEnv;
}

export async function startFleet(options: FleetOptions): Promise<Fleet> {
  const redis = await startRedis({ appendfsync: 'always', ...options.redis });
  const args = [
    ...['--model', CONTENT_MODEL_DIR, '--redis', redis.url],
    ...['--redis-timeout-ms', String(REDIS_TIMEOUT_MS), ...(options.args ?? [])],
  ];
  const servers: TestServer[] = [];
  const start: Fleet['start'] = async (more = [], dataDir) => {
    const server = await startTestServer([...args, ...more], {
      ...(dataDir !== undefined && { dataDir }),
      ...(options.env !== undefined && { env: options.env }),
    });
    servers.push(server);
    return server;
  };
  const end = async () => {
    await Promise.all(servers.map((server) => server.end()));
    await redis.stop();
  };
  try {
    await Promise.all(Array.from({ length: options.replicas }, () => start()));
  } catch (error) {
    await end();
    throw error;
  }
  return { redis, servers, args, start, end };
}

/** Asks until the answer is that of `content`; resolves to the milliseconds it took. */
export async function untilAnswers(
  server: TestServer,
  model: string,
  content: Content,
  limitMs = PATIENCE_MS,
): Promise<number> {
  const startMs = performance.now();
  for (;;) {
    const { status, body } = await server.call('POST', '/v1/completions', askBody(model));
    const tookMs = performance.now() - startMs;
    if (status === 200) {
      const { adapter_generation: generation } = body;
      if (generation === content.generation) {
        if (answerOf(body) !== content.answer) throw new Error(`${model}: a wrong answer`);
        return tookMs;
      }
    } else if (status !== 404) {
      throw new Error(`${model} answered ${status}: ${JSON.stringify(body)}`);
    }
    if (tookMs > limitMs) throw new Error(`${model} did not move within ${limitMs} ms`);
  }
}
