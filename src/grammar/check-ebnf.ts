/**
 * What is checked of a grammar that a request brings, before the library reads it: classes with
 * characters beyond ASCII, which its version 0.1.27 misreads without a word.
 */
import { LoramuxError } from '../errors.ts';

/** @throws LoramuxError grammar_unsupported */
export function checkEbnf(text: string): void {
  let line = 1;
  for (let at = 0; at < text.length; at++) {
    const char = text[at]!;
    if (char === '\n') line += 1;
    else if (char === '#') at = endOf(text, at, '\n') - 1;
    else if (char === '"') at = endOfQuoted(text, at, '"');
    else if (char === '[') {
      const end = endOfQuoted(text, at, ']');
      const chars = text.slice(at, end + 1);
      if (isBeyondAscii(chars)) {
        throw new LoramuxError(
          'grammar_unsupported',
          `The grammar has a class with characters beyond ASCII on line ${line}: ${chars}. ` +
            'List them as texts instead.',
        );
      }
      at = end;
    }
  }
}

function endOf(text: string, from: number, mark: string): number {
  const end = text.indexOf(mark, from);
  return end < 0 ? text.length : end;
}

/** Where the text or class that begins at `from` ends; escapes are skipped. */
function endOfQuoted(text: string, from: number, mark: string): number {
  for (let at = from + 1; at < text.length; at++) {
    if (text[at] === '\\') at += 1;
    else if (text[at] === mark || text[at] === '\n') return at;
  }
  return text.length;
}

function isBeyondAscii(chars: string): boolean {
  for (const char of chars) if (char.codePointAt(0)! >= 128) return true;
  const escapes = chars.matchAll(/\\(?:x([0-9A-Fa-f]{1,8})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))/g);
  for (const [, x, u, long] of escapes) {
    if (Number.parseInt(x ?? u ?? long!, 16) >= 128) return true;
  }
  return false;
}
