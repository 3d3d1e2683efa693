/** Bytes to a port and back, and what HTTP answers they are. */
import net from 'node:net';

export interface RawAnswer {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

/** Sends bytes and gives all that comes back before the server closes the connection. */
export function exchange(url: string, bytes: Buffer): Promise<Buffer> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = net.connect(Number(port), hostname);
    const pieces: Buffer[] = [];
    const hangs = setTimeout(() => {
      const sent = bytes.subarray(0, 1000).toString('latin1');
      reject(new Error(`never closed: ${sent}\nafter ${Buffer.concat(pieces)}`));
    }, HANGS_MS);
    // A server may refuse before it has read everything.
    socket.on('error', () => undefined);
    socket.on('data', (piece) => pieces.push(piece));
    socket.on('close', () => {
      clearTimeout(hangs);
      resolve(Buffer.concat(pieces));
    });
    socket.write(bytes);
  });
}

/** Sends bytes and leaves without waiting. */
export function abandon(url: string, bytes: Buffer): Promise<void> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket = net.connect(Number(port), hostname);
    socket.on('error', () => undefined);
    socket.on('close', () => resolve());
    socket.write(bytes, () => socket.destroy());
  });
}

/** A connection that is open this long will never be closed. */
const HANGS_MS = 60_000;
const NEXT = Buffer.from('HTTP/');

function unchunked(bytes: Buffer): { body: Buffer; end: number } {
  const parts: Buffer[] = [];
  let at = 0;
  for (;;) {
    const line = bytes.indexOf('\r\n', at);
    if (line < 0) throw new Error('a chunk has no size');
    const size = Number.parseInt(bytes.toString('latin1', at, line), 16);
    if (Number.isNaN(size)) throw new Error('a chunk has no size');
    at = line + 2;
    if (size === 0) return { body: Buffer.concat(parts), end: at + 2 };
    parts.push(bytes.subarray(at, at + size));
    at += size + 2;
  }
}

/**
 * The answers on a connection, interim ones left out. Answers to HEAD have the length of a body that
 * does not follow: whether there was a HEAD among what was sent, nobody needs to know.
 * @throws Error when they are no HTTP
 */
export function parseAnswers(bytes: Buffer): RawAnswer[] {
  const answers: RawAnswer[] = [];
  let rest = bytes;
  while (rest.length > 0) {
    const end = rest.indexOf('\r\n\r\n');
    const [first, ...lines] = rest.toString('latin1', 0, end < 0 ? rest.length : end).split('\r\n');
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(first!)?.[1] ?? Number.NaN);
    if (end < 0 || Number.isNaN(status)) throw new Error(`no HTTP answer: ${first}`);
    const headers = new Map(
      lines.map((line) => {
        const at = line.indexOf(':');
        return [line.slice(0, at).toLowerCase(), line.slice(at + 1).trim()] as const;
      }),
    );
    rest = rest.subarray(end + 4);
    if (status === 100) continue;
    let body = Buffer.alloc(0);
    const hasBody = rest.length > 0 && !rest.subarray(0, 5).equals(NEXT);
    if (!hasBody || status === 101) {
      // The next answer or the end follows at once.
    } else if (headers.get('transfer-encoding') === 'chunked') {
      const chunked = unchunked(rest);
      body = Buffer.from(chunked.body);
      rest = rest.subarray(chunked.end);
    } else {
      const length = Number(headers.get('content-length') ?? rest.length);
      body = Buffer.from(rest.subarray(0, length));
      rest = rest.subarray(length);
    }
    answers.push({ status, headers, body: body.toString() });
    if (status === 101) break;
  }
  return answers;
}
