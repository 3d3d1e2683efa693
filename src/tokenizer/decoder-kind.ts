/**
 * Which decoder a `tokenizer.json` names. The two kinds that nearly all language models use are
 * decoded from per-token tables; any other kind goes through the library's own decoder.
 */
export type DecoderKind =
  /** Each token is a string of bytes in the GPT-2 byte alphabet. */
  | { readonly kind: 'byte-level' }
  /** SentencePiece as converted by transformers: replace, byte fallback, fuse, strip. */
  | {
      readonly kind: 'byte-fallback';
      readonly replacements: readonly (readonly [from: string, to: string])[];
      /** Spaces dropped at the very start of a text. */
      readonly stripStart: number;
    }
  /** Metaspace: the first token of a text loses its replacement characters. */
  | { readonly kind: 'metaspace'; readonly replacement: string; readonly stripFirst: boolean }
  | { readonly kind: 'library' };

type Json = Record<string, unknown>;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function replacementOf(step: Json): readonly [string, string] | undefined {
  const pattern = step.pattern;
  if (!isObject(pattern) || typeof pattern.String !== 'string' || pattern.String === '') {
    return undefined;
  }
  return typeof step.content === 'string' ? [pattern.String, step.content] : undefined;
}

/** Recognises Replace*, ByteFallback, Fuse, Strip(' ', n, 0)?; undefined for anything else. */
function byteFallbackOf(steps: readonly unknown[]): DecoderKind | undefined {
  const replacements: (readonly [string, string])[] = [];
  let at = 0;
  for (; at < steps.length; at++) {
    const step = steps[at];
    if (!isObject(step) || step.type !== 'Replace') break;
    const replacement = replacementOf(step);
    if (replacement === undefined) return undefined;
    replacements.push(replacement);
  }
  const [fallback, fuse, strip, ...rest] = steps.slice(at);
  if (!isObject(fallback) || fallback.type !== 'ByteFallback') return undefined;
  if (!isObject(fuse) || fuse.type !== 'Fuse') return undefined;
  if (rest.length > 0) return undefined;
  if (strip === undefined) return { kind: 'byte-fallback', replacements, stripStart: 0 };
  if (!isObject(strip) || strip.type !== 'Strip' || strip.content !== ' ') return undefined;
  if (strip.stop !== 0 || typeof strip.start !== 'number') return undefined;
  return { kind: 'byte-fallback', replacements, stripStart: strip.start };
}

/** Classifies the `decoder` member of a parsed `tokenizer.json`. */
export function decoderKindOf(decoder: unknown): DecoderKind {
  if (!isObject(decoder)) return { kind: 'library' };
  if (decoder.type === 'ByteLevel') return { kind: 'byte-level' };
  if (decoder.type === 'Metaspace' && typeof decoder.replacement === 'string') {
    const scheme =
      decoder.prepend_scheme ?? (decoder.add_prefix_space === false ? 'never' : 'always');
    return {
      kind: 'metaspace',
      replacement: decoder.replacement,
      stripFirst: scheme !== 'never',
    };
  }
  if (decoder.type === 'Sequence' && Array.isArray(decoder.decoders)) {
    const steps: unknown[] = decoder.decoders;
    const only = steps.length === 1 ? steps[0] : undefined;
    if (only !== undefined) return decoderKindOf(only);
    return byteFallbackOf(steps) ?? { kind: 'library' };
  }
  return { kind: 'library' };
}
