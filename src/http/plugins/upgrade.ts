/**
 * Node hands every request with an Upgrade header to the 'upgrade' listener, also "Upgrade: h2c",
 * which Java's HTTP client and `curl --http2` send with ordinary requests. HTTP says to ignore an
 * upgrade one does not support (RFC 9110, 7.8), so those requests are parsed again without it.
 */
import { EventEmitter } from 'node:events';
import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { STREAM_ROUTE } from '../schemas/stream.ts';

const isWebSocket = ({ method, url, headers }: IncomingMessage) =>
  method === 'GET' &&
  headers.upgrade?.toLowerCase() === 'websocket' &&
  url?.split('?', 1)[0] === STREAM_ROUTE;

const DROPPED = new Set(['upgrade', 'http2-settings', 'connection']);

function headWithoutUpgrade(request: IncomingMessage): string {
  let head = `${request.method} ${request.url} HTTP/${request.httpVersion}\r\n`;
  const { rawHeaders } = request;
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!;
    if (!DROPPED.has(name.toLowerCase())) head += `${name}: ${rawHeaders[i + 1]}\r\n`;
  }
  const options = (request.headers.connection ?? '')
    .split(',')
    .map((option) => option.trim())
    .filter((option) => option !== '' && !DROPPED.has(option.toLowerCase()));
  if (options.length > 0) head += `connection: ${options.join(', ')}\r\n`;
  return `${head}\r\n`;
}

/**
 * Emits 'upgrade' for WebSocket handshakes of the one route that takes them; give it to the WebSocket
 * plugin in the server's place.
 */
export function webSocketUpgrades(server: Server): EventEmitter {
  const upgrades = new EventEmitter();
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (isWebSocket(request)) {
      // Nobody listens once the server closes.
      if (!upgrades.emit('upgrade', request, socket, head)) socket.destroy();
      return;
    }
    if (head.length > 0) socket.unshift(head);
    socket.unshift(Buffer.from(headWithoutUpgrade(request), 'latin1'));
    server.emit('connection', socket);
  });
  return upgrades;
}
