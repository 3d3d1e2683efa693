// `npm test`: builds the native module, makes sure of redis-server, lints, type-checks, runs the
// kernel tests and all vitest suites, and closes with one line, "N passed, N failed". Arguments go to
// vitest and skip the rest (`npm test -- test/unit/kvcache`).
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { ensureRedisServer } from './packages.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = (name) => path.join(root, 'node_modules', '.bin', name);
const filters = process.argv.slice(2);
const totals = { passed: 0, failed: 0, skipped: 0 };

function run(command, args, onOutput) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      stdio: ['ignore', onOutput === undefined ? 'inherit' : 'pipe', 'inherit'],
    });
    child.stdout?.setEncoding('utf8').on('data', (text) => {
      process.stdout.write(text);
      onOutput(text);
    });
    child.once('error', (error) => {
      console.error(`${command}: ${error.message}`);
      resolve(1);
    });
    child.once('exit', (code) => resolve(code ?? 1));
  });
}

/** One pass-or-fail check that is not a test suite of its own. */
async function check(label, command, args) {
  console.log(`\n== ${label}`);
  const ok = (await run(command, args)) === 0;
  totals[ok ? 'passed' : 'failed'] += 1;
  if (!ok) console.error(`${label}: FAILED`);
  return ok;
}

async function kernelTests() {
  console.log('\n== kernels');
  let output = '';
  const code = await run(
    process.execPath,
    ['scripts/build-native.mjs', '--tests', '--run'],
    (t) => {
      output += t;
    },
  );
  const line = /(\d+) passed, (\d+) failed/.exec(output);
  totals.passed += line === null ? 0 : Number(line[1]);
  totals.failed += line === null ? 1 : Number(line[2]);
  if (code !== 0 && (line === null || line[2] === '0')) totals.failed += 1;
}

async function vitest() {
  console.log('\n== vitest');
  const folder = mkdtempSync(path.join(tmpdir(), 'loramux-test-'));
  const report = path.join(folder, 'report.json');
  const code = await run(bin('vitest'), [
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    ...filters,
  ]);
  try {
    const result = JSON.parse(readFileSync(report, 'utf8'));
    totals.passed += result.numPassedTests;
    totals.failed += result.numFailedTests;
    totals.skipped += result.numPendingTests + result.numTodoTests;
    // A suite that fails to load has no failed test of its own, and still must fail the run.
    if (code !== 0 && result.numFailedTests === 0) totals.failed += 1;
  } catch (error) {
    console.error(`vitest left no report: ${error.message}`);
    totals.failed += 1;
  }
  rmSync(folder, { recursive: true, force: true });
}

function redisServer() {
  const missing = ensureRedisServer();
  if (missing === undefined) return true;
  console.error(`\n${missing}`);
  totals.failed += 1;
  return false;
}

const redis = redisServer();
const s3 = await check('S3 server', process.execPath, [
  'scripts/s3-server.mjs',
  '--install-packages',
]);
const python = await check('Python clients', process.execPath, [
  'scripts/python-clients.mjs',
  '--install-packages',
]);
const built = await check('native module', process.execPath, [
  'scripts/build-native.mjs',
  '--install-packages',
]);
if (filters.length === 0) {
  await check('lint', bin('biome'), ['check', '.']);
  await check('types', bin('tsc'), ['--noEmit']);
  // With its declarations, as the package is built: what only an export cannot name shows here.
  await check('types of the package', bin('tsc'), ['-p', 'tsconfig.build.json', '--noEmit']);
  if (built) await kernelTests();
}
if (built && redis && s3 && python) await vitest();

console.log(`\n${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
process.exitCode = totals.failed === 0 && totals.passed > 0 ? 0 : 1;
