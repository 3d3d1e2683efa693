/**
 * Which modules a PEFT config adapts, with which rank and scale: the rules of
 * `check_target_module_exists`, `_maybe_include_all_linear_layers`, `_find_minimal_target_modules`
 * (`peft/tuners/tuners_utils.py`) and `get_pattern_key` (`peft/utils/other.py`), PEFT 0.21.
 */
import { LoramuxError } from '../../errors.ts';
import type { ModuleDescription } from '../../importer/types.ts';
import type { PeftLoraConfig } from './peft-config.ts';
import { compilePythonRegex, type PythonRegex } from './python-regex.ts';

/** Atoms of all regular expressions of one config together; bounds the time of a conversion. */
export const MAX_TOTAL_PATTERN_SIZE = 20_000;
/** From this many entries on, PEFT condenses a target list to its shortest sufficient suffixes. */
const MIN_TARGETS_TO_CONDENSE = 20;

/** A module as the rules see it: matched by path only. */
export type MatchModule = Pick<
  ModuleDescription,
  'path' | 'kind' | 'layer' | 'module' | 'inFeatures' | 'outFeatures'
>;

/** A module that the config adapts and that can be adapted here. */
export interface MatchedModule {
  readonly path: string;
  readonly layer: number;
  /** Index into LORA_MODULES. */
  readonly module: number;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** Rank by the config; the tensors must agree. */
  readonly rank: number;
  /** alpha / rank, or alpha / sqrt(rank) with rsLoRA; double. */
  readonly scale: number;
}

/**
 * The modules PEFT would adapt, in `named_modules()` order.
 * @throws LoramuxError adapter_module_unknown (also when nothing or only a part of the target list
 *   matches), adapter_embedding_unsupported, adapter_regex_unsupported.
 */
export function matchModules(
  config: PeftLoraConfig,
  modules: readonly MatchModule[],
): MatchedModule[] {
  const budget = new PatternBudget();
  checkEveryTargetExists(config, modules);
  const isTarget = targetRule(config, modules, budget);
  const rankOf = patternRule(config.rankPattern, config.rank, 'rank_pattern', budget);
  const alphaOf = patternRule(config.alphaPattern, config.alpha, 'alpha_pattern', budget);
  const matched: MatchedModule[] = [];
  for (const module of modules) {
    if (module.path === '' || !isTarget(module.path)) continue;
    const target = adaptable(module);
    const rank = rankOf(module.path);
    const alpha = alphaOf(module.path);
    matched.push({
      ...target,
      rank,
      scale: config.useRslora ? alpha / Math.sqrt(rank) : alpha / rank,
    });
  }
  if (matched.length === 0) {
    throw new LoramuxError(
      'adapter_module_unknown',
      'target_modules of adapter_config.json matches no module of the base model. ' +
        'Was the adapter trained on another architecture?',
    );
  }
  return matched;
}

/** Whether PEFT's rules select a path; exported for comparison with PEFT itself. */
export function targetRule(
  config: PeftLoraConfig,
  modules: readonly MatchModule[],
  budget = new PatternBudget(),
): (path: string) => boolean {
  const isExcluded = excludeRule(config, budget);
  const { targetModules } = config;
  if (typeof targetModules === 'string') {
    if (targetModules.toLowerCase() === 'all-linear') {
      const names = new Set(
        modules.filter((m) => m.kind === 'linear' && m.path !== OUTPUT_HEAD).map((m) => m.path),
      );
      return (path) => !isExcluded(path) && names.has(path);
    }
    const regex = budget.compile(targetModules, 'target_modules');
    return (path) => !isExcluded(path) && regex.fullMatch(path);
  }
  const targets = condense(targetModules, modules);
  const inLayers = layerRule(config, budget);
  return (path) => {
    if (isExcluded(path)) return false;
    // A full path is taken as it is; layers_to_transform limits suffixes only.
    return targets.has(path) || (hasSuffix(path, targets) && inLayers(path));
  };
}

/** First key in file order that matches decides, else the default (`get_pattern_key`). */
export function patternRule(
  pattern: ReadonlyMap<string, number>,
  fallback: number,
  field: string,
  budget = new PatternBudget(),
): (path: string) => number {
  const rules = [...pattern].map(([key, value]) => ({
    value,
    matches: /^[A-Za-z0-9_.]*$/.test(key)
      ? (path: string) => endsWithKey(path, key)
      : regexKey(budget.compile(`(.*\\.)?(${key})$`, `${field} key`)),
  }));
  return (path) => rules.find((rule) => rule.matches(path))?.value ?? fallback;
}

const regexKey =
  (regex: PythonRegex) =>
  (path: string): boolean =>
    regex.match(path) !== undefined;

/** `(.*\.)?(key)$` for a key of letters, digits, underscores and dots (any character). */
function endsWithKey(path: string, key: string): boolean {
  const start = path.length - key.length;
  if (start < 0 || (start > 0 && path[start - 1] !== '.')) return false;
  for (let i = 0; i < key.length; i++) {
    if (key[i] !== '.' && key[i] !== path[start + i]) return false;
  }
  return true;
}

/** Compiles patterns and keeps their total cost bounded. */
export class PatternBudget {
  #size = 0;

  compile(pattern: string, where: string): PythonRegex {
    const regex = compilePythonRegex(pattern, where);
    this.#size += regex.size;
    if (this.#size > MAX_TOTAL_PATTERN_SIZE) {
      throw new LoramuxError(
        'adapter_regex_unsupported',
        'The regular expressions of adapter_config.json are too large together ' +
          `(more than ${MAX_TOTAL_PATTERN_SIZE} steps). List module paths instead.`,
      );
    }
    return regex;
  }
}

const OUTPUT_HEAD = 'lm_head';

function excludeRule(config: PeftLoraConfig, budget: PatternBudget): (path: string) => boolean {
  const { excludeModules } = config;
  if (excludeModules.length === 0) return () => false;
  if (typeof excludeModules === 'string') {
    const regex = budget.compile(excludeModules, 'exclude_modules');
    return (path) => regex.fullMatch(path);
  }
  const names = new Set(excludeModules);
  return (path) => names.has(path) || hasSuffix(path, names);
}

/** `key.endswith("." + name)` for any of the names. */
function hasSuffix(path: string, names: ReadonlySet<string>): boolean {
  for (let dot = path.indexOf('.'); dot >= 0; dot = path.indexOf('.', dot + 1)) {
    if (names.has(path.slice(dot + 1))) return true;
  }
  return false;
}

function layerRule(config: PeftLoraConfig, budget: PatternBudget): (path: string) => boolean {
  const { layersToTransform, layersPattern } = config;
  if (layersToTransform === undefined) return () => true;
  const layers = new Set(layersToTransform);
  const patterns =
    layersPattern.length === 0
      ? ['.*?\\.[^.]*\\.(?P<idx>\\d+)\\.']
      : layersPattern.map((pattern) => `(?:^|.*?\\.)${pattern}\\.(?P<idx>\\d+)\\.`);
  const regexes = patterns.map((pattern) => budget.compile(pattern, 'layers_pattern'));
  return (path) => {
    for (const regex of regexes) {
      const groups = regex.match(path);
      if (groups === undefined) continue;
      const index = groups.get('idx');
      return index !== undefined && layers.has(Number(index));
    }
    return false;
  };
}

/**
 * `_find_minimal_target_modules`: matters only together with layers_to_transform, which then also
 * limits entries that were full paths before.
 */
function condense(
  targetModules: readonly string[],
  modules: readonly MatchModule[],
): ReadonlySet<string> {
  const targets = new Set(targetModules);
  if (targets.size < MIN_TARGETS_TO_CONDENSE) return targets;
  if (targets.has('')) {
    throw new LoramuxError(
      'adapter_config_invalid',
      'adapter_config.json cannot be used: target_modules has an empty entry.',
    );
  }
  const foreign = new Set<string>();
  for (const { path } of modules) {
    if (targets.has(path) || hasSuffix(path, targets)) continue;
    for (const suffix of suffixes(path)) foreign.add(suffix);
  }
  const entries = [...targets].map((target) => suffixes(target)).sort(compareLists);
  const required = new Set<string>();
  for (const candidates of entries) {
    const target = candidates.at(-1)!;
    for (const suffix of candidates) {
      if (required.has(suffix) || foreign.has(suffix)) continue;
      if (!hasSuffix(target, required)) {
        required.add(suffix);
        break;
      }
    }
  }
  return required.size === 0 || required.size >= targets.size ? targets : required;
}

/** Shortest first; the last is the whole path. */
function suffixes(path: string): string[] {
  const parts = path.split('.');
  return parts.map((_, i) => parts.slice(parts.length - 1 - i).join('.'));
}

/** Python's order of lists of strings (by code point, which for these names is by code unit). */
function compareLists(a: readonly string[], b: readonly string[]): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    if (a[i]! !== b[i]!) return a[i]! < b[i]! ? -1 : 1;
  }
  return a.length - b.length;
}

/**
 * PEFT ignores list entries and layer numbers that match nothing. Here they are a sign that the
 * adapter was made for another model, so they are refused.
 */
function checkEveryTargetExists(config: PeftLoraConfig, modules: readonly MatchModule[]): void {
  if (typeof config.targetModules !== 'string') {
    const known = new Set(modules.flatMap((module) => suffixes(module.path)));
    for (const target of config.targetModules) {
      if (target === '' || !known.has(target)) {
        throw new LoramuxError(
          'adapter_module_unknown',
          `target_modules names ${JSON.stringify(target)}, which the base model does not have. ` +
            'Was the adapter trained on another architecture? If not, delete the entry.',
        );
      }
    }
  }
  const layers = new Set(modules.map((module) => module.layer));
  for (const layer of config.layersToTransform ?? []) {
    if (!layers.has(layer)) {
      throw new LoramuxError(
        'adapter_module_unknown',
        `layers_to_transform names layer ${layer}, which the base model does not have.`,
      );
    }
  }
}

function adaptable(module: MatchModule): Omit<MatchedModule, 'rank' | 'scale'> {
  const { path, layer, module: index, inFeatures, outFeatures } = module;
  if (module.kind === 'embedding' || path === OUTPUT_HEAD) {
    throw new LoramuxError(
      'adapter_embedding_unsupported',
      `The adapter targets ${path}; embeddings and the output head cannot be adapted here.`,
    );
  }
  if (
    layer === undefined ||
    index === undefined ||
    inFeatures === undefined ||
    outFeatures === undefined
  ) {
    throw new LoramuxError(
      'adapter_module_unknown',
      `The adapter targets ${path}, which is not a linear layer that can be adapted.`,
    );
  }
  return { path, layer, module: index, inFeatures, outFeatures };
}
