/** Entry of a grammar thread: prepares grammars, follows choices, writes masks. */
import { parentPort, workerData } from 'node:worker_threads';
import type { CompiledGrammar, GrammarMatcher } from '@mlc-ai/web-xgrammar';
import { COMPUTE_NICENESS, giveWay } from '../threads/give-way.ts';
import { loadTokenizer } from '../tokenizer/tokenizer.ts';
import { MASK_HEADER_WORDS, MASK_NEVER } from './mask-memory.ts';
import type { FromThread, ThreadSetup, ToThread } from './messages.ts';
import type { GrammarSource } from './source.ts';
import { vocabularyOf } from './vocabulary.ts';
import { loadXGrammar, reasonOf } from './xgrammar.ts';

if (parentPort === null) throw new Error('worker.ts runs in a worker thread only');
const port = parentPort;
const { modelDir, vocabSize, stopTokenIds, words, stride } = workerData as ThreadSetup;
const tell = (message: FromThread) => port.postMessage(message);

giveWay(COMPUTE_NICENESS);

const xgrammar = await loadXGrammar();
const { encoded, forbiddenAfter, narrowing } = vocabularyOf(
  await loadTokenizer(modelDir),
  vocabSize,
);
const info = await xgrammar.TokenizerInfo.createTokenizerInfo(
  encoded,
  'byte_level',
  false,
  vocabSize,
  [...stopTokenIds],
);
const compiler = await xgrammar.GrammarCompiler.createGrammarCompiler(info, false);
const compiled = new Map<string, CompiledGrammar>();

/** One choice. */
class Follower {
  readonly #matcher: GrammarMatcher;
  readonly #at: number;
  #numTokens = 0;
  /** The last token's last byte, where it narrows what may follow. */
  #lead = 0;
  #failed = false;

  constructor(matcher: GrammarMatcher, slot: number) {
    this.#matcher = matcher;
    this.#at = slot * stride;
  }

  /** False when the grammar does not allow the token: then nothing is written any more. */
  accept(tokenId: number): boolean {
    if (this.#failed) return false;
    this.#failed = !this.#matcher.acceptToken(tokenId);
    this.#numTokens += 1;
    this.#lead = narrowing[tokenId] ?? 0;
    if (this.#failed) Atomics.store(words, this.#at, MASK_NEVER);
    return !this.#failed;
  }

  async write(): Promise<void> {
    if (this.#failed) return;
    const mask = await this.#matcher.getNextTokenBitmask();
    const at = this.#at + MASK_HEADER_WORDS;
    words.set(mask, at);
    const forbidden = this.#lead === 0 ? undefined : forbiddenAfter.get(this.#lead);
    if (forbidden !== undefined) {
      for (let i = 0; i < forbidden.length; i++) words[at + i]! &= ~forbidden[i]!;
    }
    Atomics.store(words, this.#at, this.#numTokens + 1);
  }

  end(): void {
    this.#matcher.dispose();
  }
}

const followers = new Map<number, Follower>();

async function compile({ key, kind, text }: GrammarSource): Promise<void> {
  const start = performance.now();
  try {
    const grammar =
      kind === 'ebnf'
        ? await compiler.compileGrammar(text)
        : await compiler.compileStructuralTag(text);
    compiled.set(key, grammar);
  } catch (error) {
    tell({ kind: 'refused', reason: reasonOf(error) });
    return;
  }
  tell({ kind: 'compiled', ms: performance.now() - start });
}

async function open(message: Extract<ToThread, { kind: 'open' }>): Promise<void> {
  const grammar = compiled.get(message.key);
  if (grammar === undefined) throw new Error('a choice follows a grammar that is not prepared');
  const matcher = await xgrammar.GrammarMatcher.createGrammarMatcher(grammar);
  const follower = new Follower(matcher, message.slot);
  followers.set(message.id, follower);
  if (message.tokens.every((tokenId) => follower.accept(tokenId))) await follower.write();
}

async function follow(pairs: Int32Array): Promise<void> {
  for (let i = 0; i < pairs.length; i += 2) {
    const follower = followers.get(pairs[i]!);
    if (follower?.accept(pairs[i + 1]!)) await follower.write();
  }
}

async function handle(message: ToThread): Promise<void> {
  switch (message.kind) {
    case 'compile':
      return compile(message.source);
    case 'drop':
      compiled.get(message.key)?.dispose();
      compiled.delete(message.key);
      return;
    case 'open':
      return open(message);
    case 'tokens':
      return follow(message.pairs);
    case 'close':
      followers.get(message.id)?.end();
      followers.delete(message.id);
      tell({ kind: 'closed', id: message.id });
  }
}

/** One message after the other: each is done before the next one begins. */
let last = Promise.resolve();
port.on('message', (message: ToThread) => {
  last = last.then(() => handle(message));
  last.catch((error: unknown) => {
    // What the library left behind cannot be trusted: the thread ends, and a new one is started.
    throw error;
  });
});
tell({ kind: 'ready' });
