/** A signal that fires when the client is gone before its answer was complete. */
import type { FastifyReply } from 'fastify';

/** nginx's status for it; seen in metrics only, nobody receives it. */
export const CLIENT_CLOSED_REQUEST = 499;

/** One reason for all: an error of its own for each would record a stack nobody reads. */
const GONE = 'the client is gone';

export function clientGone(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  const { raw } = reply;
  raw.once('close', () => {
    if (!raw.writableFinished) controller.abort(GONE);
  });
  if (raw.destroyed) controller.abort(GONE);
  return controller.signal;
}
