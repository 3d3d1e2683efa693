/** Names, help texts, labels and buckets of all metrics. Names follow vLLM's where it has one. */

export const PREFIX = 'loramux_';

/** Seconds; from one decode step of a tiny model to a long generation. */
export const LATENCY_BUCKETS_S = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300,
];

/** Counters that mirror running totals of the engine: name, help. */
export const ENGINE_COUNTERS = {
  steps: ['engine_steps_total', 'Native steps.'],
  sequences: ['engine_step_sequences_total', 'Sequences, summed over steps.'],
  adapters: ['engine_step_adapters_total', 'Distinct adapters, summed over steps.'],
  nativeSeconds: ['engine_native_seconds_total', 'Time in native steps.'],
  outsideSeconds: [
    'engine_outside_native_seconds_total',
    'Time from one step result to the next dispatch: commit, plan, pack.',
  ],
  preemptions: ['num_preemptions_total', 'Sequences preempted for lack of KV blocks.'],
  prefixQueries: ['prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache.'],
  prefixHits: ['prefix_cache_hits_total', 'Prompt tokens found in the prefix cache.'],
  promptTokens: ['prompt_tokens_total', 'Prompt tokens of admitted requests.'],
  generationTokens: ['generation_tokens_total', 'Generated tokens.'],
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

export const ADAPTER_GAUGES = {
  registered: ['adapters_registered', 'Adapters with a name.'],
  resident: ['adapters_resident', 'Adapters in a slot of the native session.'],
  slots: ['adapter_slots', 'Adapter slots of the native session.'],
  residentBytes: ['adapter_resident_bytes', 'Bytes of resident adapters.'],
} as const;

export const ADAPTER_COUNTERS = {
  loads: ['adapter_loads_total', 'Adapters loaded into a slot.'],
  loadFailures: ['adapter_load_failures_total', 'Adapter loads that failed.'],
  evictions: ['adapter_evictions_total', 'Adapters evicted from a slot.'],
} as const;
