/**
 * A process with native sessions that ends in the way its argument names; see lifecycle.test.ts.
 * Prints one JSON value.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as wait } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { NativeSession } from '../../src/native/index.ts';
import { fixtureImage, fixtureSession } from './native-fixtures.ts';
import { packStep } from './step-packets.ts';

const MODEL = 'llama3';
const POLL_MS = 10;
const POLLS_MAX = 12_000;
const EXIT_CODE = 7;

/** Threads of this process that a session started. */
function sessionThreads(): number {
  return readdirSync('/proc/self/task').filter((id) =>
    readFileSync(`/proc/self/task/${id}/comm`, 'utf8').startsWith('loramux'),
  ).length;
}

function residentBytes(): number {
  const pages = readFileSync('/proc/self/statm', 'utf8').split(' ')[1];
  return Number(pages) * 4096;
}

function collector(): () => void {
  setFlagsFromString('--expose_gc');
  return runInNewContext('gc') as () => void;
}

const longStep = (session: NativeSession) =>
  session.step(
    packStep([
      {
        tokens: Array.from({ length: 500 }, (_, i) => i % 300),
        cached: 0,
        blocks: [...Array(32).keys()],
      },
    ]),
  );

async function until(condition: () => boolean): Promise<boolean> {
  for (let i = 0; i < POLLS_MAX; i += 1) {
    if (condition()) return true;
    await wait(POLL_MS);
  }
  return false;
}

/** Opens and closes sessions, loads and frees adapters; answers resident bytes per round. */
async function memoryRounds(kind: string): Promise<number[]> {
  const gc = collector();
  const image = fixtureImage(MODEL, 'all-r8-rslora');
  const bytes: number[] = [];
  const kept = kind === 'adapters' ? await fixtureSession(MODEL) : undefined;
  for (let round = 0; round < 24; round += 1) {
    for (let i = 0; i < (kept === undefined ? 4 : 100); i += 1) {
      const session = kept ?? (await fixtureSession(MODEL));
      await session.loadAdapter(0, image);
      await session.step(packStep([{ tokens: [1, 2, 3], cached: 0, blocks: [0], slot: 0 }]), true);
      session.freeAdapter(0);
      if (kept === undefined) await session.close();
    }
    gc();
    await wait(0);
    gc();
    bytes.push(residentBytes());
  }
  await kept?.close();
  return bytes;
}

const scenarios: Record<string, () => Promise<unknown>> = {
  async exitInStep() {
    const session = await fixtureSession(MODEL);
    void longStep(session);
    process.exit(EXIT_CODE);
  },
  async exitInLoad() {
    void fixtureSession(MODEL);
    // The model is being read by now or soon; either way the process must end cleanly.
    await wait(1);
    process.exit(EXIT_CODE);
  },
  async exitInAdapterLoad() {
    const session = await fixtureSession(MODEL);
    const image = fixtureImage(MODEL, 'all-r8-rslora');
    const bytes = readFileSync(image.path);
    for (const slot of [0, 1]) void session.loadAdapter(slot, image);
    for (const slot of [2, 3]) void session.loadAdapter(slot, { ...image, bytes });
    process.exit(EXIT_CODE);
  },
  async forgotten() {
    const session = await fixtureSession(MODEL);
    await longStep(session);
    return 'done';
  },
  async collected() {
    const gc = collector();
    await (async () => {
      const sessions = await Promise.all([fixtureSession(MODEL), fixtureSession(MODEL)]);
      await longStep(sessions[0]);
      void longStep(sessions[1]);
    })();
    const before = sessionThreads();
    const ended = await until(() => {
      gc();
      return sessionThreads() === 0;
    });
    return { before, ended };
  },
  adapterMemory: () => memoryRounds('adapters'),
  sessionMemory: () => memoryRounds('sessions'),
};

const result = await scenarios[process.argv[2] ?? '']!();
console.log(JSON.stringify(result));
