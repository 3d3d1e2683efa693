/** A progress bar on standard error, on a terminal only. */
import { SingleBar } from 'cli-progress';
import type { ProgressCallback } from '../importer/types.ts';

export interface Progress {
  readonly update: ProgressCallback;
  stop(): void;
}

const SILENT: Progress = { update: () => {}, stop: () => {} };

export function createProgress(stream: NodeJS.WriteStream = process.stderr): Progress {
  if (!stream.isTTY) return SILENT;
  const bar = new SingleBar({
    format: '{bar} {percentage}% {label}',
    stream,
    hideCursor: true,
    clearOnComplete: true,
  });
  let started = false;
  return {
    update(done, total, label) {
      if (!started) bar.start(total, done, { label });
      else {
        bar.setTotal(total);
        bar.update(done, { label });
      }
      started = true;
    },
    stop() {
      if (started) bar.stop();
    },
  };
}

/** Runs `work` with a bar that is gone afterwards, also after a failure. */
export async function withProgress<T>(work: (update: ProgressCallback) => Promise<T>): Promise<T> {
  const progress = createProgress();
  try {
    return await work(progress.update);
  } finally {
    progress.stop();
  }
}
