/** Events of a step, kept until the next one is dispatched, then delivered while it runs. */
import type { Sequence } from '../scheduler/sequence.ts';
import type { LiveRequest } from './live-request.ts';
import type { FinishEvent, TokenEvent, TokenLogprobs } from './types.ts';

type EngineEvent =
  | { kind: 'scheduled'; request: LiveRequest; waitMs: number }
  | { kind: 'prompt'; request: LiveRequest; logprobs: (TokenLogprobs | null)[] }
  | { kind: 'token'; request: LiveRequest; event: TokenEvent }
  | { kind: 'finish'; request: LiveRequest; event: FinishEvent };

export class EventQueue {
  #queue: EngineEvent[] = [];
  #spare: EngineEvent[] = [];
  #delivering = false;
  readonly #onDefect: (error: unknown) => void;

  constructor(onDefect: (error: unknown) => void) {
    this.#onDefect = onDefect;
  }

  get isEmpty(): boolean {
    return this.#queue.length === 0 && !this.#delivering;
  }

  scheduled(request: LiveRequest, waitMs: number): void {
    this.#queue.push({ kind: 'scheduled', request, waitMs });
  }

  prompt(request: LiveRequest, logprobs: (TokenLogprobs | null)[]): void {
    this.#queue.push({ kind: 'prompt', request, logprobs });
  }

  token(request: LiveRequest, event: TokenEvent): void {
    this.#queue.push({ kind: 'token', request, event });
  }

  finish(request: LiveRequest, event: FinishEvent): void {
    this.#queue.push({ kind: 'finish', request, event });
  }

  /** Delivers what is queued. What listeners cause meanwhile is for the next delivery. */
  deliver(): void {
    const batch = this.#queue;
    this.#queue = this.#spare;
    this.#spare = batch;
    this.#delivering = true;
    for (const event of batch) {
      try {
        deliverOne(event);
      } catch (error) {
        // A listener that throws has lost track of its request; nobody is left to answer.
        event.request.cancel();
        this.#onDefect(error);
      }
    }
    batch.length = 0;
    this.#delivering = false;
  }
}

function deliverOne(item: EngineEvent): void {
  const { listener, group } = item.request;
  if (item.kind === 'scheduled') {
    listener.onScheduled?.(item.waitMs);
    return;
  }
  if (item.kind === 'prompt') {
    listener.onPromptLogprobs?.(item.logprobs);
    return;
  }
  const sequence = group.sequences[item.event.index]!;
  if (item.kind === 'token') {
    if (!isTooLate(sequence)) listener.onToken(item.event);
    return;
  }
  // The stop string was seen in the very token that also reached max_tokens.
  const stopped = item.event.reason === 'length' && sequence.endRequested === 'stop';
  listener.onFinish(stopped ? { ...item.event, reason: 'stop' } : item.event);
}

/**
 * The choice was ended by an earlier event of this very delivery, or since the step: nobody wants to
 * hear of its tokens any more, unless it had ended by itself before that.
 */
function isTooLate({ endRequested, endedAs }: Sequence): boolean {
  if (endRequested === undefined) return false;
  if (endedAs === undefined || endedAs === 'asked') return true;
  return endedAs === 'length' && endRequested === 'stop';
}
