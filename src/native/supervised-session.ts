/**
 * The native session as the server keeps it: one that is replaced when it is at fault. To the
 * engine and the residency it looks like a session that never ends.
 *
 * The one at fault is closed before another is opened, for two may not fit into memory. One whose
 * step never comes back cannot be closed: it is abandoned, memory and threads and all, and counted.
 */
import { LoramuxError, shuttingDown, toLoramuxError } from '../errors.ts';
import type {
  AdapterImage,
  NativeSession,
  NativeSessionInfo,
  StepPacket,
  StepResult,
} from './addon-types.ts';
import { nativeErrorCode } from './errors.ts';
import { StepWatch } from './step-watch.ts';

/** Restarts are counted within this time, milliseconds. */
export const RESTART_WINDOW_MS = 10 * 60_000;
/** Pause before the second restart within the window; twice as long before each further one. */
export const RESTART_PAUSE_MS = 1000;
export const RESTART_PAUSE_MS_MAX = 30_000;
/** How long a session at fault may take to close before it is abandoned, milliseconds. */
export const CLOSE_MS_MAX = 30_000;
/** Abandoned sessions that the process lives with; with one more it cannot go on. */
export const ABANDONED_SESSIONS_MAX = 1;

export type SessionState = 'ok' | 'restarting' | 'failed';

export interface SessionReport {
  readonly state: SessionState;
  /** Since when, milliseconds since the epoch. */
  readonly sinceMs: number;
  /** Sessions that took the place of one at fault. */
  readonly restarts: number;
  /** What the last fault was, or why a restart failed. */
  readonly lastError: string | undefined;
}

export interface SupervisorOptions {
  /** A step that takes longer puts the session at fault, milliseconds. */
  readonly stepTimeoutMs: number;
  /** Restarts within `RESTART_WINDOW_MS`; 0 for none at all. */
  readonly maxRestarts: number;
  /** Pause before the second restart; default `RESTART_PAUSE_MS`. */
  readonly pauseMs?: number;
  readonly onWarning?: (message: string, error: unknown) => void;
  readonly onNotice?: (message: string) => void;
  /** Milliseconds, monotonic. */
  readonly now?: () => number;
}

/** A step that did not come back in time. */
class StepTimeout extends LoramuxError {
  constructor(timeoutMs: number) {
    super('engine_failed', `The step did not end within ${timeoutMs} ms (--step-timeout-ms).`);
  }
}

interface Successor {
  readonly session: Promise<NativeSession>;
  readonly resolve: (session: NativeSession) => void;
  readonly reject: (error: LoramuxError) => void;
}

export class SupervisedSession implements NativeSession {
  readonly #open: () => Promise<NativeSession>;
  readonly #options: SupervisorOptions;
  readonly #now: () => number;
  readonly #watch: StepWatch;
  /** When restarts within the window began. */
  readonly #starts: number[] = [];
  #session: NativeSession;
  /** The session that takes the place of `#session`; undefined while that one is at work. */
  #successor: Successor | undefined;
  /** A step of `#session` did not come back. */
  #hung = false;
  #replacing: Promise<void> = Promise.resolve();
  #wake: () => void = () => {};
  #closed: Promise<void> | undefined;
  #stopped = false;
  #abandoned = 0;
  #state: SessionState = 'ok';
  #sinceMs = Date.now();
  #restarts = 0;
  #lastError: string | undefined;
  #giveUp: (error: LoramuxError) => void = () => {};
  /** Resolves, if ever, when so many sessions were abandoned that only a new process helps. */
  readonly hopeless = new Promise<LoramuxError>((resolve) => {
    this.#giveUp = resolve;
  });

  private constructor(
    session: NativeSession,
    open: () => Promise<NativeSession>,
    options: SupervisorOptions,
  ) {
    this.#session = session;
    this.#open = open;
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#watch = new StepWatch(options.stepTimeoutMs);
  }

  /**
   * Opens the first session.
   * @param open makes a session, always with the same options
   * @throws what `open` throws
   */
  static async start(
    open: () => Promise<NativeSession>,
    options: SupervisorOptions,
  ): Promise<SupervisedSession> {
    return new SupervisedSession(await open(), open, options);
  }

  /** Of the session at work, or of the last one. */
  get info(): NativeSessionInfo {
    return this.#session.info;
  }

  report(): SessionReport {
    return {
      state: this.#state,
      sinceMs: this.#sinceMs,
      restarts: this.#restarts,
      lastError: this.#lastError,
    };
  }

  /** Sessions that were not closed because a step of theirs has not come back. */
  get abandoned(): number {
    return this.#abandoned;
  }

  step(packet: StepPacket, wantLogits = false): Promise<StepResult> {
    if (this.#successor !== undefined) {
      return Promise.reject(new LoramuxError('session_restarting', 'No session is at work.'));
    }
    return new Promise((resolve, reject) => {
      const done = this.#watch.begin(() => {
        this.#hung = true;
        reject(new StepTimeout(this.#options.stepTimeoutMs));
      });
      // A step that was given up settles without effect.
      this.#session.step(packet, wantLogits).finally(done).then(resolve, reject);
    });
  }

  /** Whether a failed step shows that no later one can be expected to succeed. */
  isAtFault(cause: unknown): boolean {
    if (cause instanceof StepTimeout) return true;
    const code = nativeErrorCode(cause);
    return code === 'native_out_of_memory' || code === 'native_session_closed';
  }

  /** While the session is being replaced, waits for the next one. */
  async loadAdapter(slot: number, image: AdapterImage): Promise<{ bytes: number; loadMs: number }> {
    const session = (await this.#successor?.session) ?? this.#session;
    return session.loadAdapter(slot, image);
  }

  /** The slots of a session at fault go with it. */
  freeAdapter(slot: number): void {
    if (this.#successor === undefined) this.#session.freeAdapter(slot);
  }

  /**
   * Replaces the session. From this call on slots are empty and no step is taken.
   * @throws LoramuxError engine_failed when the limit is reached, shutting_down when it was stopped
   */
  restart(fault: LoramuxError): Promise<void> {
    this.#note('restarting', fault);
    this.#options.onWarning?.('the native session is at fault', fault);
    const successor = createSuccessor();
    this.#successor = successor;
    const replaced = this.#replace().then(
      (session) => {
        this.#session = session;
        this.#hung = false;
        this.#successor = undefined;
        this.#restarts += 1;
        this.#note('ok', undefined);
        successor.resolve(session);
      },
      (thrown: unknown) => {
        const error = toLoramuxError(thrown);
        this.#note('failed', error);
        successor.reject(error);
        throw error;
      },
    );
    this.#replacing = replaced.catch(() => {});
    return replaced;
  }

  /** No more restarts: whoever waits for a session hears `shutting_down`. */
  stop(): void {
    this.#stopped = true;
    this.#wake();
    this.#successor?.reject(shuttingDown());
  }

  /** Stops, and closes what is open; one that does not come back is left behind. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.stop();
    await this.#replacing;
    this.#watch.close();
    // Closed already, or abandoned.
    if (this.#successor !== undefined) return;
    if (this.#hung) await this.#retire(this.#session);
    else await this.#session.close();
  }

  async #replace(): Promise<NativeSession> {
    const startedMs = this.#now();
    const session = this.#session;
    await this.#retire(session);
    if (this.#abandoned > ABANDONED_SESSIONS_MAX) {
      const error = new LoramuxError(
        'engine_failed',
        `${this.#abandoned} native sessions do not come back from a step. Restart the server.`,
      );
      this.#giveUp(error);
      throw error;
    }
    for (;;) {
      await this.#pause();
      if (this.#stopped) throw shuttingDown();
      try {
        const next = await this.#open();
        const tookMs = Math.round(this.#now() - startedMs);
        this.#options.onNotice?.(`the native session was restarted in ${tookMs} ms`);
        return next;
      } catch (error) {
        this.#lastError = toLoramuxError(error).message;
        this.#options.onWarning?.('the native session could not be opened again', error);
      }
    }
  }

  /** Counts a restart, and waits if others came shortly before. */
  async #pause(): Promise<void> {
    const { maxRestarts, pauseMs = RESTART_PAUSE_MS } = this.#options;
    const nowMs = this.#now();
    while (this.#starts.length > 0 && nowMs - this.#starts[0]! > RESTART_WINDOW_MS) {
      this.#starts.shift();
    }
    const earlier = this.#starts.length;
    if (earlier >= maxRestarts) {
      throw new LoramuxError(
        'engine_failed',
        `The native session failed again after ${earlier} restarts within ` +
          `${RESTART_WINDOW_MS / 60_000} minutes (--max-session-restarts), ` +
          `with: ${this.#lastError} Restart the server.`,
      );
    }
    this.#starts.push(nowMs);
    if (earlier === 0 || this.#stopped) return;
    const delayMs = Math.min(pauseMs * 2 ** (earlier - 1), RESTART_PAUSE_MS_MAX);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, delayMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Hurries the step under way and closes, or gives up on it. */
  async #retire(session: NativeSession): Promise<void> {
    let isClosed = false;
    const closing = session.close(true).then(
      () => {
        isClosed = true;
      },
      (error: unknown) => {
        isClosed = true;
        this.#options.onWarning?.('the native session did not close as it should', error);
      },
    );
    let timer: NodeJS.Timeout | undefined;
    const limit = Math.min(CLOSE_MS_MAX, this.#options.stepTimeoutMs);
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, limit);
    });
    await Promise.race([closing, late]);
    clearTimeout(timer);
    if (isClosed) return;
    this.#abandoned += 1;
    this.#options.onWarning?.(
      'the native session is abandoned with its memory and threads',
      new LoramuxError('engine_failed', `A step did not end within ${limit} ms of its cancelling.`),
    );
    void closing.then(() => {
      this.#abandoned -= 1;
    });
  }

  #note(state: SessionState, error: LoramuxError | undefined): void {
    this.#state = state;
    this.#sinceMs = Date.now();
    if (error !== undefined) this.#lastError = error.message;
  }
}

function createSuccessor(): Successor {
  let resolve: Successor['resolve'] = () => {};
  let reject: Successor['reject'] = () => {};
  const session = new Promise<NativeSession>((onSession, onError) => {
    resolve = onSession;
    reject = onError;
  });
  // Often nobody waits for it.
  session.catch(() => {});
  return { session, resolve, reject };
}
