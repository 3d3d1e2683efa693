/** The WebSocket server: its limits, what a bad handshake is told, and how sockets are closed. */
import type { Socket } from 'node:net';
import websocket from '@fastify/websocket';
import type { FastifyInstance } from 'fastify';
import { LoramuxError } from '../../errors.ts';
import { CLOSE_CODES } from '../wire/socket-session.ts';
import { refuseConnection } from './errors.ts';
import { webSocketUpgrades } from './upgrade.ts';

/** How long a peer may take to answer a close frame; then the connection is cut. */
const CLOSE_TIMEOUT_MS = 2000;

/** Codes of errors that the peer caused; the library has closed the socket then. */
const PEER_ERROR = /^WS_ERR_|^ECONNRESET$|^EPIPE$/;

const WRONG_VERSION = /Sec-WebSocket-Version/;

export async function registerWebSocket(
  app: FastifyInstance,
  { maxFrameBytes }: { readonly maxFrameBytes: number },
): Promise<void> {
  const upgrades = webSocketUpgrades(app.server);
  await app.register(websocket, {
    options: {
      maxPayload: maxFrameBytes,
      // Tokens are too short to gain by it, and it costs memory for every socket.
      perMessageDeflate: false,
      closeTimeout: CLOSE_TIMEOUT_MS,
      server: upgrades as never,
    } as object,
    errorHandler: (error, socket, request) => {
      if (PEER_ERROR.test((error as NodeJS.ErrnoException).code ?? '')) {
        request.log.debug({ err: error }, 'a WebSocket peer broke the protocol');
        return;
      }
      request.log.error({ err: error }, 'a WebSocket failed');
      socket.close(CLOSE_CODES.internal);
    },
    preClose(done) {
      for (const client of app.websocketServer.clients) client.close(CLOSE_CODES.goingAway);
      upgrades.removeAllListeners('upgrade');
      app.websocketServer.close();
      done();
    },
  });
  app.websocketServer.on('wsClientError', (error: Error, socket: Socket) => {
    if (WRONG_VERSION.test(error.message)) {
      const refusal = new LoramuxError('upgrade_required', 'WebSocket has version 13');
      refuseConnection(socket, refusal, { upgrade: 'websocket', 'sec-websocket-version': '13' });
    } else {
      refuseConnection(socket, new LoramuxError('invalid_request', error.message));
    }
  });
}
