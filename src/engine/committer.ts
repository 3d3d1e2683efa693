/** Applies the result of a step: tokens, log-probabilities, ends. Queues events, delivers none. */
import { LoramuxError } from '../errors.ts';
import { MAX_TOP_LOGPROBS, ROW_STATUS, type StepResult } from '../native/addon-types.ts';
import type { Scheduler } from '../scheduler/scheduler.ts';
import type { Sequence, SequenceGroup } from '../scheduler/sequence.ts';
import type { ScheduledSequence, StepPlan } from '../scheduler/step-plan.ts';
import type { EventQueue } from './event-queue.ts';
import type { LiveRequest } from './live-request.ts';
import type { FinishReason, TokenLogprobs } from './types.ts';

export interface Ending {
  reason: FinishReason;
  stopTokenId?: number;
  error?: LoramuxError;
  /** The blocks may hold bad values: drop them from the prefix cache. */
  poisoned?: boolean;
}

export class Committer {
  generatedTokens = 0;
  readonly #scheduler: Scheduler;
  readonly #events: EventQueue;
  readonly #live: Map<SequenceGroup, LiveRequest>;
  /** When the step that is being committed was planned. */
  #plannedMs = 0;

  constructor(scheduler: Scheduler, events: EventQueue, live: Map<SequenceGroup, LiveRequest>) {
    this.#scheduler = scheduler;
    this.#events = events;
    this.#live = live;
  }

  /**
   * The step succeeded. Rows come in the order in which the plan's entries were packed.
   * @param plannedMs when the step was planned
   */
  commit(plan: StepPlan, result: StepResult, plannedMs: number): void {
    plan.reservation.commit();
    this.#plannedMs = plannedMs;
    let row = 0;
    for (const entry of plan.entries) {
      const numRows = entry.numScored + (entry.samples ? 1 : 0);
      // A sibling's bad row may just have ended the whole request.
      if (entry.sequence.status !== 'finished') this.#commitEntry(entry, result, row, numRows);
      row += numRows;
    }
  }

  /** The step failed: its blocks go back and its sequences end with `error`; others are untouched. */
  abort(plan: StepPlan, error: LoramuxError): void {
    plan.reservation.release();
    for (const { sequence } of plan.entries) {
      // A carrier computes the prompt of all choices, so all of them were in the step.
      if (sequence.isCarrier) this.endAll(sequence.group, { reason: 'error', error });
      else this.end(sequence, { reason: sequence.endRequested ?? 'error', error });
    }
  }

  /** Ends one choice and queues its finish event. */
  end(sequence: Sequence, ending: Ending): void {
    const { group, index } = sequence;
    const request = this.#live.get(group);
    if (request === undefined || sequence.status === 'finished') return;
    const wasAskedFor = sequence.endRequested !== undefined;
    this.#scheduler.finish(sequence, ending.poisoned);
    // By index: choices may have traded places.
    group.sequences[index]!.endedAs = wasAskedFor ? 'asked' : ending.reason;
    if (group.numLive === 0) this.#live.delete(group);
    this.#events.finish(request, {
      index,
      reason: ending.reason,
      stopTokenId: ending.stopTokenId,
      error: ending.reason === 'error' ? ending.error : undefined,
    });
  }

  /** Ends every unfinished choice; one whose end was asked for keeps that reason. */
  endAll(group: SequenceGroup, ending: Ending): void {
    for (let index = 0; index < group.sequences.length; index++) {
      // By index: ending a carrier makes choices trade places.
      const sequence = group.sequences[index]!;
      this.end(sequence, { ...ending, reason: sequence.endRequested ?? ending.reason });
    }
  }

  /** Tells the listener that all is lost without touching state that proved inconsistent. */
  abandon(group: SequenceGroup, error: LoramuxError): void {
    const request = this.#live.get(group);
    if (request === undefined) return;
    this.#live.delete(group);
    for (const sequence of group.sequences) {
      if (sequence.status === 'finished') continue;
      sequence.status = 'finished';
      const { index } = sequence;
      this.#events.finish(request, { index, reason: 'error', stopTokenId: undefined, error });
    }
  }

  /** Ends the choices whose end was asked for. */
  endRequested(group: SequenceGroup): void {
    for (let index = 0; index < group.sequences.length; index++) {
      const sequence = group.sequences[index]!;
      const reason = sequence.endRequested;
      if (reason !== undefined) this.end(sequence, { reason });
    }
  }

  #commitEntry(entry: ScheduledSequence, result: StepResult, row: number, numRows: number): void {
    const { sequence } = entry;
    const { group } = sequence;
    const status = result.rowStatus?.subarray(row, row + numRows);
    if (status?.includes(ROW_STATUS.notFinite)) {
      this.#endNotFinite(group);
      return;
    }
    if (status?.includes(ROW_STATUS.noMask)) {
      this.#endWithoutMask(group);
      return;
    }
    this.#scheduler.advance(entry);
    const request = this.#live.get(group)!;
    if (request.waitsSinceMs !== undefined) {
      this.#events.scheduled(request, this.#plannedMs - request.waitsSinceMs);
      request.waitsSinceMs = undefined;
    }
    if (request.promptLogprobs !== undefined) {
      for (let i = 0; i < entry.numScored; i++) {
        request.promptLogprobs.push(readLogprobs(result, row + i, group, true));
      }
      if (sequence.numComputed >= group.prompt.length) {
        this.#events.prompt(request, request.promptLogprobs);
        request.promptLogprobs = undefined;
      }
    }
    if (entry.samples) this.#commitToken(request, sequence, result, row + entry.numScored);
    else if (group.request.sampling.maxTokens === 0 && sequence.numComputed === group.prompt.length)
      this.endAll(group, { reason: 'length' });
  }

  #commitToken(request: LiveRequest, sequence: Sequence, result: StepResult, row: number): void {
    const { group } = sequence;
    const { sampling } = group.request;
    // Before the carrier can finish: the others take their blocks from it.
    if (sequence.isCarrier) this.#scheduler.fork(group);
    if (sequence.endRequested !== undefined) return;
    const tokenId = result.tokenIds[row]!;
    const mayStop = sequence.numOutput >= sampling.minTokens;
    sequence.append(tokenId);
    this.generatedTokens += 1;
    this.#scheduler.waiting.fairShare.chargeOutput(group.lane, 1);
    const logprobs =
      sampling.logprobs === undefined ? undefined : readLogprobs(result, row, group, false);
    this.#events.token(request, { index: sequence.index, tokenId, logprobs });
    if (mayStop && sampling.stopTokenIds.has(tokenId)) {
      this.end(sequence, { reason: 'stop', stopTokenId: tokenId });
    } else if (sequence.numOutput >= sampling.maxTokens) {
      this.end(sequence, { reason: 'length' });
    }
  }

  #endWithoutMask(group: SequenceGroup): void {
    const error = new LoramuxError(
      'grammar_failed',
      `The allowed tokens of request ${group.request.id} did not come in time; retry.`,
    );
    this.endAll(group, { reason: 'error', error });
  }

  #endNotFinite(group: SequenceGroup): void {
    const scales = group.request.adapters.map(({ weight }) => weight).join(', ');
    const error = new LoramuxError(
      'logits_not_finite',
      `The model answered NaN or infinity for request ${group.request.id}` +
        (scales === '' ? '.' : `; check the adapter's weights and its scale (${scales}).`),
    );
    this.endAll(group, { reason: 'error', error, poisoned: true });
  }
}

function readLogprobs(
  result: StepResult,
  row: number,
  group: SequenceGroup,
  prompt: boolean,
): TokenLogprobs {
  const { sampling } = group.request;
  const numTop = (prompt ? sampling.promptLogprobs : sampling.logprobs) ?? 0;
  const top: TokenLogprobs['top'] = [];
  for (let i = 0; i < numTop; i++) {
    const at = row * MAX_TOP_LOGPROBS + i;
    top.push({ tokenId: result.topIds[at]!, logprob: result.topLogprobs[at]! });
  }
  const tokenId = result.tokenIds[row]!;
  return { tokenId, logprob: result.logprobs[row]!, rank: result.ranks[row]!, top };
}
