/** Real grammar threads for random lives of an engine: small forms, and what they accept. */
import { MaskMemory, NEVER_SLOT } from '../../src/grammar/mask-memory.ts';
import { GrammarPool } from '../../src/grammar/pool.ts';
import { type KeyedConstraint, keyed } from '../../src/grammar/source.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';
import type { Random } from './random.ts';
import { makeSmallBase } from './small-base.ts';
import { until } from './until.ts';

const VOCAB = 300;
const EOS = 2;

export interface FuzzForm {
  readonly asked: KeyedConstraint;
  accepts(text: string): boolean;
}

const matching = (pattern: string): FuzzForm => ({
  asked: keyed({ kind: 'regex', pattern }),
  accepts: (text) => new RegExp(`^(?:${pattern})$`, 'u').test(text),
});

const oneOf = (...choices: string[]): FuzzForm => ({
  asked: keyed({ kind: 'choice', choices }),
  accepts: (text) => choices.includes(text),
});

const parsed = (schema: object, accepts: (value: never) => boolean): FuzzForm => ({
  asked: keyed({ kind: 'json_schema', schema: schema as Record<string, never> }),
  accepts: (text) => accepts(JSON.parse(text) as never),
});

/** One of each kind. */
const kinds: readonly ((size: number) => FuzzForm)[] = [
  (size) => matching(`[a-c]{1,${size}}`),
  (size) => matching(`(ab|ba)+x{0,${size}}`),
  (size) => matching(`[^a]{${size},5}`),
  (size) => oneOf('yes', 'no', 'é'.repeat(size)),
  (size) => parsed({ type: 'integer', minimum: 0, maximum: 9 * size }, (n) => n <= 9 * size),
  (size) =>
    parsed(
      { type: 'array', items: { type: 'boolean' }, maxItems: size },
      (list: unknown[]) => list.length <= size && list.every((item) => typeof item === 'boolean'),
    ),
  (size) =>
    parsed(
      {
        type: 'object',
        properties: { a: { enum: [size, 'x'] } },
        required: ['a'],
        additionalProperties: false,
      },
      ({ a }: { a: unknown }) => a === size || a === 'x',
    ),
];

/** So many that threads forget them and prepare them again. */
export function randomForm(random: Random): FuzzForm {
  return random.pick(kinds)(random.int(1, 5));
}

export interface FuzzGrammars {
  readonly pool: GrammarPool;
  readonly masks: MaskMemory;
  readonly maxSequences: number;
  readonly vocabSize: number;
  readonly eosTokenId: number;
  /** A token that no form allows. */
  readonly nanTokenId: number;
  text(tokenIds: readonly number[]): Promise<string>;
  close(): Promise<void>;
}

export async function openFuzzGrammars(maxSequences: number): Promise<FuzzGrammars> {
  const base = await makeSmallBase();
  const tokenizer = await loadTokenizer(base.dir);
  const masks = new MaskMemory(VOCAB, maxSequences);
  const setup = { modelDir: base.dir, vocabSize: VOCAB, stopTokenIds: [EOS] };
  const pool = new GrammarPool({ setup, masks, compileMsMax: 60_000, cachedMax: 3 });
  const ids = Array.from({ length: VOCAB }, (_, id) => id);
  return {
    pool,
    masks,
    maxSequences,
    vocabSize: VOCAB,
    eosTokenId: EOS,
    nanTokenId: ids.find((id) => tokenizer.tokenText(id) === 'bytes:\\xff')!,
    text: (tokenIds) => tokenizer.decode(tokenIds, { skipSpecialTokens: true }),
    async close() {
      await pool.close();
      await base.end();
    },
  };
}

/** Slots that nobody has; none is in a step. */
export function numFreeMasks(masks: MaskMemory): number {
  masks.stepEnded();
  const taken: number[] = [];
  for (let slot = masks.take(); slot !== NEVER_SLOT; slot = masks.take()) taken.push(slot);
  for (const slot of taken) masks.giveBack(slot);
  masks.stepEnded();
  return taken.length;
}

/** Nobody has one, once the threads have said that they write no more. */
export async function allMasksAreFree(masks: MaskMemory): Promise<void> {
  await until(
    'all masks are given back',
    () => numFreeMasks(masks),
    (numFree) => numFree === masks.slots - 1,
  );
}
