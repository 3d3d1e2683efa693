/**
 * Spreads a burst of requests over turns of the event loop. Node hands over everything its sockets
 * have in one go; when many clients begin at once, their requests together would hold up timers and
 * the tokens of running streams for tens of milliseconds.
 */

/** Requests that begin in one turn. At about half a millisecond each, a turn stays short. */
export const REQUESTS_PER_TURN = 4;

/** Calls back at once, or in a later turn when this one has begun enough; first come, first served. */
export class Turns {
  readonly #perTurn: number;
  #begun = 0;
  #waiting: (() => void)[] = [];
  #scheduled = false;

  constructor(perTurn: number = REQUESTS_PER_TURN) {
    this.#perTurn = perTurn;
  }

  take(begin: () => void): void {
    this.#schedule();
    if (this.#begun < this.#perTurn) {
      this.#begun += 1;
      begin();
    } else {
      this.#waiting.push(begin);
    }
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#begun = Math.min(this.#waiting.length, this.#perTurn);
      const now = this.#waiting.splice(0, this.#begun);
      if (this.#begun > 0) this.#schedule();
      for (const begin of now) begin();
    });
  }
}
