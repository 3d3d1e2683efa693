/** Names, help texts, labels and buckets of all metrics. Names follow vLLM's where it has one. */

export const PREFIX = 'loramux_';

/** Seconds; from one decode step of a tiny model to a long generation. */
export const LATENCY_BUCKETS_S = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300,
];

/** Counters that mirror running totals of the engine: name, help. */
export const ENGINE_COUNTERS = {
  steps: ['engine_steps_total', 'Native steps.'],
  preparedSteps: [
    'engine_prepared_steps_total',
    'Native steps that were packed while the one before them ran.',
  ],
  sequences: ['engine_step_sequences_total', 'Sequences, summed over steps.'],
  adapters: ['engine_step_adapters_total', 'Distinct adapters, summed over steps.'],
  nativeSeconds: ['engine_native_seconds_total', 'Time in native steps.'],
  outsideSeconds: [
    'engine_outside_native_seconds_total',
    'Time from one step result to the next dispatch: commit, plan, pack.',
  ],
  gapSeconds: [
    'engine_step_gap_seconds_total',
    'Time the step thread waited between steps that followed each other at once.',
  ],
  maskWaitSeconds: [
    'engine_mask_wait_seconds_total',
    'Time that steps waited for the tokens that constrained requests may use.',
  ],
  preemptions: ['num_preemptions_total', 'Sequences preempted for lack of KV blocks.'],
  prefixQueries: ['prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache.'],
  prefixHits: ['prefix_cache_hits_total', 'Prompt tokens found in the prefix cache.'],
  promptTokens: ['prompt_tokens_total', 'Prompt tokens of admitted requests.'],
  generationTokens: ['generation_tokens_total', 'Generated tokens.'],
} as const;

export const GRAMMAR_COUNTERS = {
  compiles: ['grammar_compiles_total', 'Grammars prepared.'],
  compileSeconds: ['grammar_compile_seconds_total', 'Time it took.'],
  hits: ['grammar_hits_total', 'Constrained requests whose grammar was ready.'],
  failures: ['grammar_failures_total', 'Constrained requests whose grammar was refused or lost.'],
} as const;

export const GRAMMAR_GAUGES = {
  cached: ['grammars_cached', 'Prepared grammars.'],
  waiting: ['grammar_requests_waiting', 'Requests that wait for their grammar.'],
} as const;

export const ENGINE_GAUGES = {
  running: ['num_requests_running', 'Sequences in the batch.'],
  waiting: ['num_requests_waiting', 'Sequences that wait for the batch.'],
  blocksTotal: ['kv_cache_blocks', 'KV blocks of the pool.'],
  blocksUsed: ['kv_cache_blocks_used', 'KV blocks that sequences hold.'],
  blocksCached: ['kv_cache_blocks_cached', 'Free KV blocks that hold a reusable prefix.'],
  usage: ['kv_cache_usage_perc', 'Share of the KV blocks in use, 0 to 1.'],
  adaptersMax: ['engine_step_adapters_max', 'Most distinct adapters in one step so far.'],
  sequencesMax: ['engine_step_sequences_max', 'Most sequences in one step so far.'],
} as const;

export const SESSION_GAUGES = {
  up: ['session_up', '1 while a native session is at work, 0 while it is restarted or has failed.'],
} as const;

export const SESSION_COUNTERS = {
  restarts: ['session_restarts_total', 'Native sessions that took the place of one at fault.'],
} as const;

export const ADAPTER_GAUGES = {
  registered: ['adapters_registered', 'Adapters with a name.'],
  damaged: ['adapters_damaged', 'Names whose stored content failed its check.'],
  generations: ['adapter_generations', 'Distinct contents that names and requests keep.'],
  storedBytes: ['adapter_stored_bytes', 'Bytes of their files.'],
  resident: ['adapters_resident', 'Adapters in a slot of the native session.'],
  inUse: ['adapters_in_use', 'Resident adapters that the batch uses.'],
  pinned: ['adapters_pinned', 'Adapters that are kept in their slot, loaded or on their way.'],
  loading: ['adapters_loading', 'Adapters on their way into a slot.'],
  waiting: ['adapters_waiting', 'Adapters that wait for a slot.'],
  slots: ['adapter_slots', 'Adapter slots of the native session.'],
  residentBytes: ['adapter_resident_bytes', 'Bytes of resident adapters.'],
  memoryBytes: ['adapter_memory_bytes', 'Bytes that resident adapters may take.'],
  hostEntries: ['adapters_host', 'Adapters in host memory.'],
  hostBytes: ['adapter_host_bytes', 'Bytes of adapters in host memory.'],
  hostMaxBytes: ['adapter_host_max_bytes', 'Bytes that adapters in host memory may take.'],
  diskFiles: ['adapters_disk', 'Adapter files on local disk.'],
  diskBytes: ['adapter_disk_bytes', 'Bytes of adapter files on local disk.'],
} as const;

export const ADAPTER_COUNTERS = {
  hits: ['adapter_hits_total', 'Requests admitted whose adapter was resident.'],
  misses: ['adapter_misses_total', 'Requests that had to wait for the load of their adapter.'],
  loadFailures: ['adapter_load_failures_total', 'Adapter loads that failed.'],
  evictions: ['adapter_evictions_total', 'Adapters evicted from a slot.'],
  hostHits: ['adapter_host_hits_total', 'Loads that found their adapter in host memory.'],
  diskEvictions: [
    'adapter_disk_evictions_total',
    'Adapter files removed from local disk for room.',
  ],
} as const;

export const REGISTRY_GAUGES = {
  lag: ['registry_lag_seconds', 'Time since what is known of the registry was last complete.'],
} as const;

export const REGISTRY_COUNTERS = {
  reconciles: ['registry_reconciles_total', 'Readings of the registry that succeeded.'],
  events: ['registry_events_total', 'Notices of changes of the registry.'],
  errors: ['registry_errors_total', 'Commands to the registry that failed.'],
} as const;

/** One series per state, of which exactly one is 1. */
export const REGISTRY_STATES = ['connecting', 'ok', 'degraded', 'lost'] as const;

/** Where a load found its bytes. */
export const LOAD_TIERS = ['host', 'disk', 'registry'] as const;

/** Levels of adapters in memory. */
export const MEMORY_LEVELS = ['device', 'host'] as const;

/** Names that lead to one generation and get a sample each; the rest of them do not. */
export const NAMES_PER_GENERATION_MAX = 8;

/** Names listed in one label of `lora_requests_info`. */
export const INFO_NAMES_MAX = 256;
