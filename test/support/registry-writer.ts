/**
 * A process that changes an embedded registry until it is killed; see file-registry-kill.test.ts.
 * Arguments: folder, seed. Prints one JSON line before each change, with what the name will hold
 * (null: nothing), and one after it was acknowledged.
 */
import { putGeneration, rollback, setPinned, setSplit } from '../../src/adapters/registry/entry.ts';
import { encodeEntry } from '../../src/adapters/registry/entry-codec.ts';
import { FileRegistry } from '../../src/adapters/registry/file-registry.ts';
import type { NameEntry } from '../../src/adapters/registry/types.ts';
import { Random } from './random.ts';
import { keptGeneration, RecordingListener } from './registry-entries.ts';

export interface WriterLine {
  readonly kind: 'begin' | 'acknowledged';
  readonly name: string;
  /** The entry as text; null when the name is removed. */
  readonly text: string | null;
  /** 0 at the begin. */
  readonly revision: number;
}

/** One writer each, all at the same time. */
const NAMES = ['a', 'b', 'team/c', 'team/d', 'e', 'f'];
const MAX_GENERATIONS = 24;
/** Long enough that a name file takes several pages. */
const SOURCE_LENGTH = 2_000;

/** Resolves when the line has left the process. */
const print = (line: WriterLine) =>
  new Promise<void>((resolve, reject) => {
    process.stdout.write(`${JSON.stringify(line)}\n`, (error) =>
      error ? reject(error) : resolve(),
    );
  });

function nextEntry(random: Random, name: string, before: NameEntry | undefined) {
  const nowSeconds = 1_700_000_000 + random.int(0, 1e6);
  const kept = keptGeneration(`content ${random.int(0, 200)}`, {
    source: String.fromCharCode(random.int(97, 122)).repeat(random.int(0, SOURCE_LENGTH)),
  });
  const change = { maxGenerations: MAX_GENERATIONS, nowSeconds };
  if (before === undefined) return putGeneration(before, name, kept, change);
  const other = before.generations.find(({ digest }) => digest !== before.current)?.digest;
  const draw = random.next();
  if (draw < 0.12) return undefined;
  if (draw < 0.2 && other !== undefined) return rollback(before, other, nowSeconds);
  if (draw < 0.3 && other !== undefined) {
    return setSplit(before, { digest: other, weight: (random.next() + 0.01) / 2 }, nowSeconds);
  }
  if (draw < 0.35) return setPinned(before, !before.pinned, nowSeconds);
  return putGeneration(before, name, kept, change);
}

async function write(registry: FileRegistry, random: Random, name: string): Promise<never> {
  for (;;) {
    const before = await registry.read(name);
    const next = nextEntry(random, name, before?.entry);
    const text = next === undefined ? null : encodeEntry(next);
    await print({ kind: 'begin', name, text, revision: 0 });
    const result = await registry.write(name, before?.revision ?? 0, next);
    if (result.status !== 'written') throw new Error(`${name}: ${JSON.stringify(result)}`);
    await print({ kind: 'acknowledged', name, text, revision: result.revision });
  }
}

const [root, seed] = process.argv.slice(2);
const registry = new FileRegistry({ root: root!, maxNames: NAMES.length });
await registry.open(new RecordingListener());
await Promise.all(
  NAMES.map((name, i) => write(registry, new Random(Number(seed) * 100 + i), name)),
);
