/**
 * A real process that writes an embedded registry is killed at random instants, again and again on
 * the same folder. `LORAMUX_FUZZ_SEED=<seed>` begins with that seed.
 */
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { encodeEntry } from '../../../../src/adapters/registry/entry-codec.ts';
import { FileRegistry } from '../../../../src/adapters/registry/file-registry.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import { Random } from '../../../support/random.ts';
import { RecordingListener } from '../../../support/registry-entries.ts';
import type { WriterLine } from '../../../support/registry-writer.ts';

const WRITER = fileURLToPath(new URL('../../../support/registry-writer.ts', import.meta.url));
const ROUNDS = 60;
/** Folders that are written at the same time, each by one process. */
const LANES = 2;
/** The kill comes after up to so many acknowledgements, and then somewhere within a change. */
const ACKNOWLEDGED_MAX = 60;
const PAUSE_MS_MAX = 4;
/** Starting a process takes most of a round: longer on a busy machine. */
const TEST_MS_MAX = 3_600_000;
const FIRST_SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 1);

const temp = new TempDir();
afterAll(() => temp.remove());

/** Runs a writer until it is killed; returns what it had printed by then. */
async function runAndKill(root: string, seed: number): Promise<WriterLine[]> {
  const random = new Random(seed);
  const acknowledgements = random.int(0, ACKNOWLEDGED_MAX);
  const pauseMs = random.next() * PAUSE_MS_MAX;
  const child = spawn(process.execPath, ['--import', 'tsx', WRITER, root, String(seed)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  let errors = '';
  let acknowledged = 0;
  let killing = false;
  const ended = new Promise<string | null>((resolve) => {
    child.once('close', (_, signal) => resolve(signal));
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
    acknowledged += text.split('"acknowledged"').length - 1;
    if (killing || acknowledged < acknowledgements) return;
    killing = true;
    void sleep(pauseMs).then(() => child.kill('SIGKILL'));
  });
  expect(await ended, `seed ${seed}: ${errors}`).toBe('SIGKILL');
  // The last line may be cut; whoever killed the process cannot have acted on it.
  return output
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as WriterLine);
}

/** What each name may hold, as text; null stands for no such name. */
class Model {
  readonly #acknowledged = new Map<string, string | null>();
  readonly #begun = new Map<string, string | null>();
  largest = 0;
  numAcknowledged = 0;

  add({ kind, name, text, revision }: WriterLine): void {
    if (kind === 'begin') {
      this.#begun.set(name, text);
      return;
    }
    expect(revision).toBeGreaterThan(0);
    this.largest = Math.max(this.largest, revision);
    this.numAcknowledged++;
    this.#acknowledged.set(name, text);
    this.#begun.delete(name);
  }

  names(): string[] {
    return [...new Set([...this.#acknowledged.keys(), ...this.#begun.keys()])];
  }

  allowed(name: string): (string | null)[] {
    const last = this.#acknowledged.get(name) ?? null;
    return [last, this.#begun.get(name) ?? (this.#begun.has(name) ? null : last)];
  }

  /** What was found is where the next round begins. */
  settle(name: string, found: string | null): void {
    this.#acknowledged.set(name, found);
    this.#begun.delete(name);
  }
}

async function runLane(lane: number): Promise<number> {
  const root = temp.fresh();
  const model = new Model();
  for (let round = lane; round < ROUNDS; round += LANES) {
    const seed = FIRST_SEED + round;
    for (const line of await runAndKill(root, seed)) model.add(line);
    const listener = new RecordingListener();
    const registry = new FileRegistry({ root, maxNames: 100 });
    await registry.open(listener);
    await registry.close();
    const context = `seed ${seed}`;
    expect([...listener.damaged], context).toEqual([]);
    expect(readdirSync(path.join(root, 'tmp')), context).toEqual([]);
    const known = model.names();
    expect([...listener.entries.keys()].filter((name) => !known.includes(name))).toEqual([]);
    for (const name of known) {
      const found = listener.entries.get(name);
      const text = found === undefined ? null : encodeEntry(found.entry);
      expect(model.allowed(name), `${context}, ${name}`).toContain(text);
      model.settle(name, text);
      model.largest = Math.max(model.largest, found?.revision ?? 0);
    }
  }
  return model.numAcknowledged;
}

describe('kill -9 of a process that writes the embedded registry', () => {
  it(
    `loses and tears nothing, ${ROUNDS} times from seed ${FIRST_SEED}`,
    async () => {
      const lanes = Array.from({ length: LANES }, (_, lane) => runLane(lane));
      const acknowledged = await Promise.all(lanes);
      expect(acknowledged.reduce((a, b) => a + b)).toBeGreaterThan(ROUNDS * 10);
    },
    TEST_MS_MAX,
  );
});
