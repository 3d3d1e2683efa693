/** Text events to OpenAI's responses, whole or as a stream of named events. */
import type { LoramuxError } from '../../errors.ts';
import type { Generation } from '../../generation/types.ts';
import { errorBody } from '../schemas/error.ts';
import type {
  CreateResponse,
  ModelResponse,
  WireFunction,
  WireResponseUsage,
} from '../schemas/responses.ts';
import type { WireResponseEvent } from '../schemas/responses-events.ts';
import { answeredBy } from './adapter-choice.ts';
import type { ChatCall } from './chat-request.ts';
import type { ChoiceEvent } from './completion-response.ts';
import { type OutputEvent, type OutputOptions, ResponseOutput } from './responses-output.ts';
import type { NamedShape } from './sse.ts';

/** What changes in a response while it is made. */
type Progress = Pick<
  ModelResponse,
  'completed_at' | 'status' | 'error' | 'incomplete_details' | 'output' | 'usage'
>;
/** What stays. */
export type ResponseHead = Omit<ModelResponse, keyof Progress>;

const secondsNow = () => Math.floor(Date.now() / 1000);

const toolOf = ({ type, name, description, parameters, strict }: WireFunction): WireFunction => ({
  type,
  name,
  description: description ?? null,
  parameters: parameters ?? null,
  strict: strict ?? false,
});

/** The request as it was understood, and who answers it. */
export function responseHead(generation: Generation, body: CreateResponse): ResponseHead {
  return {
    id: `resp_${body.request_id ?? generation.id}`,
    object: 'response',
    created_at: secondsNow(),
    model: body.model,
    ...answeredBy(generation),
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    metadata: body.metadata ?? {},
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    prompt_cache_key: body.prompt_cache_key ?? null,
    safety_identifier: body.safety_identifier ?? null,
    temperature: body.temperature ?? 1,
    text: { format: body.text?.format ?? { type: 'text' } },
    tool_choice: body.tool_choice ?? 'auto',
    tools: (body.tools ?? []).map(toolOf),
    top_logprobs: body.top_logprobs ?? 0,
    top_p: body.top_p ?? 1,
    user: body.user ?? null,
    background: false,
    previous_response_id: null,
    reasoning: null,
    service_tier: 'default',
    store: false,
    truncation: 'disabled',
  };
}

function responseUsage(generation: Generation): WireResponseUsage {
  const { promptTokens, completionTokens, cachedTokens } = generation.usage();
  return {
    input_tokens: promptTokens,
    input_tokens_details: { cached_tokens: cachedTokens, cache_write_tokens: 0 },
    output_tokens: completionTokens,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: promptTokens + completionTokens,
  };
}

export interface ResponseOptions {
  readonly call: ChatCall;
  /** Entries of top_logprobs. */
  readonly numTop: number;
}

/** A response in the making. */
class Answer {
  readonly output: ResponseOutput;
  readonly #head: ResponseHead;
  readonly #generation: Generation;

  constructor(head: ResponseHead, generation: Generation, { call, numTop }: ResponseOptions) {
    this.#head = head;
    this.#generation = generation;
    const options: OutputOptions = { call, numTop, id: generation.id };
    this.output = new ResponseOutput(options);
  }

  begun(): ModelResponse {
    return this.#with({ status: 'in_progress', output: [] });
  }

  finished(): ModelResponse {
    const usage = responseUsage(this.#generation);
    if (this.output.reason === 'length') {
      const incomplete_details = { reason: 'max_output_tokens' } as const;
      return this.#with({ status: 'incomplete', incomplete_details, usage });
    }
    return this.#with({ status: 'completed', completed_at: secondsNow(), usage });
  }

  failed({ code, message }: LoramuxError): ModelResponse {
    const usage = responseUsage(this.#generation);
    return this.#with({ status: 'failed', error: { code, message }, usage });
  }

  #with(progress: Pick<Progress, 'status'> & Partial<Progress>): ModelResponse {
    return {
      ...this.#head,
      completed_at: null,
      error: null,
      incomplete_details: null,
      output: [...this.output.items],
      usage: null,
      ...progress,
    };
  }
}

/** Collects the events of a whole answer. */
export class ResponseCollector {
  readonly #answer: Answer;

  constructor(head: ResponseHead, generation: Generation, options: ResponseOptions) {
    this.#answer = new Answer(head, generation, options);
  }

  add(event: ChoiceEvent): void {
    this.#answer.output.read(event);
  }

  finish(): ModelResponse {
    return this.#answer.finished();
  }
}

/** The events of a streamed answer. */
export class ResponseStream implements NamedShape {
  readonly named = true;
  readonly #answer: Answer;
  #numEvents = 0;

  constructor(head: ResponseHead, generation: Generation, options: ResponseOptions) {
    this.#answer = new Answer(head, generation, options);
  }

  first(): WireResponseEvent[] {
    const response = this.#answer.begun();
    return [
      this.#numbered({ type: 'response.created', response }),
      this.#numbered({ type: 'response.in_progress', response }),
    ];
  }

  chunks(event: ChoiceEvent): WireResponseEvent[] {
    return this.#answer.output.read(event).map((each) => this.#numbered(each));
  }

  last(): WireResponseEvent {
    const response = this.#answer.finished();
    const isWhole = response.status === 'completed';
    const type = isWhole ? 'response.completed' : 'response.incomplete';
    return this.#numbered({ type, response });
  }

  /** The error in the two shapes that clients look for, then the response it ended. */
  failure(error: LoramuxError): WireResponseEvent[] {
    const { error: body } = errorBody(error);
    const { code, message, param } = body;
    const response = this.#answer.failed(error);
    return [
      this.#numbered({ type: 'error', code, message, param, error: body }),
      this.#numbered({ type: 'response.failed', response }),
    ];
  }

  #numbered(event: OutputEvent): WireResponseEvent {
    const sequence_number = this.#numEvents;
    this.#numEvents += 1;
    return { ...event, sequence_number };
  }
}
