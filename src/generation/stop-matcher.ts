/**
 * Stop strings over text that arrives in pieces. One Knuth-Morris-Pratt automaton per stop string
 * (SIAM J. Comput. 6(2), 1977), so that a stop string is found across any token borders in constant
 * time per character, and the state says how much text might still become a stop string.
 */

/** A stop string ready to be matched; the choices of a request share it. */
export interface StopPattern {
  readonly pattern: string;
  /** Per position: length of the longest proper border of the pattern's prefix. */
  readonly borders: Int32Array;
}

interface Automaton extends StopPattern {
  /** Characters of the pattern matched so far. */
  matched: number;
}

/** @param pattern non-empty. */
export function compileStop(pattern: string): StopPattern {
  const borders = new Int32Array(pattern.length);
  let border = 0;
  for (let i = 1; i < pattern.length; i++) {
    while (border > 0 && pattern[i] !== pattern[border]) border = borders[border - 1]!;
    if (pattern[i] === pattern[border]) border++;
    borders[i] = border;
  }
  return { pattern, borders };
}

/** Moves the automaton by one character; true when the pattern is complete. */
function advance(automaton: Automaton, char: string): boolean {
  const { pattern, borders } = automaton;
  while (automaton.matched > 0 && pattern[automaton.matched] !== char) {
    automaton.matched = borders[automaton.matched - 1]!;
  }
  if (pattern[automaton.matched] === char) automaton.matched++;
  return automaton.matched === pattern.length;
}

export interface StopResult {
  /** Text that is certainly part of the answer. */
  text: string;
  /** The stop string that ended it. */
  stop: string | undefined;
}

export class StopMatcher {
  readonly #automata: Automaton[];
  readonly #includeStop: boolean;
  /** Text that may turn out to be the beginning of a stop string. */
  #held = '';

  /** @param includeStop keep the stop string in the answer. */
  constructor(stops: readonly StopPattern[], includeStop: boolean) {
    this.#automata = stops.map((stop) => ({ ...stop, matched: 0 }));
    this.#includeStop = includeStop;
  }

  /**
   * The stop string whose end comes first wins, the longest of several that end together. Text is
   * held back as long as it is the beginning of any stop string, and no longer.
   */
  push(piece: string): StopResult {
    if (this.#automata.length === 0) return { text: piece, stop: undefined };
    const text = this.#held + piece;
    for (let i = this.#held.length; i < text.length; i++) {
      let found: string | undefined;
      for (const automaton of this.#automata) {
        if (!advance(automaton, text[i]!)) continue;
        if (found === undefined || automaton.pattern.length > found.length) {
          found = automaton.pattern;
        }
      }
      if (found !== undefined) {
        this.#held = '';
        const end = this.#includeStop ? i + 1 : i + 1 - found.length;
        return { text: text.slice(0, end), stop: found };
      }
    }
    let hold = 0;
    for (const automaton of this.#automata) hold = Math.max(hold, automaton.matched);
    this.#held = text.slice(text.length - hold);
    return { text: text.slice(0, text.length - hold), stop: undefined };
  }

  /** The text still held back, when generation ended for another reason. */
  flush(): string {
    const rest = this.#held;
    this.#held = '';
    return rest;
  }
}
