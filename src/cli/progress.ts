/** Progress on standard error, on a terminal only. */
import { SingleBar } from 'cli-progress';
import type { ProgressCallback } from '../importer/types.ts';

const TICK_MS = 200;
const FRAMES = ['|', '/', '-', '\\'] as const;
/** Erases the line and returns to its start. */
const CLEAR_LINE = '\r\u001b[K';

export interface Progress {
  /** A bar: `done` of `total`. */
  readonly update: ProgressCallback;
  /** Work of unknown length: what is waited for, and since when. Ends a bar. */
  busy(label: string): void;
  stop(): void;
}

const SILENT: Progress = { update: () => {}, busy: () => {}, stop: () => {} };

/** Elapsed time of work that has no end in sight, until the returned function is called. */
function startTicker(stream: NodeJS.WriteStream, label: string): () => void {
  const startMs = performance.now();
  let tick = 0;
  const draw = () => {
    const seconds = Math.floor((performance.now() - startMs) / 1000);
    const line = `${FRAMES[tick++ % FRAMES.length]} ${label} ... ${seconds} s`;
    stream.write(`${CLEAR_LINE}${line.slice(0, (stream.columns ?? 80) - 1)}`);
  };
  draw();
  const timer = setInterval(draw, TICK_MS).unref();
  return () => {
    clearInterval(timer);
    stream.write(CLEAR_LINE);
  };
}

export function createProgress(stream: NodeJS.WriteStream = process.stderr): Progress {
  if (!stream.isTTY) return SILENT;
  let bar: SingleBar | undefined;
  let stopTicker: (() => void) | undefined;
  const stop = () => {
    bar?.stop();
    bar = undefined;
    stopTicker?.();
    stopTicker = undefined;
  };
  return {
    update(done, total, label) {
      if (bar === undefined) {
        stop();
        bar = new SingleBar({
          format: '{bar} {percentage}% {label}',
          stream,
          hideCursor: true,
          clearOnComplete: true,
        });
        bar.start(total, done, { label });
        return;
      }
      bar.setTotal(total);
      bar.update(done, { label });
    },
    busy(label) {
      stop();
      stopTicker = startTicker(stream, label);
    },
    stop,
  };
}

/** Runs `work` with a progress display that is gone afterwards, also after a failure. */
export async function withProgress<T>(
  work: (update: ProgressCallback, busy: (label: string) => void) => Promise<T>,
): Promise<T> {
  const progress = createProgress();
  try {
    return await work(progress.update, progress.busy);
  } finally {
    progress.stop();
  }
}
