/** What the transport needs; built in src/server.ts, replaced by doubles in tests. */
import type { AdapterService } from '../adapters/service-types.ts';
import type { ResidencyControl } from '../adapters/types.ts';
import type { ChatService } from '../chat/chat-service.ts';
import type { Config } from '../config/schema.ts';
import type { Engine } from '../engine/types.ts';
import type { Generator } from '../generation/generator.ts';
import type { TokenService } from '../generation/tokens.ts';
import type { AdapterStats, Metrics } from '../metrics/metrics.ts';
import type { SupervisedSession } from '../native/index.ts';

/** The configuration the transport reads. */
export type HttpConfig = Pick<
  Config,
  | 'bodyLimitKb'
  | 'maxHeaderKb'
  | 'maxConnections'
  | 'headersTimeoutMs'
  | 'requestTimeoutMs'
  | 'keepAliveTimeoutMs'
  | 'sseKeepAliveMs'
  | 'wsPingMs'
  | 'maxGenerationsPerSocket'
  | 'logLevel'
  | 'toolCallParser'
  | 'adapterRoot'
  | 'adapterLoadTimeoutMs'
  | 'remoteSources'
>;

/** Whether new work is accepted. */
export interface Lifecycle {
  draining: boolean;
}

export interface HttpServices {
  readonly config: HttpConfig;
  /** The base model, for /v1/models and /health. */
  readonly model: { readonly name: string; readonly created: number };
  readonly generator: Generator;
  readonly tokens: TokenService;
  /** Chats to prompts. */
  readonly chat: ChatService;
  readonly engine: Engine;
  /** The native session's health. */
  readonly session: Pick<SupervisedSession, 'report'>;
  readonly adapters: AdapterService;
  readonly residency: ResidencyControl;
  /** Which one of GET /v1/replicas is this server. */
  readonly replicaId: string;
  readonly adapterStats: () => AdapterStats;
  readonly metrics: Metrics;
  readonly lifecycle: Lifecycle;
  readonly version: string;
}

export const KIB = 1024;
