/**
 * PEFT directory to canonical file. Runs in a worker thread, so file access is synchronous; memory
 * is bounded by two chunks and the header whatever the adapter's size.
 */
import { createHash, type Hash } from 'node:crypto';
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { type ErrorCode, LoramuxError } from '../../errors.ts';
import {
  parseSafetensorsHeader,
  type SafetensorsHeader,
} from '../../importer/safetensors/header.ts';
import type { NamedTemplates } from '../../jinja/named-templates.ts';
import { LORA_MODULES, type LoraDtype } from '../../native/addon-types.ts';
import {
  baseShapesDigest,
  buildCanonicalHeader,
  CANONICAL_DTYPE_BYTES,
  type CanonicalDtype,
  type CanonicalModule,
  MAX_ADAPTER_HEADER_BYTES,
  residentBytesOf,
} from '../formats/canonical-file.ts';
import {
  MAX_TEMPLATE_BYTES,
  MAX_TOKENIZER_CONFIG_BYTES,
  readChatTemplates,
  TEMPLATE_FILE,
  TOKENIZER_CONFIG_FILE,
  templatesMetadata,
} from '../formats/chat-templates.ts';
import { MAX_CONFIG_BYTES, parsePeftConfig } from '../formats/peft-config.ts';
import { type MatchModule, matchModules } from '../formats/peft-match.ts';
import { explainTensors, type ModuleTensors, type NamedTensor } from '../formats/peft-tensors.ts';
import type { ChatFilePaths } from '../service-types.ts';
import { openSource, readFully, type SourceFile } from './source-file.ts';
import { isFiniteBits, magnitudeOf, maxMagnitudeBits, widen } from './tensor-scan.ts';

/** Bytes of tensor data in memory at a time (twice that for files that mix dtypes). */
const CHUNK_BYTES = 1024 * 1024;
const LENGTH_BYTES = 8;
const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';

export interface ConvertLimits {
  readonly maxRank: number;
  readonly maxAdapterBytes: number;
  /** Adapter memory of the session; larger adapters are refused at once. */
  readonly maxResidentBytes: number;
  /** Of adapters in slots; default float32. */
  readonly loraDtype?: LoraDtype | undefined;
}

export interface ConvertJob extends ChatFilePaths {
  readonly configPath: string;
  readonly weightsPath: string;
  /** Folder that both files must really lie in. */
  readonly root: string | undefined;
  /** Created; must not exist. */
  readonly outPath: string;
  readonly limits: ConvertLimits;
}

export interface ConvertResult {
  /** SHA-256 of the canonical file. */
  readonly digest: string;
  readonly fileBytes: number;
  readonly headerBytes: number;
  /** SHA-256 of the length field and header: the cheap check at start. */
  readonly headerDigest: string;
  /** Largest rank. */
  readonly rank: number;
  readonly residentBytes: number;
  /** In the order of LORA_MODULES. */
  readonly targetModules: string[];
  /** Only where it has a chat template of its own. */
  readonly hasChatTemplate?: true;
}

/**
 * @throws LoramuxError every content code of an adapter; adapter_too_large, adapter_never_fits,
 *   adapter_path_forbidden, adapter_upload_incomplete.
 */
export function convert(job: ConvertJob, modules: readonly MatchModule[]): ConvertResult {
  const config = parsePeftConfig(
    readSmall(job.configPath, CONFIG, job.root, MAX_CONFIG_BYTES, 'adapter_config_invalid'),
  );
  const templates = readTemplates(job);
  const source = openSource(job.weightsPath, WEIGHTS, job.root);
  try {
    if (source.bytes > job.limits.maxAdapterBytes) {
      throw new LoramuxError(
        'adapter_too_large',
        `${WEIGHTS} has ${source.bytes} bytes; the limit is ` + `${job.limits.maxAdapterBytes}.`,
      );
    }
    const header = readHeader(source);
    const targets = matchModules(config, modules);
    const pairs = explainTensors(header, targets, modules, job.limits.maxRank);
    pairs.sort((x, y) => x.target.layer - y.target.layer || x.target.module - y.target.module);
    const layout = pairs.map(canonicalModule);
    const residentBytes = residentBytesOf(layout, 'float32');
    const slotBytes = residentBytesOf(layout, job.limits.loraDtype ?? 'float32');
    if (slotBytes > job.limits.maxResidentBytes) {
      throw new LoramuxError(
        'adapter_never_fits',
        `The adapter takes ${slotBytes} bytes of adapter memory, which has ` +
          `${job.limits.maxResidentBytes} in all. Raise the limit or use a lower rank.`,
      );
    }
    return write(job, source, pairs, layout, {
      residentBytes,
      base: baseShapesDigest(modules),
      templates,
    });
  } finally {
    closeSync(source.fd);
  }
}

/** The adapter's own chat templates. @throws LoramuxError chat_template_invalid */
function readTemplates({ chatTemplatePath, tokenizerConfigPath, root }: ConvertJob) {
  const read = (file: string | undefined, name: string, bytesMax: number) =>
    file === undefined ? undefined : readSmall(file, name, root, bytesMax, 'adapter_too_large');
  return readChatTemplates({
    template: read(chatTemplatePath, TEMPLATE_FILE, MAX_TEMPLATE_BYTES),
    tokenizerConfig: read(tokenizerConfigPath, TOKENIZER_CONFIG_FILE, MAX_TOKENIZER_CONFIG_BYTES),
  });
}

/** A whole file of a few megabytes at most. */
function readSmall(
  path: string,
  name: string,
  root: string | undefined,
  bytesMax: number,
  tooLarge: ErrorCode,
): Uint8Array {
  const file = openSource(path, name, root);
  try {
    if (file.bytes > bytesMax) {
      throw new LoramuxError(
        tooLarge,
        `${name} has ${file.bytes} bytes; the limit is ${bytesMax}.`,
      );
    }
    const bytes = new Uint8Array(file.bytes);
    if (!readFully(file.fd, bytes, 0)) throw cutOff(name);
    return bytes;
  } finally {
    closeSync(file.fd);
  }
}

function readHeader(source: SourceFile): SafetensorsHeader {
  const prefix = new Uint8Array(Math.min(source.bytes, LENGTH_BYTES + 1));
  if (!readFully(source.fd, prefix, 0)) throw cutOff(WEIGHTS);
  refusePickle(prefix);
  const whole = prefix.length >= LENGTH_BYTES;
  const length = whole ? new DataView(prefix.buffer).getBigUint64(0, true) : 0n;
  // A hostile length is not allocated; the parser below refuses it by the same limit.
  const readable = length > BigInt(MAX_ADAPTER_HEADER_BYTES) ? 0 : Number(length);
  const bytes = new Uint8Array(Math.min(LENGTH_BYTES + readable, source.bytes));
  if (!readFully(source.fd, bytes, 0)) throw cutOff(WEIGHTS);
  return parseSafetensorsHeader(bytes, source.bytes, {
    label: WEIGHTS,
    maxHeaderBytes: MAX_ADAPTER_HEADER_BYTES,
  });
}

/** torch.save writes a zip archive or, formerly, a bare pickle of protocol 2 to 5. */
function refusePickle(prefix: Uint8Array): void {
  const isZip = prefix[0] === 0x50 && prefix[1] === 0x4b && prefix[2] === 3 && prefix[3] === 4;
  const isPickle = prefix[0] === 0x80 && prefix[1]! >= 2 && prefix[1]! <= 5;
  if ((isZip || isPickle) && prefix[LENGTH_BYTES] !== 0x7b) {
    throw new LoramuxError(
      'adapter_pickle_refused',
      'The weights are a pickle file, which can run code and is never read. Save the adapter as ' +
        'safetensors (save_pretrained does so by default).',
    );
  }
}

function canonicalModule({ target, a, b }: ModuleTensors): CanonicalModule {
  const { layer, module, rank, scale, inFeatures, outFeatures } = target;
  if (!Number.isFinite(Math.fround(scale))) {
    throw new LoramuxError(
      'adapter_not_finite',
      `The scale of ${target.path} is ${scale}, which is not finite in float32.`,
    );
  }
  // One dtype per pair: where they differ, both become float32, which holds either exactly.
  const dtype = a.tensor.dtype === b.tensor.dtype ? (a.tensor.dtype as CanonicalDtype) : 'F32';
  return { layer, module, rank, scale, dtype, inFeatures, outFeatures };
}

function write(
  job: ConvertJob,
  source: SourceFile,
  pairs: readonly ModuleTensors[],
  layout: readonly CanonicalModule[],
  facts: { residentBytes: number; base: string; templates: NamedTemplates },
): ConvertResult {
  const metadata = templatesMetadata(facts.templates);
  const header = buildCanonicalHeader(layout, facts.base, metadata);
  if (header.bytes.length > MAX_ADAPTER_HEADER_BYTES) {
    throw new LoramuxError('adapter_too_large', 'The adapter has too many tensors.');
  }
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
  const sink = new Sink(openSync(job.outPath, flags, 0o640));
  try {
    sink.write(header.bytes);
    const copier = new Copier(source, sink);
    pairs.forEach(({ target, a, b }, i) => {
      const { dtype, scale } = layout[i]!;
      copier.copy(a, dtype);
      const peak = copier.copy(b, dtype);
      if (!Number.isFinite(Math.fround(peak * scale))) {
        throw new LoramuxError(
          'adapter_not_finite',
          `The scale of ${target.path} times its lora_B is not finite in float32.`,
        );
      }
    });
  } finally {
    sink.close();
  }
  if (sink.bytes !== header.fileBytes) throw new Error('canonical file size is wrong');
  const changed = new Set(layout.map((m) => m.module));
  return {
    digest: sink.digest(),
    fileBytes: header.fileBytes,
    headerBytes: header.bytes.length,
    headerDigest: createHash('sha256').update(header.bytes).digest('hex'),
    rank: layout.reduce((max, m) => Math.max(max, m.rank), 0),
    residentBytes: facts.residentBytes,
    targetModules: LORA_MODULES.filter((_, i) => changed.has(i)),
    ...(facts.templates.size > 0 && { hasChatTemplate: true }),
  };
}

/** Writes and hashes. */
class Sink {
  bytes = 0;
  readonly #fd: number;
  readonly #hash: Hash = createHash('sha256');

  constructor(fd: number) {
    this.#fd = fd;
  }

  write(chunk: Uint8Array): void {
    this.#hash.update(chunk);
    for (let done = 0; done < chunk.length; ) done += writeSync(this.#fd, chunk, done);
    this.bytes += chunk.length;
  }

  close(): void {
    closeSync(this.#fd);
  }

  digest(): string {
    return this.#hash.digest('hex');
  }
}

/** Copies tensors chunk by chunk; what is checked is what is written. */
class Copier {
  readonly #source: SourceFile;
  readonly #sink: Sink;
  readonly #chunk = new Uint8Array(CHUNK_BYTES);
  #wide: Uint8Array | undefined;

  constructor(source: SourceFile, sink: Sink) {
    this.#source = source;
    this.#sink = sink;
  }

  /** Returns the largest magnitude among the elements. */
  copy({ name, tensor }: NamedTensor, as: CanonicalDtype): number {
    const dtype = tensor.dtype as CanonicalDtype;
    let peak = 0;
    for (let at = tensor.begin; at < tensor.end; at += CHUNK_BYTES) {
      const chunk = this.#chunk.subarray(0, Math.min(CHUNK_BYTES, tensor.end - at));
      if (!readFully(this.#source.fd, chunk, at)) throw cutOff(WEIGHTS);
      const bits = maxMagnitudeBits(dtype, chunk);
      if (!isFiniteBits(dtype, bits)) {
        throw new LoramuxError(
          'adapter_not_finite',
          `Tensor ${JSON.stringify(name)} has NaN or infinite values.`,
        );
      }
      peak = Math.max(peak, magnitudeOf(dtype, bits));
      this.#sink.write(dtype === as ? chunk : this.#widened(dtype, chunk));
    }
    return peak;
  }

  #widened(dtype: CanonicalDtype, chunk: Uint8Array): Uint8Array {
    const factor = CANONICAL_DTYPE_BYTES.F32 / CANONICAL_DTYPE_BYTES[dtype];
    this.#wide ??= new Uint8Array(CHUNK_BYTES * factor);
    return widen(dtype, chunk, this.#wide);
  }
}

function cutOff(name: string): LoramuxError {
  return new LoramuxError(
    'adapter_upload_incomplete',
    `${name} became shorter while it was read. Send it again.`,
  );
}
