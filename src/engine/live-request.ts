/** One submitted request: the scheduler's group, its listener, and the handle the caller holds. */
import { LoramuxError } from '../errors.ts';
import type { SequenceGroup } from '../scheduler/sequence.ts';
import type { EngineHandle, FinishReason, RequestListener, TokenLogprobs } from './types.ts';

export class LiveRequest implements EngineHandle {
  readonly group: SequenceGroup;
  readonly listener: RequestListener;
  /** Filled while the prompt is scored, then handed over; undefined when not asked for. */
  promptLogprobs: (TokenLogprobs | null)[] | undefined;
  /** When it was submitted; undefined once the listener was told how long it waited. */
  waitsSinceMs: number | undefined;
  readonly #touch: (request: LiveRequest) => void;

  /** `touch` tells the engine that a choice is to end at the next border. */
  constructor(
    group: SequenceGroup,
    listener: RequestListener,
    submittedMs: number,
    touch: (request: LiveRequest) => void,
  ) {
    this.group = group;
    this.listener = listener;
    this.waitsSinceMs = listener.onScheduled === undefined ? undefined : submittedMs;
    this.promptLogprobs = group.request.sampling.promptLogprobs === undefined ? undefined : [null];
    this.#touch = touch;
  }

  get cachedPromptTokens(): number {
    return this.group.cachedPromptTokens ?? 0;
  }

  cancel(): void {
    for (let index = 0; index < this.group.sequences.length; index++) {
      this.#end(index, 'cancelled');
    }
    this.#touch(this);
  }

  stop(index: number): void {
    if (this.group.sequences[index] === undefined) {
      throw new LoramuxError(
        'internal_error',
        `Choice ${index} does not exist; the request has ${this.group.sequences.length}.`,
      );
    }
    this.#end(index, 'stop');
    this.#touch(this);
  }

  #end(index: number, reason: FinishReason): void {
    this.group.sequences[index]!.endRequested ??= reason;
  }
}
