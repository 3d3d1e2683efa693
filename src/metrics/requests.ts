/** What is counted per generation request. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { Outcome, RunObserver } from '../generation/generation-run.ts';
import type { Label } from './label-cap.ts';
import { INFO_NAMES_MAX, LATENCY_BUCKETS_S, PREFIX } from './names.ts';

const TOKEN_KINDS = ['prompt', 'generation'] as const;

interface Families {
  readonly requests: Counter<'outcome'>;
  readonly errors: Counter<'code'>;
  readonly timeToFirstToken: Histogram;
  readonly interToken: Histogram;
  readonly latency: Histogram;
  readonly adapterRequests: Counter<'adapter'>;
  readonly adapterTokens: Counter<'adapter' | 'kind'>;
  readonly adapterQueueWait: Histogram<'adapter'>;
  readonly adapterTimeToFirstToken: Histogram<'adapter'>;
}

function createFamilies(registry: Registry): Families {
  const registers = [registry];
  const histogram = <Name extends string>(name: string, help: string, labelNames: Name[] = []) =>
    new Histogram<Name>({
      name: PREFIX + name,
      help,
      labelNames,
      buckets: LATENCY_BUCKETS_S,
      registers,
    });
  const counter = <Name extends string>(name: string, help: string, labelNames: Name[]) =>
    new Counter<Name>({ name: PREFIX + name, help, labelNames, registers });
  return {
    requests: counter('requests_total', 'Generation requests by outcome.', ['outcome']),
    errors: counter('request_errors_total', 'Failed generation requests by code.', ['code']),
    timeToFirstToken: histogram('time_to_first_token_seconds', 'Arrival to first token.'),
    interToken: histogram('inter_token_latency_seconds', 'One token to the next of a choice.'),
    latency: histogram('e2e_request_latency_seconds', 'Arrival to the end of a request.'),
    adapterRequests: counter('adapter_requests_total', 'Requests by adapter.', ['adapter']),
    adapterTokens: counter('adapter_tokens_total', 'Tokens by adapter and kind.', [
      'adapter',
      'kind',
    ]),
    adapterQueueWait: histogram(
      'adapter_queue_wait_seconds',
      'From the queue to the first step that computes a prompt, by adapter.',
      ['adapter'],
    ),
    adapterTimeToFirstToken: histogram(
      'adapter_time_to_first_token_seconds',
      'Arrival to first token by adapter.',
      ['adapter'],
    ),
  };
}

interface Live {
  waiting: number;
  running: number;
}

/** Requests in the server by adapter name; only names with requests are kept. */
class LiveRequests {
  readonly #byName = new Map<string, Live>();

  change(name: string, waiting: number, running: number): void {
    const live = this.#byName.get(name) ?? { waiting: 0, running: 0 };
    live.waiting += waiting;
    live.running += running;
    if (live.waiting === 0 && live.running === 0) this.#byName.delete(name);
    else this.#byName.set(name, live);
  }

  /** Joined by commas, which names cannot have. */
  names(state: keyof Live): string {
    const names: string[] = [];
    for (const [name, live] of this.#byName) {
      if (names.length === INFO_NAMES_MAX) break;
      if (live[state] > 0) names.push(name);
    }
    return names.join(',');
  }
}

interface Target {
  /** None is the base. */
  readonly names: ReadonlySet<string>;
  readonly label: Label;
}

class RequestObserver implements RunObserver {
  readonly #families: Families;
  readonly #live: LiveRequests;
  readonly #target: Target;
  readonly #arrivalMs: number;
  /** By choice: when its last token came. */
  readonly #lastTokenMs: number[] = [];
  #scheduled = false;
  #promptTokens = 0;
  #tokens = 0;

  constructor(families: Families, live: LiveRequests, target: Target, arrivalMs: number) {
    this.#families = families;
    this.#live = live;
    this.#target = target;
    this.#arrivalMs = arrivalMs;
    this.#count(1, 0);
  }

  prompt(numTokens: number): void {
    this.#promptTokens += numTokens;
  }

  scheduled(waitMs: number): void {
    this.#families.adapterQueueWait.observe({ adapter: this.#target.label.text }, waitMs / 1000);
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#count(-1, 1);
  }

  token(index: number): void {
    const now = performance.now();
    const last = this.#lastTokenMs[index];
    this.#lastTokenMs[index] = now;
    if (last !== undefined) this.#families.interToken.observe((now - last) / 1000);
    if (this.#tokens === 0) {
      const seconds = (now - this.#arrivalMs) / 1000;
      const adapter = this.#target.label.text;
      this.#families.timeToFirstToken.observe(seconds);
      this.#families.adapterTimeToFirstToken.observe({ adapter }, seconds);
    }
    this.#tokens += 1;
  }

  end(outcome: Outcome, error: { code: string } | undefined): void {
    const { requests, errors, latency, adapterRequests, adapterTokens } = this.#families;
    const adapter = this.#target.label.text;
    requests.inc({ outcome });
    if (error !== undefined) errors.inc({ code: error.code });
    latency.observe((performance.now() - this.#arrivalMs) / 1000);
    adapterRequests.inc({ adapter });
    adapterTokens.inc({ adapter, kind: 'prompt' }, this.#promptTokens);
    adapterTokens.inc({ adapter, kind: 'generation' }, this.#tokens);
    if (this.#scheduled) this.#count(0, -1);
    else this.#count(-1, 0);
  }

  /** The request is live under each of its adapters. */
  #count(waiting: number, running: number): void {
    for (const name of this.#target.names) this.#live.change(name, waiting, running);
  }
}

export class RequestMetrics {
  readonly #families: Families;
  readonly #live = new LiveRequests();
  readonly #info: Gauge<'max_lora' | 'running_lora_adapters' | 'waiting_lora_adapters'>;

  constructor(registry: Registry) {
    this.#families = createFamilies(registry);
    this.#info = new Gauge({
      name: `${PREFIX}lora_requests_info`,
      help: 'Adapters with running and with waiting requests; the value is the time.',
      labelNames: ['max_lora', 'running_lora_adapters', 'waiting_lora_adapters'],
      registers: [registry],
    });
  }

  /** @param arrivalMs on the clock of performance.now() */
  observe(target: Target, arrivalMs: number): RunObserver {
    return new RequestObserver(this.#families, this.#live, target, arrivalMs);
  }

  /** @param slots adapters that fit one step */
  update(slots: number): void {
    this.#info.reset();
    this.#info.set(
      {
        max_lora: String(slots),
        running_lora_adapters: this.#live.names('running'),
        waiting_lora_adapters: this.#live.names('waiting'),
      },
      Date.now() / 1000,
    );
  }

  forget(adapter: string): void {
    const families = this.#families;
    families.adapterRequests.remove({ adapter });
    families.adapterQueueWait.remove({ adapter });
    families.adapterTimeToFirstToken.remove({ adapter });
    for (const kind of TOKEN_KINDS) families.adapterTokens.remove({ adapter, kind });
  }
}
