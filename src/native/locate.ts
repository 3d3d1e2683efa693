/** Where the native parts are on this machine. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LoramuxError } from '../errors.ts';

/** Overrides the library of the onnxruntime-node package. */
export const ORT_LIBRARY_VARIABLE = 'LORAMUX_ORT_LIBRARY';
/** Overrides the addon; tried alone when set. */
export const ADDON_VARIABLE = 'LORAMUX_NATIVE_ADDON';

const packageRoot = fileURLToPath(new URL('../..', import.meta.url));

/** Absolute paths where the addon may be, best first. */
export function addonCandidates(env: NodeJS.ProcessEnv = process.env): string[] {
  const override = env[ADDON_VARIABLE];
  if (override !== undefined && override !== '') return [resolve(override)];
  return ['Release', 'Debug'].map((config) => join(packageRoot, 'build', config, 'loramux.node'));
}

/**
 * Absolute path of ONNX Runtime's shared library.
 * @throws LoramuxError native_addon_missing
 */
export function locateOrtLibrary(env: NodeJS.ProcessEnv = process.env): string {
  const override = env[ORT_LIBRARY_VARIABLE];
  if (override !== undefined && override !== '') {
    const path = resolve(override);
    if (existsSync(path)) return path;
    throw new LoramuxError(
      'native_addon_missing',
      `${ORT_LIBRARY_VARIABLE} names ${path}, which does not exist. Correct or unset it.`,
    );
  }
  const folder = ortPackageFolder();
  const path = join(
    folder,
    'bin',
    'napi-v6',
    process.platform,
    process.arch,
    'libonnxruntime.so.1',
  );
  if (existsSync(path)) return path;
  throw new LoramuxError(
    'native_addon_missing',
    `onnxruntime-node has no library for ${process.platform} ${process.arch}: ${path} does not ` +
      `exist. Run npm ci, or set ${ORT_LIBRARY_VARIABLE} to a libonnxruntime.so.1 of version 1.22 ` +
      'or later.',
  );
}

function ortPackageFolder(): string {
  try {
    return dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json'));
  } catch (cause) {
    throw new LoramuxError(
      'native_addon_missing',
      `The package onnxruntime-node is not installed. Run npm ci, or set ${ORT_LIBRARY_VARIABLE}.`,
      { cause },
    );
  }
}
