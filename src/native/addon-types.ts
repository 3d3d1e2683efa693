/**
 * The whole native boundary, typed in one place. Nothing outside `src/native/` touches the
 * compiled addon; every array documents its shape. Dimensions: T tokens, S sequences, G adapter
 * segments, R logit rows of one step.
 */

/**
 * Instruction sets of the kernels, as kernels/include/loramux/types.h has them: the portable one,
 * then those of x86-64 and those of arm64, weakest first.
 */
export const ISAS = [
  'scalar',
  'avx2',
  'avx_vnni',
  'avx512',
  'avx512_vnni',
  'avx512_bf16',
  'amx',
  'neon',
  'neon_dotprod',
] as const;
export type Isa = (typeof ISAS)[number];

/** Element type of adapters in slots. */
export const LORA_DTYPES = ['float32', 'bfloat16', 'int8'] as const;
export type LoraDtype = (typeof LORA_DTYPES)[number];

/** Element type of the key/value cache. */
export type KvDtype = 'f32' | 'bf16' | 'int8';

/** Linear modules an adapter can change, in the order of their module number. */
export const LORA_MODULES = [
  'q_proj',
  'k_proj',
  'v_proj',
  'o_proj',
  'gate_proj',
  'up_proj',
  'down_proj',
] as const;
export type LoraModule = (typeof LORA_MODULES)[number];

/** Formats of packed weights, in the order of their numbers: kernels/include/loramux/packed_linear.h. */
export const PACKED_FORMATS = ['bf16', 'int8', 'int4'] as const;
export type PackedFormat = (typeof PACKED_FORMATS)[number];

/** What a blob of packed weights holds: one linear layer. */
export interface PackedShape {
  format: PackedFormat;
  /** Output features. */
  n: number;
  /** Input features. */
  k: number;
  /** Inputs per weight scale; 0: one scale per output. */
  group: number;
  /** int4 only: every group has a zero point of its own. */
  zeroPoints: boolean;
  /** int8 and int4: the inputs are rotated before rounding; not when absent. */
  rotated?: boolean;
}

/** Element type of stored float tensors. */
export type FloatDtype = 'F32' | 'F16' | 'BF16';

/** Rows of a float weight to be packed. The arrays must stay as they are until it settles. */
export interface PackWeightsJob {
  shape: PackedShape;
  /** uint8: rows [firstRow, firstRow + rows) of the matrix [n, k]. */
  weights: Uint8Array;
  dtype: FloatDtype;
  /** A multiple of 16; so is `rows`, unless the last row is among them. */
  firstRow: number;
  rows: number;
  /** uint8, the whole blob, zeros at first; the panels of these rows are written. */
  blob: Uint8Array;
  threads: number;
}

/**
 * Levels of a GPTQ or AWQ checkpoint to be packed as they are. Layouts and sizes:
 * kernels/include/loramux/checkpoint_levels.h. The arrays must stay as they are until it settles.
 */
export interface PackLevelsJob {
  shape: PackedShape;
  order: 'gptq' | 'awq';
  bits: 4 | 8;
  /** Inputs per scale, at least 1. */
  group: number;
  /** Added to the stored zero points. */
  zeroOffset: 0 | 1;
  qweight: Uint8Array;
  qzeros: Uint8Array;
  scales: Uint8Array;
  scaleDtype: FloatDtype;
  /** uint8, the whole blob, zeros at first. */
  blob: Uint8Array;
  threads: number;
}

export interface PackResult {
  /** False: a weight or scale is NaN, infinite or beyond the format; the blob is void. */
  finite: boolean;
  /** Levels of -128, which int8 blobs do not hold, that became -127. */
  clamped: number;
  /** Zero points off the middle that the shape, having none, left out; the blob is void. */
  oddZeros: number;
}

/** Rotary position embedding, as the kernels need it. */
export interface RopeParameters {
  /** Float32 [rotaryDim / 2]: inverse frequencies after static scaling (linear, llama3). */
  invFreq: Float32Array;
  /** Factor on cos and sin; 1 but for scalings that change attention magnitude. */
  attentionScaling: number;
  /**
   * Dynamic NTK scaling (Hugging Face `rope_type: dynamic`): when a token's rope length L exceeds
   * `maxPositions`, base' = base * ((factor * L / maxPositions) - (factor - 1)) ** (d / (d - 2))
   * replaces the base for that token (query and key).
   */
  dynamic?: { base: number; factor: number; maxPositions: number };
}

/** Everything the native session must know about the model. */
export interface NativeModel {
  /** Serialized ONNX ModelProto (weights are external data). */
  modelBytes: Uint8Array;
  /** Absolute folder that external data locations are relative to. */
  externalDataDir: string;
  numLayers: number;
  numHeads: number;
  numKvHeads: number;
  headSize: number;
  hiddenSize: number;
  vocabSize: number;
  /** Per module number: [inFeatures, outFeatures], flattened, int32 [7 * 2]. */
  moduleShapes: Int32Array;
  rope: RopeParameters;
  /**
   * The graph's linear layers are `loramux.PackedLinear`: the operators share a step among the
   * session's own threads, and ONNX Runtime gets one. False where it is missing.
   */
  packedWeights?: boolean;
}

export interface NativeSessionOptions {
  /** Absolute path of libonnxruntime.so.1. */
  ortLibraryPath: string;
  model: NativeModel;
  /** Threads that compute a step, >= 1; the step thread is one of them. */
  intraOpThreads: number;
  /** Physical blocks of the KV pool. */
  numBlocks: number;
  /** Tokens per block; 16. */
  blockSize: number;
  kvDtype: KvDtype;
  /** Adapter slots, numbered 0 to maxSlots - 1. */
  maxSlots: number;
  /**
   * Default float32. bfloat16 halves the bytes of an adapter; other values are rounded to it, and one
   * that is too large for it fails the load. int8 halves them again: a scale for each rank and 1024
   * inputs or outputs, every value rounded to one of 255 levels.
   */
  loraDtype?: LoraDtype;
  /** Upper bounds of one step; larger packets are refused. */
  maxTokensPerStep: number;
  maxLogitRowsPerStep: number;
  /** Memory of the masks of constrained sequences; without it, rows may not name any. */
  tokenMasks?: TokenMaskMemory;
  /** Forces an instruction set (tests); default is the best the processor has. */
  isa?: Isa;
}

/**
 * Masks of the tokens that a row may sample, in memory that other threads write. Word 0 of a slot is
 * its stamp, the mask begins at word 16: bit id % 32 of word id / 32. Sampling waits for the stamp
 * that the packet expects; the stamp -1 says that none will come.
 */
export interface TokenMaskMemory {
  /** int32 [slots, stride], over a SharedArrayBuffer; kept until the session is closed. */
  words: Int32Array;
  slots: number;
  stride: number;
  /** Longest that one step waits for masks; the rows without one then fail. */
  waitMs: number;
}

/**
 * One step. The addon copies every array before `step()` returns, so callers may reuse them.
 * Arrays may be longer than needed; the counts rule.
 */
export interface StepPacket {
  numTokens: number;
  numSequences: number;
  numSegments: number;
  numRows: number;
  /** Columns of `blockTables`. */
  maxBlocksPerSequence: number;

  /** int32 [T]: packed tokens, prefill chunks and decode tokens mixed, no padding. */
  inputIds: Int32Array;
  /** int32 [T]: position of each token in its sequence. */
  positions: Int32Array;
  /** int32 [T]: length that dynamic rope scaling uses for this token (else ignored). */
  ropeLengths: Int32Array;
  /** int32 [S+1]: where each sequence's tokens begin. */
  queryStart: Int32Array;
  /** int32 [S]: tokens in the KV cache after this step. */
  contextLens: Int32Array;
  /** int32 [S, maxBlocksPerSequence]: physical block of each logical block; -1 unused. */
  blockTables: Int32Array;
  /** int32 [T]: physical KV slot (block * blockSize + offset) that each token writes. */
  slotMapping: Int32Array;
  /** int32 [C*2]: (source, destination) blocks copied in all layers before the step runs. */
  blockCopies: Int32Array;
  numBlockCopies: number;

  /** int32 [G+1]: runs of tokens that use the same adapters. */
  segmentStart: Int32Array;
  /** int32 [G+1]: each run's adapters among the E entries below; a run without any is the base's. */
  segmentAdapterStart: Int32Array;
  /** int32 [E]: slots, distinct within a run. Their deltas are added to a row in this order. */
  adapterSlot: Int32Array;
  /** float32 [E]: weight on the adapter's delta; 1 is the adapter as trained. */
  adapterScale: Float32Array;

  /** int32 [R]: token rows (0..T-1) whose logits are needed; ascending. */
  logitRows: Int32Array;
  sampling: SamplingArrays;
}

/** Struct of arrays, one entry per logit row. */
export interface SamplingArrays {
  /** int32 [R]: -1 samples a token; >= 0 scores that token instead and samples nothing. */
  targetIds: Int32Array;
  /** float32 [R]: 0 is greedy. */
  temperature: Float32Array;
  /** int32 [R]: 0 is off. */
  topK: Int32Array;
  /** float32 [R]: 1 is off. */
  topP: Float32Array;
  /** float32 [R]: 0 is off. */
  minP: Float32Array;
  /** float32 [R]: 1 is off; over prompt and output tokens (Keskar et al. 2019). */
  repetitionPenalty: Float32Array;
  /** float32 [R]: 0 is off; over output tokens (OpenAI). */
  presencePenalty: Float32Array;
  /** float32 [R]: 0 is off; over output tokens (OpenAI). */
  frequencyPenalty: Float32Array;
  /** uint32 [R*2]: 64-bit seed, low word first. */
  seed: Uint32Array;
  /** int32 [R]: tokens this sequence has generated so far; the counter of the generator. */
  sampleIndex: Int32Array;
  /**
   * int32 [R]: how many top log-probabilities to return, 0 to 20; -1 none at all: the row's
   * `logprobs` and `ranks` are 0 then, and two passes over the vocabulary are spared.
   */
  numTopLogprobs: Int32Array;
  /** int32 [R+1]: rows of `history`; empty for rows without penalties. */
  historyStart: Int32Array;
  /** int32 [H]: the sequence's tokens, prompt then output. */
  history: Int32Array;
  /** int32 [R]: how many of the row's history tokens are prompt. */
  historyPromptLength: Int32Array;
  /** int32 [R+1]: rows of `biasIds` / `biasValues`. */
  biasStart: Int32Array;
  /** int32 [N], float32 [N]: added to the logits before anything else. */
  biasIds: Int32Array;
  biasValues: Float32Array;
  /** int32 [R]: slot of the row's mask, -1 for none; [R]: the stamp the mask will have, from 1. */
  maskSlots: Int32Array;
  maskStamps: Int32Array;
}

/** `notFinite`: the row's logits were not finite; `noMask`: its mask did not come. */
export const ROW_STATUS = { good: 0, notFinite: 1, noMask: 2 } as const;

/** Largest `numTopLogprobs`. */
export const MAX_TOP_LOGPROBS = 20;

export interface StepResult {
  /** int32 [R]: the sampled (or scored) token of each row. */
  tokenIds: Int32Array;
  /** float32 [R]: its log-probability under the model (raw logits, before penalties, bias and temperature). */
  logprobs: Float32Array;
  /** int32 [R]: its rank among all tokens by raw logit, 1 is the most likely. */
  ranks: Int32Array;
  /** int32, float32 [R, MAX_TOP_LOGPROBS]: best tokens, best first; only numTopLogprobs[r] are set. */
  topIds: Int32Array;
  topLogprobs: Float32Array;
  /** uint8 [R]: a ROW_STATUS each; absent when all are good. */
  rowStatus?: Uint8Array;
  /** Milliseconds the step thread spent on this step. */
  nativeMs: number;
  /** Milliseconds from the end of the step before to the start of this one; 0 for the first. */
  gapMs: number;
  /** Milliseconds that sampling waited for masks. */
  maskWaitMs: number;
  /** Raw logits float32 [R, vocabSize]; only when `wantLogits` was passed. */
  logits?: Float32Array;
}

/** One pair of tensors of an adapter, as it is stored. */
export interface AdapterTensorPair {
  layer: number;
  /** Index into LORA_MODULES. */
  module: number;
  rank: number;
  /** Multiplied into B while loading, or kept beside it where B is bfloat16. */
  scale: number;
  dtype: FloatDtype;
  /** Absolute byte offsets in the file: A [rank, in], B [out, rank], row-major. */
  offsetA: number;
  offsetB: number;
}

export interface AdapterImage {
  /** Absolute path of the canonical adapter file. */
  path: string;
  /** Expected size of the file in bytes; a different size is refused. */
  fileBytes: number;
  /**
   * uint8 [fileBytes]: the whole file in memory; then the file itself is not read. Never copied: the
   * load thread reads it until the load settles, so it must not be changed or detached before.
   */
  bytes?: Uint8Array;
  pairs: AdapterTensorPair[];
}

export interface NativeSessionInfo {
  ortVersion: string;
  isa: Isa;
  /** Bytes of the KV pool. */
  kvBytes: number;
  loadMs: number;
}

export interface NativeSession {
  readonly info: NativeSessionInfo;
  /**
   * Queues one step; resolves when the step thread has run it. One step may be in flight.
   * Rejects with a NativeError: the step had no effect on token state, but the KV slots it named
   * may hold garbage.
   */
  step(packet: StepPacket, wantLogits?: boolean): Promise<StepResult>;
  /** Brings an adapter into an empty slot on a load thread; several may be in flight. */
  loadAdapter(slot: number, image: AdapterImage): Promise<{ bytes: number; loadMs: number }>;
  /** Frees a slot. Throws when a step in flight may read it or it is loading. */
  freeAdapter(slot: number): void;
  /**
   * Waits for the step and the loads in flight, then releases everything. Idempotent.
   * @param hurried has the step end, and fail, as soon as the graph comes to its next operator
   */
  close(hurried?: boolean): Promise<void>;
}

/** Facts about this machine and build that need no model. */
export interface NativeProbe {
  ortVersion: string;
  ortBuildInfo: string;
  /** Kernel paths this processor can run, weakest first. */
  isas: Isa[];
  /** Raw processor features of interest, e.g. avx2, fma, avx512f, avx512_bf16, amx_tile. */
  cpuFeatures: string[];
}

export interface NativeAddon {
  probe(ortLibraryPath: string): NativeProbe;
  createSession(options: NativeSessionOptions): Promise<NativeSession>;
  /** Packs weights off the JavaScript thread. */
  packWeights(job: PackWeightsJob): Promise<PackResult>;
  packLevels(job: PackLevelsJob): Promise<PackResult>;
  /**
   * Ends every session of this thread on the spot, also those still loading: cancels what is in
   * flight and waits for it, blocking. For the end of the process only.
   */
  closeAllNow(): void;
}

/** What the addon throws and rejects with. Codes are stable. */
export type NativeErrorCode =
  | 'native_ort_library'
  | 'native_ort_version'
  | 'native_model_load'
  | 'native_invalid_argument'
  | 'native_step_failed'
  | 'native_adapter_load'
  | 'native_slot_busy'
  | 'native_session_closed'
  | 'native_out_of_memory';
