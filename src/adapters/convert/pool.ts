/**
 * A fixed number of conversion threads, started when needed (the first a little before), with bounded
 * queues. Opening a registered file, which requests wait for, never waits for background work (the
 * conversion of an upload, a prefetch): it goes first, and there is one thread more than background
 * work may take.
 */
import type { Worker } from 'node:worker_threads';
import { LoramuxError, shuttingDown } from '../../errors.ts';
import { unpackError } from '../../threads/packed-error.ts';
import { startThread } from '../../threads/start.ts';
import type { MatchModule } from '../formats/peft-match.ts';
import type { ConvertJob, ConvertResult } from './canonicalize.ts';
import type { WorkerReply, WorkerRequest } from './messages.ts';
import type { CheckedImage, OpenJob } from './open-canonical.ts';

export const DEFAULT_CONVERT_THREADS = 2;
/** Jobs of one kind that wait for a thread; more are refused with queue_full. */
export const DEFAULT_CONVERT_QUEUE = 1024;
/**
 * Pause before the first thread is started although there is no job, milliseconds: the first load
 * after a restart need not wait for it, and what is gone before needs none.
 */
const FIRST_THREAD_MS = 500;
/** JavaScript heap of one thread, MiB; tensor data is outside of it. */
const THREAD_HEAP_MB_MAX = 256;
const ENTRY = new URL('./worker.ts', import.meta.url);

export interface ConvertPoolOptions {
  readonly modules: readonly MatchModule[];
  /** Background jobs at once: conversions and prefetches. */
  readonly threads?: number;
  readonly maxQueued?: number;
  /** Another entry file; for tests of crashing threads. */
  readonly workerUrl?: URL;
}

interface Task {
  readonly request: WorkerRequest;
  readonly background: boolean;
  readonly resolve: (reply: WorkerReply) => void;
  readonly reject: (error: LoramuxError) => void;
}

interface Thread {
  readonly worker: Worker;
  task: Task | undefined;
}

/** What the registry needs of the pool. */
export interface Converter {
  convert(job: ConvertJob): Promise<ConvertResult>;
  close(): Promise<void>;
}

/** What the image tiers need of the pool. */
export interface FileOpener {
  /** @param background nobody waits for it yet. */
  open(job: OpenJob, background?: boolean): Promise<CheckedImage>;
  /** Somebody waits for a background open of this digest now. */
  expedite(digest: string): void;
}

/** A crash of a thread fails the job it had and no other. */
export class ConvertPool implements Converter, FileOpener {
  readonly #options: ConvertPoolOptions;
  readonly #backgroundMax: number;
  readonly #queuedMax: number;
  readonly #threads = new Set<Thread>();
  readonly #urgent: Task[] = [];
  readonly #background: Task[] = [];
  readonly #firstThread: NodeJS.Timeout;
  #closed = false;

  constructor(options: ConvertPoolOptions) {
    this.#options = options;
    this.#backgroundMax = options.threads ?? DEFAULT_CONVERT_THREADS;
    this.#queuedMax = options.maxQueued ?? DEFAULT_CONVERT_QUEUE;
    this.#firstThread = setTimeout(() => {
      if (this.#threads.size === 0) this.#start().worker.unref();
    }, FIRST_THREAD_MS).unref();
  }

  async convert(job: ConvertJob): Promise<ConvertResult> {
    const reply = await this.#run({ kind: 'convert', job }, true);
    if (reply.kind !== 'convert') throw misplaced(reply);
    return reply.result;
  }

  async open(job: OpenJob, background = false): Promise<CheckedImage> {
    const reply = await this.#run({ kind: 'open', job }, background);
    if (reply.kind !== 'open') throw misplaced(reply);
    return reply.result;
  }

  expedite(digest: string): void {
    const at = this.#background.findIndex(
      ({ request }) => request.kind === 'open' && request.job.digest === digest,
    );
    if (at < 0) return;
    const [task] = this.#background.splice(at, 1);
    this.#urgent.push({ ...task!, background: false });
    this.#pump();
  }

  /** Fails what waits or runs with shutting_down and ends the threads. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#firstThread);
    const error = shuttingDown();
    for (const queue of [this.#urgent, this.#background]) {
      for (const task of queue.splice(0)) task.reject(error);
    }
    const threads = [...this.#threads];
    this.#threads.clear();
    for (const thread of threads) {
      thread.task?.reject(error);
      thread.task = undefined;
    }
    await Promise.all(threads.map((thread) => thread.worker.terminate()));
  }

  #run(request: WorkerRequest, background: boolean): Promise<WorkerReply> {
    const queue = background ? this.#background : this.#urgent;
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        reject(shuttingDown());
      } else if (queue.length >= this.#queuedMax) {
        reject(
          new LoramuxError(
            'queue_full',
            `${queue.length} adapter files wait to be checked; retry later.`,
          ),
        );
      } else {
        queue.push({ request, background, resolve, reject });
        this.#pump();
      }
    });
  }

  #pump(): void {
    for (;;) {
      const queue = this.#urgent.length > 0 ? this.#urgent : this.#background;
      if (queue.length === 0) return;
      if (queue === this.#background && this.#numBackground >= this.#backgroundMax) return;
      const thread = this.#idleThread();
      if (thread === undefined) return;
      const task = queue.shift()!;
      thread.task = task;
      // The process lives while a job runs, and may end while the thread is idle.
      thread.worker.ref();
      thread.worker.postMessage(task.request);
    }
  }

  get #numBackground(): number {
    let count = 0;
    for (const { task } of this.#threads) if (task?.background === true) count += 1;
    return count;
  }

  #idleThread(): Thread | undefined {
    for (const thread of this.#threads) if (thread.task === undefined) return thread;
    return this.#threads.size <= this.#backgroundMax ? this.#start() : undefined;
  }

  #start(): Thread {
    const worker = startThread(this.#options.workerUrl ?? ENTRY, {
      name: 'adapter-convert',
      workerData: { modules: this.#options.modules },
      heapMbMax: THREAD_HEAP_MB_MAX,
    });
    const thread: Thread = { worker, task: undefined };
    this.#threads.add(thread);
    worker.on('message', (reply: WorkerReply) => {
      const task = thread.task;
      thread.task = undefined;
      worker.unref();
      if (reply.kind === 'error') task?.reject(unpackError(reply.error));
      else task?.resolve(reply);
      this.#pump();
    });
    worker.on('error', (error) => this.#lost(thread, error));
    worker.on('messageerror', (error) => this.#lost(thread, error));
    worker.on('exit', () => this.#lost(thread, undefined));
    return thread;
  }

  #lost(thread: Thread, cause: unknown): void {
    if (!this.#threads.delete(thread)) return;
    thread.task?.reject(
      new LoramuxError(
        'internal_error',
        'The thread that checked the adapter stopped unexpectedly; nothing was registered.',
        { cause },
      ),
    );
    thread.task = undefined;
    void thread.worker.terminate();
    this.#pump();
  }
}

function misplaced(reply: WorkerReply): LoramuxError {
  return new LoramuxError('internal_error', `A conversion thread answered ${reply.kind}.`);
}
