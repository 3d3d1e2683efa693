/** What was built is taken down in the reverse order, whatever fails on the way. */

/** Steps that undo what was built, newest first. */
export class Teardown {
  readonly #steps: (() => Promise<unknown> | unknown)[] = [];
  #done: Promise<void> | undefined;

  add(step: () => Promise<unknown> | unknown): void {
    this.#steps.unshift(step);
  }

  run(): Promise<void> {
    this.#done ??= this.#run();
    return this.#done;
  }

  /** Every step runs, also after one that fails; the first failure is reported. */
  async #run(): Promise<void> {
    let failure: unknown;
    for (const step of this.#steps) {
      try {
        await step();
      } catch (error) {
        failure ??= error;
      }
    }
    if (failure !== undefined) throw failure;
  }
}
