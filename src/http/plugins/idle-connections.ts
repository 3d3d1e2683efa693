/**
 * Idle connections are closed so that no request on them is lost: who sends one on a connection that
 * the server is just closing hears of a reset, and cannot know whether it was read. Node tells
 * clients the time (`Keep-Alive: timeout=72`) and waits a second longer than that.
 */
import type { Socket } from 'node:net';
import type { FastifyInstance } from 'fastify';

export function registerIdleConnections(app: FastifyInstance): void {
  app.server.on('timeout', (socket: Socket) => {
    // Timers run before sockets are read. When this process had to wait for the processor, a request
    // may have come in time and still be unread.
    const { bytesRead } = socket;
    setImmediate(() => {
      if (socket.bytesRead === bytesRead) socket.destroy();
    });
  });
}
