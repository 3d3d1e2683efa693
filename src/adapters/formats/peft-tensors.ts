/**
 * Accounts for every tensor of adapter_model.safetensors: each targeted module has its pair of the
 * right shape, and nothing else is in the file. Names: `peft/utils/save_and_load.py`.
 */
import { LoramuxError } from '../../errors.ts';
import type { SafetensorsHeader, SafetensorsTensor } from '../../importer/safetensors/header.ts';
import { isCanonicalDtype } from './canonical-file.ts';
import type { MatchedModule, MatchModule } from './peft-match.ts';

export interface ModuleTensors {
  readonly target: MatchedModule;
  readonly a: NamedTensor;
  readonly b: NamedTensor;
}

export interface NamedTensor {
  readonly name: string;
  readonly tensor: SafetensorsTensor;
}

const PREFIX = 'base_model.model.';
/** The adapter's own name is stripped by PEFT's save_pretrained but not by older tools. */
const LORA_TENSOR = /^(.+)\.lora_([AB])(?:\.([^.]+))?\.weight$/;
const EMBEDDING_PART = /(^|\.)(embed_tokens|lm_head)\.|\.lora_embedding_[AB](\.|$)/;

/**
 * Pairs in the order of `targets`.
 * @throws LoramuxError adapter_tensor_unexpected, adapter_module_unknown, adapter_module_missing,
 *   adapter_embedding_unsupported, adapter_shape_mismatch, adapter_rank_exceeded,
 *   safetensors_dtype_unsupported.
 */
export function explainTensors(
  header: SafetensorsHeader,
  targets: readonly MatchedModule[],
  modules: readonly MatchModule[],
  maxRank: number,
): ModuleTensors[] {
  const found = collect(header, targets, modules);
  return targets.map((target) => {
    const a = found.get(`${target.path} A`);
    const b = found.get(`${target.path} B`);
    if (a === undefined || b === undefined) {
      throw new LoramuxError(
        'adapter_module_missing',
        `target_modules selects ${target.path}, but the file has no ` +
          `${PREFIX}${target.path}.lora_${a === undefined ? 'A' : 'B'}.weight.`,
      );
    }
    checkPair(target, a, b, maxRank);
    return { target, a, b };
  });
}

function collect(
  header: SafetensorsHeader,
  targets: readonly MatchedModule[],
  modules: readonly MatchModule[],
): ReadonlyMap<string, NamedTensor> {
  const targeted = new Set(targets.map((target) => target.path));
  const known = new Set(modules.map((module) => module.path));
  const found = new Map<string, NamedTensor>();
  let adapterName: string | undefined;
  let first = true;
  for (const [name, tensor] of header.tensors) {
    const shown = quote(name);
    if (EMBEDDING_PART.test(name)) {
      throw new LoramuxError(
        'adapter_embedding_unsupported',
        `The file has ${shown}; embeddings and the output head cannot be adapted here.`,
      );
    }
    const match = name.startsWith(PREFIX) ? LORA_TENSOR.exec(name.slice(PREFIX.length)) : null;
    if (match === null) throw unexpected(shown, 'it is not a lora_A or lora_B weight of a module');
    const [, path = '', letter, ownName] = match;
    if (!known.has(path)) {
      throw new LoramuxError(
        'adapter_module_unknown',
        `The file has ${shown}, but the base model has no module ${quote(path)}. ` +
          'Was the adapter trained on another architecture?',
      );
    }
    if (!targeted.has(path)) throw unexpected(shown, 'target_modules does not select its module');
    if (first) adapterName = ownName;
    first = false;
    if (ownName !== adapterName) throw unexpected(shown, 'it belongs to another adapter');
    found.set(`${path} ${letter}`, { name, tensor });
  }
  return found;
}

function checkPair(target: MatchedModule, a: NamedTensor, b: NamedTensor, maxRank: number): void {
  for (const { name, tensor } of [a, b]) {
    if (!isCanonicalDtype(tensor.dtype)) {
      throw new LoramuxError(
        'safetensors_dtype_unsupported',
        `Tensor ${quote(name)} has dtype ${tensor.dtype}; adapters must be F32, F16 or BF16.`,
      );
    }
    if (tensor.shape.length !== 2) throw misshapen(name, tensor, 'two dimensions');
  }
  const rank = a.tensor.shape[0]!;
  if (rank !== target.rank) {
    throw misshapen(a.name, a.tensor, `rank ${target.rank}, as adapter_config.json says`);
  }
  if (a.tensor.shape[1] !== target.inFeatures) {
    throw misshapen(a.name, a.tensor, `[${rank}, ${target.inFeatures}], as the base model has`);
  }
  if (b.tensor.shape[0] !== target.outFeatures || b.tensor.shape[1] !== rank) {
    throw misshapen(b.name, b.tensor, `[${target.outFeatures}, ${rank}], as the base model has`);
  }
  if (rank > maxRank) {
    throw new LoramuxError(
      'adapter_rank_exceeded',
      `${target.path} has rank ${rank}; this server accepts ranks up to ${maxRank}.`,
    );
  }
}

function misshapen(name: string, tensor: SafetensorsTensor, expected: string): LoramuxError {
  return new LoramuxError(
    'adapter_shape_mismatch',
    `Tensor ${quote(name)} has shape [${tensor.shape.join(', ')}], expected ${expected}.`,
  );
}

function unexpected(shown: string, why: string): LoramuxError {
  return new LoramuxError(
    'adapter_tensor_unexpected',
    `The file has ${shown}, which adapter_config.json does not explain: ${why}.`,
  );
}

function quote(name: string): string {
  return JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}...` : name);
}
