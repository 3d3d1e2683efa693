/** Entry of a grammar thread: prepares grammars, follows choices, writes masks. */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import type { CompiledGrammar } from '@mlc-ai/web-xgrammar';
import type { Constraint } from '../generation/constraint.ts';
import { COMPUTE_NICENESS, giveWay } from '../threads/give-way.ts';
import { packError } from '../threads/packed-error.ts';
import { loadTokenizer } from '../tokenizer/tokenizer.ts';
import { Follower, type PreparedGrammar } from './follower.ts';
import { MASK_HEADER_WORDS, MASK_NEVER } from './mask-memory.ts';
import type { FromThread, ThreadSetup, ToThread } from './messages.ts';
import { type GrammarSource, type KeyedConstraint, sourceOf } from './source.ts';
import { CLOSE, TokenRing } from './token-ring.ts';
import { vocabularyOf } from './vocabulary.ts';
import { loadXGrammar, reasonOf } from './xgrammar.ts';

if (parentPort === null) throw new Error('worker.ts runs in a worker thread only');
const port = parentPort;
const { modelDir, vocabSize, stopTokenIds, words, stride, ...setup } = workerData as ThreadSetup;
const ring = new TokenRing(setup.ring);
const tell = (message: FromThread) => port.postMessage(message);

giveWay(COMPUTE_NICENESS);

const xgrammar = await loadXGrammar();
const vocabulary = vocabularyOf(await loadTokenizer(modelDir), vocabSize);
const info = await xgrammar.TokenizerInfo.createTokenizerInfo(
  vocabulary.encoded,
  'byte_level',
  false,
  vocabSize,
  [...stopTokenIds],
);
const compiler = await xgrammar.GrammarCompiler.createGrammarCompiler(info, false);
const prepared = new Map<string, PreparedGrammar>();
const matcherOf = (grammar: CompiledGrammar) =>
  xgrammar.GrammarMatcher.createGrammarMatcher(grammar);

/** Where a choice's masks go. */
class Choice {
  readonly follower: Follower;
  readonly #at: number;
  /** What the slot holds. */
  #written: Int32Array | undefined;

  constructor(follower: Follower, slot: number) {
    this.follower = follower;
    this.#at = slot * stride;
  }

  /** Its next mask, or that none will come. */
  async write(): Promise<void> {
    const mask = await this.follower.mask();
    if (mask !== undefined && mask !== this.#written) {
      words.set(mask, this.#at + MASK_HEADER_WORDS);
      this.#written = mask;
    }
    const stamp = mask === undefined ? MASK_NEVER : this.follower.numTokens + 1;
    Atomics.store(words, this.#at, stamp);
  }
}

const choices = new Map<number, Choice>();

const compile = (kind: GrammarSource['kind'], text: string): Promise<CompiledGrammar> =>
  kind === 'ebnf' ? compiler.compileGrammar(text) : compiler.compileStructuralTag(text);

async function prepare({ key, text: asked }: KeyedConstraint): Promise<void> {
  const start = performance.now();
  let source: GrammarSource;
  try {
    source = sourceOf(JSON.parse(asked) as Constraint);
  } catch (error) {
    tell({ kind: 'unusable', error: packError(error) });
    return;
  }
  const { kind, text, relaxed, ...rest } = source;
  try {
    const exact = await compile(kind, text);
    const standIns: PreparedGrammar['relaxed'][number][] = [];
    for (const { text: simpler, ...standIn } of relaxed) {
      standIns.push({ ...standIn, grammar: await compile(kind, simpler) });
    }
    prepared.set(key, { exact, relaxed: standIns, ...rest });
  } catch (error) {
    tell({ kind: 'refused', reason: reasonOf(error) });
    return;
  }
  const length = relaxed.reduce((sum, { text: simpler }) => sum + simpler.length, text.length);
  tell({ kind: 'compiled', ms: performance.now() - start, length });
}

function drop(key: string): void {
  const grammar = prepared.get(key);
  prepared.delete(key);
  grammar?.exact.dispose();
  for (const standIn of grammar?.relaxed ?? []) standIn.grammar.dispose();
}

async function open(message: Extract<ToThread, { kind: 'open' }>): Promise<void> {
  const grammar = prepared.get(message.key);
  if (grammar === undefined) throw new Error('a choice follows a grammar that is not prepared');
  const follower = new Follower(grammar, vocabulary, matcherOf);
  for (const tokenId of message.tokens) follower.accept(tokenId);
  const choice = new Choice(follower, message.slot);
  choices.set(message.id, choice);
  await choice.write();
}

async function follow(id: number, tokenId: number): Promise<void> {
  // It may be opened by a message that came after the last look.
  if (!choices.has(id)) await handleAll();
  const choice = choices.get(id);
  if (choice === undefined) throw new Error('a choice goes on that was not opened');
  if (tokenId === CLOSE) {
    choice.follower.end();
    choices.delete(id);
    tell({ kind: 'closed', id });
    return;
  }
  choice.follower.accept(tokenId);
  await choice.write();
}

async function handle(message: ToThread): Promise<void> {
  switch (message.kind) {
    case 'compile':
      return prepare(message.asked);
    case 'drop':
      return drop(message.key);
    case 'open':
      return open(message);
  }
}

/** One message after the other: each is done before the next one begins. */
async function handleAll(): Promise<void> {
  for (;;) {
    const received = receiveMessageOnPort(port) as { message: ToThread } | undefined;
    if (received === undefined) return;
    await handle(received.message);
  }
}

tell({ kind: 'ready' });

/**
 * The thread never turns its event loop: to be woken by the bell takes a fraction of what an event
 * takes on either side. Where something fails, what the library left behind cannot be trusted: the
 * thread ends, and a new one is started.
 */
for (;;) {
  const { bell } = ring;
  await handleAll();
  await ring.takeAll(follow);
  ring.wait(bell);
}
