/** Text to ids and back as a model's requests would have it, without generating. */
import { randomUUID } from 'node:crypto';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { GeneratorServices } from './generator.ts';
import { checkTokenIds, encodePrompt } from './prompts.ts';
import { resolveTarget } from './target.ts';
import type { Prompt } from './types.ts';
import { unlessAborted } from './unless-aborted.ts';

type TextPrompt = Exclude<Prompt, { kind: 'tokens' }>;

export interface TokenService {
  /**
   * The ids of a prompt for the base or an adapter, whose chat template may be its own; undefined
   * when the signal was given first.
   * @param addSpecialTokens to a text; a chat says so itself
   * @throws LoramuxError model_not_found, token_out_of_range, those of the prompt's `render`
   */
  encode(
    model: string,
    prompt: TextPrompt,
    addSpecialTokens: boolean,
    signal: AbortSignal,
  ): Promise<Int32Array | undefined>;
  /** @throws LoramuxError model_not_found, token_out_of_range */
  decode(model: string, tokenIds: readonly number[]): Promise<string>;
  /** The vocabulary's spelling of an id; empty for ids without a token. */
  spelling(tokenId: number): string;
}

export function createTokenService(
  services: Pick<GeneratorServices, 'model' | 'adapters'> & { tokenizer: Tokenizer },
): TokenService {
  const { model: base, adapters, tokenizer } = services;
  const resolve = (model: string) => {
    // As if it were one request of many: a split name answers with either side.
    const target = {
      model,
      adapter: { kind: 'model', weight: 1 },
      splitKey: randomUUID(),
    } as const;
    return resolveTarget(adapters, base.name, target)[0]?.record;
  };
  return {
    async encode(model, prompt, addSpecialTokens, signal) {
      const encoding = { adapter: resolve(model), addSpecialTokens, vocabSize: base.vocabSize };
      const made = await unlessAborted(signal, () =>
        encodePrompt(tokenizer, prompt, encoding, signal),
      );
      return made?.tokenIds;
    },
    async decode(model, tokenIds) {
      resolve(model);
      checkTokenIds(tokenIds, base.vocabSize, 'tokens');
      return tokenizer.decode(tokenIds, { skipSpecialTokens: false });
    },
    spelling: (tokenId) => tokenizer.spelling(tokenId) ?? '',
  };
}
