/** Who may go at the same time: any number of shared turns, or one exclusive one; in their order. */
export class Turns {
  #lastExclusive: Promise<unknown> = Promise.resolve();
  /** Ends of the shared turns since the last exclusive one was asked for. */
  readonly #shared = new Set<Promise<unknown>>();

  /** Runs when everything that was asked for before has ended; nothing else runs meanwhile. */
  exclusive<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.idle().then(work);
    this.#shared.clear();
    this.#lastExclusive = result.catch(() => undefined);
    return result;
  }

  /** Runs when every exclusive turn that was asked for before has ended. */
  shared<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#lastExclusive.then(work);
    const ended: Promise<unknown> = result
      .catch(() => undefined)
      .then(() => this.#shared.delete(ended));
    this.#shared.add(ended);
    return result;
  }

  /** Resolves when everything that was asked for by now has ended. */
  async idle(): Promise<void> {
    await Promise.all([this.#lastExclusive, ...this.#shared]);
  }
}
