/**
 * A thread that renders chats, so that long ones and templates of others never hold the event loop.
 * It is started for its first chat, and again after it has ended; templates take turns.
 */
import type { Worker } from 'node:worker_threads';
import { LoramuxError, shuttingDown } from '../errors.ts';
import { unpackError } from '../threads/packed-error.ts';
import { startThread } from '../threads/start.ts';
import type { FromRenderer } from './render-worker.ts';
import { type Rendering, type RenderSetup, tooMuch } from './rendering.ts';

const ENTRY = new URL('./render-worker.ts', import.meta.url);
/** Chats that wait; more are refused with queue_full. */
const QUEUE_MAX = 1024;
/** Of one template. */
const QUEUE_OF_TEMPLATE_MAX = 256;
/** After the time of a rendering's own limits: one that is still not done has ended the thread. */
const GRACE_MS = 5000;
/** A machine that does much else may be slow to start a thread. */
const START_MS_MAX = 60_000;
/** JavaScript heap, MiB: what a chat and the lists that a template makes take. */
const HEAP_MB_MAX = 256;

export interface RenderThreadOptions {
  readonly setup: RenderSetup;
  /** Another entry file; for tests of threads that crash. */
  readonly workerUrl?: URL | undefined;
  /** Default GRACE_MS. */
  readonly graceMs?: number | undefined;
}

interface Task {
  readonly rendering: Rendering;
  readonly resolve: (text: string) => void;
  readonly reject: (error: unknown) => void;
}

export class RenderThread {
  readonly #options: RenderThreadOptions;
  #worker: Worker | undefined;
  #ready = false;
  #current: Task | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** By template; the first one's turn is next. */
  readonly #waiting = new Map<string, Task[]>();
  #numWaiting = 0;
  #closed = false;

  constructor(options: RenderThreadOptions) {
    this.#options = options;
  }

  /**
   * @param signal gives up the place of a chat that waits; one that is being rendered goes on
   * @throws LoramuxError the promise: what `render` throws, chat_template_failed when it takes too
   *   much time or memory, queue_full, shutting_down, internal_error when the thread crashes; the
   *   reason of an aborted signal
   */
  async render(rendering: Rendering, signal?: AbortSignal): Promise<string> {
    signal?.throwIfAborted();
    if (this.#closed) throw shuttingDown();
    let onAbort = () => {};
    const text = new Promise<string>((resolve, reject) => {
      const task = { rendering, resolve, reject };
      onAbort = () => this.#withdraw(task, signal!.reason);
      this.#enqueue(task);
    });
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      return await text;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Fails what waits with shutting_down and ends the thread. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    const worker = this.#worker;
    this.#worker = undefined;
    clearTimeout(this.#timer);
    this.#current?.reject(shuttingDown());
    this.#current = undefined;
    this.#failWaiting(shuttingDown());
    await worker?.terminate();
  }

  /** @throws LoramuxError queue_full */
  #enqueue(task: Task): void {
    const { source } = task.rendering;
    const sameTemplate = this.#waiting.get(source) ?? [];
    if (this.#numWaiting >= QUEUE_MAX || sameTemplate.length >= QUEUE_OF_TEMPLATE_MAX) {
      const what = `${this.#numWaiting} chats wait to be rendered; retry later.`;
      throw new LoramuxError('queue_full', what);
    }
    sameTemplate.push(task);
    this.#waiting.set(source, sameTemplate);
    this.#numWaiting += 1;
    this.#pump();
  }

  #withdraw(task: Task, reason: unknown): void {
    const { source } = task.rendering;
    const sameTemplate = this.#waiting.get(source) ?? [];
    const at = sameTemplate.indexOf(task);
    if (at === -1) return;
    sameTemplate.splice(at, 1);
    if (sameTemplate.length === 0) this.#waiting.delete(source);
    this.#numWaiting -= 1;
    task.reject(reason);
  }

  #failWaiting(error: LoramuxError): void {
    for (const tasks of this.#waiting.values()) for (const { reject } of tasks) reject(error);
    this.#waiting.clear();
    this.#numWaiting = 0;
  }

  #next(): Task | undefined {
    for (const [source, tasks] of this.#waiting) {
      this.#waiting.delete(source);
      const task = tasks.shift();
      if (tasks.length > 0) this.#waiting.set(source, tasks);
      this.#numWaiting -= 1;
      return task;
    }
    return undefined;
  }

  #pump(): void {
    if (this.#current !== undefined || this.#numWaiting === 0) return;
    this.#worker ??= this.#start();
    if (!this.#ready) return;
    const task = this.#next()!;
    try {
      this.#worker.postMessage(task.rendering);
    } catch (cause) {
      task.reject(tooMuch('they are nested too deeply', cause));
      this.#pump();
      return;
    }
    this.#current = task;
    // The process lives while a chat is rendered, and may end while the thread is idle.
    this.#worker.ref();
    const { limits } = task.rendering;
    this.#endAfter(limits.timeoutMs + (this.#options.graceMs ?? GRACE_MS), () =>
      tooMuch('it does not come to an end in time'),
    );
  }

  #endAfter(ms: number, errorOf: () => LoramuxError): void {
    const worker = this.#worker!;
    this.#timer = setTimeout(() => this.#lost(worker, errorOf()), ms);
  }

  #start(): Worker {
    const { setup, workerUrl } = this.#options;
    const worker = startThread(workerUrl ?? ENTRY, {
      name: 'chat-render',
      workerData: setup,
      heapMbMax: HEAP_MB_MAX,
    });
    worker.on('message', (message: FromRenderer) => this.#hear(worker, message));
    worker.on('error', (error) => this.#lost(worker, errorOf(error)));
    worker.on('messageerror', (error) => this.#lost(worker, errorOf(error)));
    worker.on('exit', () => this.#lost(worker, errorOf(undefined)));
    this.#worker = worker;
    this.#endAfter(START_MS_MAX, () => errorOf(undefined));
    return worker;
  }

  #hear(worker: Worker, message: FromRenderer): void {
    if (worker !== this.#worker) return;
    clearTimeout(this.#timer);
    const task = this.#current;
    this.#current = undefined;
    if (message.kind === 'ready') this.#ready = true;
    else if (message.kind === 'rendered') task?.resolve(message.text);
    else task?.reject(unpackError(message.error));
    worker.unref();
    this.#pump();
  }

  /** Fails the chat it had, or all where it never started; the next one starts another. */
  #lost(worker: Worker, error: LoramuxError): void {
    if (worker !== this.#worker) return;
    clearTimeout(this.#timer);
    const started = this.#ready;
    this.#worker = undefined;
    this.#ready = false;
    const task = this.#current;
    this.#current = undefined;
    void worker.terminate();
    task?.reject(error);
    if (!started) this.#failWaiting(error);
    this.#pump();
  }
}

function errorOf(cause: unknown): LoramuxError {
  if ((cause as NodeJS.ErrnoException | undefined)?.code === 'ERR_WORKER_OUT_OF_MEMORY') {
    return tooMuch('that takes too much memory', cause);
  }
  const what = 'The thread that rendered the chat stopped unexpectedly.';
  return new LoramuxError('internal_error', what, { cause });
}
