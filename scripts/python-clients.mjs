// The Python clients that tests run against the server, in a virtual environment of their own with
// the versions of test/clients/python/requirements.txt. Prints its interpreter's path.
//   node scripts/python-clients.mjs                      from the cache, or installs it there
//   node scripts/python-clients.mjs --install-packages   also installs venv where this process may
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { installPackages } from './packages.mjs';

const INSTALL_MS_MAX = 20 * 60_000;

const root = fileURLToPath(new URL('..', import.meta.url));
const requirements = path.join(root, 'test/clients/python/requirements.txt');
const digest = createHash('sha256').update(fs.readFileSync(requirements)).digest('hex');
const folder = path.join(root, `node_modules/.cache/python-clients-${digest.slice(0, 12)}`);
const interpreter = path.join(folder, 'bin', 'python');
/** Written last: an environment without it is half installed. */
const stamp = path.join(folder, 'complete');

class InstallError extends Error {}

const run = (command, args) =>
  spawnSync(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    encoding: 'utf8',
    timeout: INSTALL_MS_MAX,
  });

function makeEnvironment() {
  fs.rmSync(folder, { recursive: true, force: true });
  fs.mkdirSync(path.dirname(folder), { recursive: true });
  const make = () => run('python3', ['-m', 'venv', folder]).status === 0;
  if (make()) return;
  const packages = ['python3', 'python3-venv', 'python3-pip'];
  const installs = process.argv.includes('--install-packages');
  if (installs && installPackages(packages) && make()) return;
  throw new InstallError(
    'The tests with Python clients need Python 3.11 with venv and pip, which this machine lacks.\n' +
      `On Debian or Ubuntu: apt-get install -y ${packages.join(' ')}`,
  );
}

function install() {
  makeEnvironment();
  const flags = ['--quiet', '--disable-pip-version-check', '--no-cache-dir', '--no-deps'];
  const result = run(interpreter, ['-m', 'pip', 'install', ...flags, '-r', requirements]);
  if (result.status !== 0) {
    throw new InstallError(
      `pip could not install the Python clients of the tests (${path.relative(root, requirements)}):\n` +
        `${result.error?.message ?? ''}${result.stderr ?? ''}`,
    );
  }
  fs.writeFileSync(stamp, '');
}

try {
  if (!fs.existsSync(stamp)) install();
  console.log(interpreter);
} catch (error) {
  if (!(error instanceof InstallError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
