// Debian packages that building and testing need, installed where this process may.
import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';

/** Asked by Debian's package scripts before they start a service. */
const SERVICE_POLICY = '/usr/sbin/policy-rc.d';

const quiet = (command, ...args) => spawnSync(command, args, { stdio: 'ignore' }).status === 0;

/** Whether the command is there and runs. */
export function has(command) {
  return quiet(command, '--version');
}

/** Runs `body` so that no package starts its service, unless the machine has its own rule for that. */
function withoutServices(body) {
  let made = false;
  try {
    writeFileSync(SERVICE_POLICY, '#!/bin/sh\nexit 101\n', { flag: 'wx', mode: 0o755 });
    made = true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
  try {
    return body();
  } finally {
    if (made) rmSync(SERVICE_POLICY, { force: true });
  }
}

/** Installs packages and says so; false where this process may not, or apt fails. */
export function installPackages(packages) {
  if (process.getuid() !== 0 || !has('apt-get')) return false;
  console.log(`Installing Debian packages: ${packages.join(' ')} ...`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const apt = (...args) => spawnSync('apt-get', args, { stdio: 'inherit', env }).status === 0;
  return withoutServices(
    () => apt('update') && apt('install', '-y', '--no-install-recommends', ...packages),
  );
}

/** Undefined when the tests can start redis-server; otherwise why not and what to do. */
export function ensureRedisServer() {
  if (has('redis-server')) return undefined;
  if (installPackages(['redis-server']) && has('redis-server')) {
    // The tests start their own; this one was installed for them, not to run at every boot.
    quiet('systemctl', 'disable', 'redis-server.service');
    return undefined;
  }
  return (
    'The tests need a real Redis, but there is no redis-server on the PATH and it could not be ' +
    'installed from here.\nOn Debian or Ubuntu, as root: apt-get install -y redis-server\n' +
    '(the tests start it themselves on free ports; its system service is not used).'
  );
}
