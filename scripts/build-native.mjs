// Builds the native addon into build/Release/loramux.node when its sources changed.
//   node scripts/build-native.mjs            the addon
//   node scripts/build-native.mjs --tests    also the kernel tests
//   node scripts/build-native.mjs --tests --run   and runs them; ends with "N passed, N failed"
//   node scripts/build-native.mjs --bench    also the programs of the benchmarks
//   --force builds even when nothing changed, --debug makes build/Debug instead,
//   --install-packages installs missing Debian packages where this process may
// Needs no network: Node's headers come from the package node-api-headers.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { has, installPackages } from './packages.mjs';

const require = createRequire(import.meta.url);
const root = fileURLToPath(new URL('..', import.meta.url));
const kernels = path.join(root, 'kernels');
const build = path.join(root, 'build');
const lock = path.join(build, '.lock');

const LOCK_WAIT_MS_MAX = 20 * 60_000;
const LOCK_POLL_MS = 500;
/** Folders that only the kernel tests and the benchmarks use. */
const TEST_FOLDERS = new Set(['test', 'bench']);
const KNOWN_FLAGS = new Set([
  '--tests',
  '--run',
  '--bench',
  '--force',
  '--debug',
  '--install-packages',
]);

const flags = new Set(process.argv.slice(2));
const config = flags.has('--debug') ? 'Debug' : 'Release';
const addon = path.join(build, config, 'loramux.node');
const stamp = path.join(build, config, 'loramux.stamp');

class BuildError extends Error {}

function walk(folder, files = []) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory()) {
      if (folder !== kernels || !TEST_FOLDERS.has(entry.name)) walk(full, files);
    } else if (!entry.name.endsWith('.md')) {
      files.push(full);
    }
  }
  return files;
}

/** Everything the addon is made from, as one digest. */
function sourceDigest() {
  const hash = createHash('sha256');
  for (const file of [...walk(kernels), fileURLToPath(import.meta.url)].sort()) {
    hash.update(path.relative(root, file)).update('\0').update(fs.readFileSync(file)).update('\0');
  }
  for (const name of ['node-addon-api', 'node-api-headers', 'cmake-js']) {
    hash.update(`${name}@${require(`${name}/package.json`).version}\0`);
  }
  return hash.update(`${process.arch} ${config}`).digest('hex');
}

const readIfThere = (file) => (fs.existsSync(file) ? fs.readFileSync(file, 'utf8') : undefined);

function requireTools() {
  const missing = [];
  if (!has('cmake')) missing.push(['cmake (3.22 or later)', 'cmake']);
  if (!has('g++') && !has('clang++')) missing.push(['a C++20 compiler', 'g++']);
  if (!has('ninja') && !has('make')) missing.push(['ninja or make', 'ninja-build']);
  if (missing.length === 0) return;
  const packages = missing.map(([, name]) => name);
  if (flags.has('--install-packages') && installPackages(packages)) return;
  throw new BuildError(
    `The native addon must be built, but this machine lacks ${missing.map(([what]) => what).join(', ')}.\n` +
      `On Debian or Ubuntu: apt-get install -y ${missing.map(([, name]) => name).join(' ')}`,
  );
}

function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: 'inherit' });
    child.once('error', (error) => reject(new BuildError(`${command}: ${error.message}`)));
    child.once('exit', (code, signal) => {
      if (code === 0) resolve();
      else reject(new BuildError(`${path.basename(command)} ended with ${code ?? signal}.`));
    });
  });
}

/** A build folder that was configured from another place (a moved or copied checkout) is useless. */
function dropForeignCache() {
  const cache = readIfThere(path.join(build, 'CMakeCache.txt'));
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(cache ?? '')?.[1];
  if (home === undefined || path.resolve(home) === path.resolve(kernels)) return;
  fs.rmSync(path.join(build, 'CMakeCache.txt'), { force: true });
  fs.rmSync(path.join(build, 'CMakeFiles'), { force: true, recursive: true });
}

async function compile(targets) {
  dropForeignCache();
  const cmakeJs = path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin/cmake-js');
  await run(process.execPath, [
    cmakeJs,
    'configure',
    ...['--directory', kernels, '--out', build, '--log-level', 'error'],
    ...(config === 'Debug' ? ['--debug'] : []),
    `--CDLORAMUX_BUILD_TESTS=${flags.has('--tests') || flags.has('--bench') ? 'ON' : 'OFF'}`,
  ]);
  const jobs = String(os.availableParallelism());
  await run('cmake', ['--build', build, '--parallel', jobs, '--target', ...targets]);
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** One build at a time in this checkout; the lock of a process that died is taken over. */
async function withLock(body) {
  fs.mkdirSync(build, { recursive: true });
  const deadline = Date.now() + LOCK_WAIT_MS_MAX;
  let told = false;
  for (;;) {
    try {
      fs.writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const holder = Number(readIfThere(lock));
    if (holder > 0 && !isAlive(holder)) {
      fs.rmSync(lock, { force: true });
      continue;
    }
    if (Date.now() > deadline) {
      throw new BuildError(`Another build holds ${lock} for too long; remove it if none runs.`);
    }
    if (!told) console.log(`Waiting for another build (process ${holder}) to finish ...`);
    told = true;
    await sleep(LOCK_POLL_MS);
  }
  try {
    return await body();
  } finally {
    fs.rmSync(lock, { force: true });
  }
}

async function buildAddon() {
  const digest = sourceDigest();
  if (!flags.has('--force') && fs.existsSync(addon) && readIfThere(stamp) === digest) return false;
  console.log('Building the native addon; the first time takes about a minute ...');
  requireTools();
  fs.rmSync(stamp, { force: true });
  await compile(['loramux']);
  fs.writeFileSync(stamp, digest);
  console.log(`Built ${path.relative(root, addon)}`);
  return true;
}

async function main() {
  for (const flag of flags) {
    if (!KNOWN_FLAGS.has(flag)) throw new BuildError(`Unknown option ${flag}`);
  }
  await withLock(async () => {
    await buildAddon();
    if (flags.has('--tests')) {
      requireTools();
      await compile(['loramux_kernel_tests']);
    }
    if (flags.has('--bench')) {
      requireTools();
      await compile(
        ['ceiling', 'kernel_bench', 'packed_bench', 'attention_bench', 'lora_bench'].map(
          (name) => `loramux_${name}`,
        ),
      );
    }
  });
  if (flags.has('--run')) await run(path.join(build, 'loramux_kernel_tests'), []);
}

try {
  await main();
} catch (error) {
  if (!(error instanceof BuildError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
