/**
 * A serving process with a faulty session: `loading` is told to stop while its model loads, `stuck`
 * has steps that neither end nor can be cancelled, and sends itself requests.
 *
 *     node --import tsx faulty-process.ts <scenario> <model folder> <data folder>
 */
import process from 'node:process';
import { loadConfig } from '../../src/config/load.ts';
import { runServer } from '../../src/main.ts';
import type { createNativeSession } from '../../src/native/index.ts';
import { Faults } from './faulty-session.ts';
import { freePort } from './redis.ts';

const [scenario, model, dataDir] = process.argv.slice(2);
const port = await freePort();
const flags = { model: model!, dataDir: dataDir!, port: String(port), stepTimeoutMs: '500' };
const config = loadConfig({ flags: { ...flags, logLevel: 'silent' }, env: {} });
const never = new Promise<never>(() => {});

const loading: typeof createNativeSession = () => {
  // Something has to keep a process alive whose load does not.
  setInterval(() => process.kill(process.pid, 'SIGTERM'), 50);
  return never;
};

const stuck: typeof createNativeSession = async (options) => {
  const faults = new Faults();
  faults.next = () => 'hang';
  const session = await faults.open(options);
  session.close = () => never;
  return session;
};

/** One after the other, until the process ends. */
async function ask(): Promise<void> {
  const request = { model: 'base', prompt: [1, 2, 3], max_tokens: 2 };
  await fetch(`http://127.0.0.1:${port}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(request),
  }).then(
    (response) => response.text(),
    () => undefined,
  );
  setTimeout(ask, 20);
}

if (scenario === 'stuck') void ask();
await runServer(
  { ...config, servedModelName: 'base' },
  { openSession: scenario === 'stuck' ? stuck : loading },
);
