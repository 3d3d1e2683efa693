/** Text up to a marker that may be split over pieces. */

/** Length of the longest end of `text` that begins `marker`. */
function heldLength(text: string, marker: string): number {
  for (let length = Math.min(text.length, marker.length - 1); length > 0; length--) {
    if (marker.startsWith(text.slice(text.length - length))) return length;
  }
  return 0;
}

export class MarkerSearch {
  readonly #marker: string;
  #held = '';

  constructor(marker: string) {
    this.#marker = marker;
  }

  /** The text before the marker, and what follows it; `rest` is undefined while it is not there. */
  push(piece: string): { text: string; rest: string | undefined } {
    const all = this.#held + piece;
    const at = all.indexOf(this.#marker);
    if (at !== -1) {
      this.#held = '';
      return { text: all.slice(0, at), rest: all.slice(at + this.#marker.length) };
    }
    const held = heldLength(all, this.#marker);
    this.#held = all.slice(all.length - held);
    return { text: all.slice(0, all.length - held), rest: undefined };
  }

  flush(): string {
    const held = this.#held;
    this.#held = '';
    return held;
  }
}
