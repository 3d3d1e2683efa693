/** A bounded queue between the engine's listener and one reader that takes all there is at once. */

export class EventQueue<Event> {
  readonly #bytesMax: number;
  #events: Event[] = [];
  /** Of each waiting event. */
  #sizes: number[] = [];
  #bytes = 0;
  #ended = false;
  #waking = false;
  #waiter: ((events: Event[] | undefined) => void) | undefined;
  /** How many events the waiting reader takes at most. */
  #wanted = 0;

  /** @param bytesMax bytes that may wait for the reader. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** False when the event did not fit: the reader is too slow. Ignored after the end. */
  push(event: Event, bytes: number): boolean {
    if (this.#ended) return true;
    if (this.#bytes + bytes > this.#bytesMax && this.#events.length > 0) return false;
    this.#events.push(event);
    this.#sizes.push(bytes);
    this.#bytes += bytes;
    this.#wake();
    return true;
  }

  /** No more events; what waits is still delivered. */
  end(): void {
    this.#ended = true;
    this.#wake();
  }

  /** Ends with `event` alone, dropping what waits. */
  endWith(event: Event): void {
    if (this.#ended) return;
    this.#events = [event];
    this.#sizes = [0];
    this.#bytes = 0;
    this.#ended = true;
    this.#wake();
  }

  /** Ends and drops what waits: nobody reads any more. */
  discard(): void {
    this.#events = [];
    this.#sizes = [];
    this.#bytes = 0;
    this.end();
  }

  /** Answers the reader after the current run of pushes, so that it gets them as one batch. */
  #wake(): void {
    if (this.#waiter === undefined || this.#waking) return;
    this.#waking = true;
    queueMicrotask(() => {
      const waiter = this.#waiter;
      this.#waking = false;
      this.#waiter = undefined;
      waiter?.(this.#take(this.#wanted));
    });
  }

  #take(eventsMax: number): Event[] | undefined {
    if (this.#events.length === 0) return this.#ended ? undefined : [];
    if (this.#events.length > eventsMax) {
      for (const bytes of this.#sizes.splice(0, eventsMax)) this.#bytes -= bytes;
      return this.#events.splice(0, eventsMax);
    }
    const events = this.#events;
    this.#events = [];
    this.#sizes = [];
    this.#bytes = 0;
    return events;
  }

  /**
   * The waiting events, `eventsMax` of them at most, or the next ones when none waits; undefined
   * after the end. What is not taken still counts against the bound. With `timeoutMs`, an empty
   * array when nothing came in that time. One reader at a time.
   */
  next(timeoutMs?: number, eventsMax = Number.POSITIVE_INFINITY): Promise<Event[] | undefined> {
    if (this.#waiter !== undefined) throw new Error('the queue has a reader already');
    if (this.#events.length > 0 || this.#ended) return Promise.resolve(this.#take(eventsMax));
    this.#wanted = eventsMax;
    return new Promise((resolve) => {
      if (timeoutMs === undefined) {
        this.#waiter = resolve;
        return;
      }
      const timer = setTimeout(() => {
        this.#waiter = undefined;
        resolve([]);
      }, timeoutMs);
      this.#waiter = (events) => {
        clearTimeout(timer);
        resolve(events);
      };
    });
  }
}
