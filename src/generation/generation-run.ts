/** A submitted request: collects the engine's callbacks of all its prompts into one event queue. */
import type { EngineHandle, FinishEvent, RequestListener, TokenEvent } from '../engine/types.ts';
import { LoramuxError } from '../errors.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { Choice, codePoints } from './choice.ts';
import { promptTextLogprobs } from './echo.ts';
import { EventQueue } from './event-queue.ts';
import type { EncodedPrompt } from './prompts.ts';
import { compileStop, type StopPattern } from './stop-matcher.ts';
import type {
  ChosenAdapter,
  Generation,
  GenerationEvent,
  GenerationRequest,
  TextLogprobs,
  Usage,
} from './types.ts';

/** How a request ended. */
export type Outcome = 'stop' | 'length' | 'cancelled' | 'error';

/** Told what happens to one request; used for metrics. */
export interface RunObserver {
  prompt(numTokens: number): void;
  /** A prompt is computed for the first time, `waitMs` after it was handed to the engine. */
  scheduled(waitMs: number): void;
  /** A generated token of one choice of the request. */
  token(index: number): void;
  /** Once, with the worst outcome of its choices. */
  end(outcome: Outcome, error: LoramuxError | undefined): void;
}

export interface RunOptions {
  readonly id: string;
  /** On the clock of performance.now(). */
  readonly arrivalMs: number;
  readonly adapters: readonly ChosenAdapter[];
  readonly request: GenerationRequest;
  readonly tokenizer: Tokenizer;
  readonly streamBufferBytes: number;
  readonly observer: RunObserver;
  /** Gives the holds on the adapters' generations back. */
  readonly release: () => void;
}

/**
 * Bytes an event adds to the queue, roughly: the bound is on the order of magnitude. An echo adds
 * none of its prompt, which the run holds anyway and all choices share: it comes all at once, so it
 * says nothing about the reader.
 */
function eventBytes(event: GenerationEvent): number {
  const fixed = 96;
  if (event.type === 'error' || event.type === 'echo') return fixed;
  let bytes = fixed + 2 * event.text.length;
  if (event.type === 'token' && event.logprobs !== undefined) {
    bytes += 96 * (1 + (event.logprobs.top?.length ?? 0));
  }
  return bytes;
}

/** One prompt of the request: one engine request with `n` choices. */
class PromptPart {
  readonly prompt: EncodedPrompt;
  readonly listener: RequestListener;
  readonly choices: Choice[] = [];
  /** Of the prompt; kept when they are wanted apart from the answer. */
  logprobs: readonly TextLogprobs[] | undefined;
  #handle: EngineHandle | undefined;
  /** Choices stopped, or everything cancelled, before the engine returned its handle. */
  #early: (number | 'cancel')[] = [];
  /** Choices the engine has not finished. */
  open: number;

  constructor(prompt: EncodedPrompt, n: number, listener: (part: PromptPart) => RequestListener) {
    this.prompt = prompt;
    this.open = n;
    this.listener = listener(this);
  }

  attach(handle: EngineHandle): void {
    this.#handle = handle;
    for (const what of this.#early) {
      if (what === 'cancel') handle.cancel();
      else handle.stop(what);
    }
    this.#early = [];
  }

  stop(index: number): void {
    if (this.#handle === undefined) this.#early.push(index);
    else this.#handle.stop(index);
  }

  cancel(): void {
    if (this.open === 0) return;
    if (this.#handle === undefined) this.#early.push('cancel');
    else this.#handle.cancel();
  }

  /** The engine refused the request: nothing will be called. */
  refused(): boolean {
    return this.#handle === undefined;
  }

  get cachedTokens(): number {
    return this.#handle?.cachedPromptTokens ?? 0;
  }
}

export class GenerationRun implements Generation {
  readonly id: string;
  readonly arrivalMs: number;
  readonly adapters: readonly ChosenAdapter[];
  readonly choices: number;
  onFailure: (() => void) | undefined;
  readonly #options: RunOptions;
  readonly #queue: EventQueue<GenerationEvent>;
  readonly #parts: PromptPart[] = [];
  readonly #stops: readonly StopPattern[];
  #signal: AbortSignal | undefined;
  /** Choices whose end the reader has not been told. */
  #unfinished: number;
  #outcome: Outcome = 'stop';
  #ended = false;
  #released = false;

  constructor(options: RunOptions) {
    this.id = options.id;
    this.arrivalMs = options.arrivalMs;
    this.adapters = options.adapters;
    this.choices = options.request.prompts.length * options.request.n;
    this.#unfinished = this.choices;
    this.#options = options;
    // Once for all choices: a thousand characters times a hundred choices would be felt.
    this.#stops = options.request.stop.map(compileStop);
    this.#queue = new EventQueue(options.streamBufferBytes);
  }

  // --- start ---

  /** A prompt about to be submitted; the caller attaches the engine's handle. */
  addPrompt(prompt: EncodedPrompt, stopTokenIds: ReadonlySet<number>): PromptPart {
    const { request, tokenizer, observer } = this.#options;
    const first = this.#parts.length * request.n;
    const part = new PromptPart(prompt, request.n, (self) => this.#listener(self, first));
    for (let i = 0; i < request.n; i++) {
      part.choices.push(
        new Choice(tokenizer, {
          index: first + i,
          stops: this.#stops,
          includeStopInOutput: request.includeStopInOutput,
          skipSpecialTokens: request.skipSpecialTokens,
          stopTokenIds,
          minTokens: request.sampling.minTokens,
          promptTokenIds: prompt.tokenIds,
          textStart: request.echo ? codePoints(prompt.text) : 0,
        }),
      );
      if (request.echo && request.sampling.logprobs === undefined) {
        this.#push({ type: 'echo', index: first + i, text: prompt.text, logprobs: undefined });
      }
    }
    this.#parts.push(part);
    observer.prompt(prompt.tokenIds.length);
    return part;
  }

  /** All prompts are queued: from now on the signal cancels. */
  started(signal: AbortSignal): void {
    this.#signal = signal;
    if (signal.aborted) this.cancel();
    else signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** Nobody will hear of what is submitted from now on. */
  get ended(): boolean {
    return this.#ended;
  }

  /** A prompt was refused: withdraw the others; the caller reports the error. */
  abandon(error: LoramuxError): void {
    this.#end('error', error);
    this.#queue.discard();
  }

  readonly #onAbort = () => this.cancel();

  // --- the reader's side ---

  next(timeoutMs?: number, eventsMax?: number): Promise<GenerationEvent[] | undefined> {
    return this.#queue.next(timeoutMs, eventsMax);
  }

  cancel(): void {
    this.#end('cancelled', undefined);
    this.#queue.discard();
  }

  get prompts(): Generation['prompts'] {
    return this.#parts.map(({ prompt, logprobs }) => ({ tokenIds: prompt.tokenIds, logprobs }));
  }

  usage(): Usage {
    const usage: Usage = { promptTokens: 0, completionTokens: 0, cachedTokens: 0 };
    for (const part of this.#parts) {
      usage.promptTokens += part.prompt.tokenIds.length;
      usage.cachedTokens += part.cachedTokens;
      for (const choice of part.choices) usage.completionTokens += choice.numTokens;
    }
    return usage;
  }

  // --- the engine's side ---

  #listener(part: PromptPart, first: number): RequestListener {
    const { request, tokenizer } = this.#options;
    return {
      onScheduled: (waitMs) => {
        if (!this.#ended) this.#options.observer.scheduled(waitMs);
      },
      onPromptLogprobs: (logprobs) => {
        const entries = promptTextLogprobs(
          tokenizer,
          part.prompt,
          logprobs,
          request.skipSpecialTokens,
        );
        if (request.promptLogprobs !== undefined) part.logprobs = entries;
        const { logprobs: numTop } = request.sampling;
        if (!request.echo || numTop === undefined) return;
        const shown = entries.map((e) => ({ ...e, top: e.top?.slice(0, numTop) ?? null }));
        for (let i = 0; i < request.n; i++) {
          const { text } = part.prompt;
          this.#push({ type: 'echo', index: first + i, text, logprobs: shown });
        }
      },
      onToken: (event) => this.#onToken(part, event),
      onFinish: (event) => this.#onFinish(part, event),
    };
  }

  #onToken(part: PromptPart, event: TokenEvent): void {
    const choice = part.choices[event.index]!;
    if (this.#ended || choice.finished) return;
    this.#options.observer.token(choice.index);
    const events = choice.token(event);
    for (const one of events) this.#push(one);
    if (!choice.finished) return;
    part.stop(event.index);
    this.#choiceDone('stop');
  }

  #onFinish(part: PromptPart, event: FinishEvent): void {
    part.open -= 1;
    this.#releaseWhenIdle();
    const choice = part.choices[event.index]!;
    if (this.#ended || choice.finished) return;
    if (event.reason === 'error' || event.reason === 'cancelled') {
      // Nobody here cancelled: the engine ends because the server does.
      const error =
        event.error ??
        new LoramuxError('shutting_down', 'the server stopped before the request was finished');
      this.#fail(error);
      return;
    }
    const end = choice.end(event.reason, event.stopTokenId);
    this.#push(end);
    this.#choiceDone(end.reason);
  }

  #choiceDone(reason: 'stop' | 'length'): void {
    if (reason === 'length') this.#outcome = 'length';
    this.#unfinished -= 1;
    if (this.#unfinished > 0) return;
    this.#end(this.#outcome, undefined);
    this.#queue.end();
  }

  #push(event: GenerationEvent): void {
    if (this.#ended || this.#queue.push(event, eventBytes(event))) return;
    this.#fail(
      new LoramuxError(
        'slow_reader',
        `more than ${this.#options.streamBufferBytes} bytes waited for this request's reader; ` +
          'read faster or ask for less',
      ),
    );
  }

  #fail(error: LoramuxError): void {
    this.#end('error', error);
    this.#queue.endWith({ type: 'error', error });
    this.onFailure?.();
  }

  /** Everything that still runs is cancelled; the observer hears of it once. */
  #end(outcome: Outcome, error: LoramuxError | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#signal?.removeEventListener('abort', this.#onAbort);
    for (const part of this.#parts) part.cancel();
    this.#options.observer.end(outcome, error);
    this.#releaseWhenIdle();
  }

  /** The adapter is held until the engine has finished with it, not merely until the reader has. */
  #releaseWhenIdle(): void {
    if (!this.#ended || this.#released) return;
    if (this.#parts.some((part) => part.open > 0 && !part.refused())) return;
    this.#released = true;
    this.#options.release();
  }
}
