/** Loads the compiled addon, or says what was tried, why it failed and what to do. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { LoramuxError } from '../errors.ts';
import type { NativeAddon } from './addon-types.ts';
import { addonCandidates } from './locate.ts';

const EXPORTS = ['probe', 'createSession', 'packWeights', 'packLevels', 'closeAllNow'] as const;

export interface AddonFailure {
  path: string;
  reason: string;
}

/** Loads a `.node` file; throws what Node throws. */
export type AddonRequire = (path: string) => unknown;

/**
 * The first candidate that loads and exports what addon-types.ts says.
 * @throws LoramuxError native_addon_missing with every failure and its remedy
 */
export function loadAddon(
  candidates: readonly string[] = addonCandidates(),
  load: AddonRequire = createRequire(import.meta.url),
): NativeAddon {
  const failures: AddonFailure[] = [];
  for (const path of candidates) {
    if (!existsSync(path)) {
      failures.push({ path, reason: 'no such file' });
      continue;
    }
    try {
      const addon = load(path);
      if (isAddon(addon)) {
        closeAtExit(addon);
        return addon;
      }
      failures.push({ path, reason: `it does not export ${EXPORTS.join(', ')}` });
    } catch (error) {
      failures.push({ path, reason: error instanceof Error ? error.message : String(error) });
    }
  }
  throw new LoramuxError('native_addon_missing', explain(failures));
}

const closedAtExit = new WeakSet<NativeAddon>();

/**
 * `process.exit` runs no cleanup of an addon, but ONNX Runtime's static state must not go while a
 * step or a load uses it.
 */
function closeAtExit(addon: NativeAddon): void {
  if (closedAtExit.has(addon)) return;
  closedAtExit.add(addon);
  process.once('exit', () => addon.closeAllNow());
}

function isAddon(value: unknown): value is NativeAddon {
  if (typeof value !== 'object' || value === null) return false;
  return EXPORTS.every((name) => typeof (value as Record<string, unknown>)[name] === 'function');
}

function explain(failures: readonly AddonFailure[]): string {
  const lines = ['The native addon could not be loaded. Tried:'];
  for (const { path, reason } of failures) lines.push(`  ${path}: ${reason}`);
  const remedies = new Set(failures.map(({ reason }) => remedy(reason)));
  lines.push('What to do:', ...[...remedies].map((text) => `  ${text}`));
  return lines.join('\n');
}

function remedy(reason: string): string {
  if (process.platform !== 'linux') return 'Run on Linux; other systems are not supported.';
  if (/GLIBC|GLIBCXX/.test(reason)) {
    return 'The addon was built on a newer system: build it here with npm run build:native -- --force.';
  }
  if (/wrong ELF class|invalid ELF header|Exec format|file too short/.test(reason)) {
    return 'The file is damaged or for another processor: npm run build:native -- --force.';
  }
  if (/does not export/.test(reason)) {
    return 'The file is not this addon or an old one: npm run build:native -- --force.';
  }
  return 'Build it: npm run build:native (needs cmake, g++ and ninja or make).';
}
