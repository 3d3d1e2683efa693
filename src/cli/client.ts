/** One request to a running server, with its errors as errors. */
import { once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import { LoramuxError } from '../errors.ts';
import { RemoteError, UsageError } from './output.ts';

/** The longest answer is the list of all adapters; a larger one is not from this server. */
const ANSWER_BYTES_MAX = 256 * 2 ** 20;
/** Characters of an answer that is not the server's which an error repeats. */
const FOREIGN_TEXT_MAX = 200;

/** A body that is sent piece by piece. */
export interface Upload {
  readonly contentType: string;
  /** Exactly what `chunks` yields. */
  readonly bytes: number;
  chunks(): AsyncIterable<Buffer>;
}

export interface Call {
  readonly method: 'GET' | 'PUT' | 'POST' | 'DELETE';
  /** Begins with a slash; names in it are encoded. */
  readonly route: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly json?: unknown;
  readonly upload?: Upload;
  /** Told how many bytes of the upload were handed to the network. */
  readonly onSent?: (bytes: number) => void;
}

export interface Answer {
  readonly body: unknown;
  /** As it came. */
  readonly text: string;
}

function targetOf(url: string, route: string): URL {
  let base: URL | undefined;
  try {
    base = new URL(url);
  } catch {
    // The message below says it for all cases.
  }
  const isHttp = base?.protocol === 'http:' || base?.protocol === 'https:';
  if (base === undefined || !isHttp || base.search !== '' || base.hash !== '') {
    throw new UsageError(
      `--url (or LORAMUX_URL) is ${JSON.stringify(url)}; it must begin with http:// or https:// ` +
        'and have neither ? nor #',
    );
  }
  const target = new URL(base);
  const [path, query] = route.split('?');
  // A server behind a proxy may live below a path.
  target.pathname = `${base.pathname.replace(/\/+$/, '')}${path}`;
  target.search = query ?? '';
  return target;
}

async function readText(response: http.IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) {
    text += chunk;
    if (text.length > ANSWER_BYTES_MAX) throw new Error('the answer is too large');
  }
  return text;
}

interface WireError {
  readonly code?: string;
  readonly message?: string;
  readonly current_generation?: string | null;
}

function currentOf(error: WireError, response: http.IncomingMessage): string | null | undefined {
  if (response.statusCode !== 412) return undefined;
  if (error.current_generation !== undefined) return error.current_generation;
  return response.headers.etag?.replaceAll('"', '');
}

async function readAnswer(response: http.IncomingMessage): Promise<Answer> {
  const text = await readText(response);
  const status = response.statusCode ?? 0;
  const { location } = response.headers;
  if (status >= 300 && status < 400) {
    const hint = location === undefined ? '' : ` to ${location}; name that server with --url`;
    throw new RemoteError(`http_${status}`, `the server redirects${hint}`);
  }
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    const shown = text.slice(0, FOREIGN_TEXT_MAX);
    throw new RemoteError(`http_${status}`, `no JSON from this server: ${shown}`);
  }
  if (status < 400) return { body, text };
  const error = (body as { error?: WireError } | null)?.error ?? {};
  const code = error.code ?? `http_${status}`;
  const message = error.message ?? `HTTP ${status}`;
  throw new RemoteError(code, message, currentOf(error, response));
}

function headersOf({ headers, json, upload }: Call): http.OutgoingHttpHeaders {
  const all: http.OutgoingHttpHeaders = { accept: 'application/json', ...headers };
  if (upload !== undefined) {
    all['content-type'] = upload.contentType;
    all['content-length'] = upload.bytes;
  } else if (json !== undefined) {
    all['content-type'] = 'application/json';
    all['content-length'] = Buffer.byteLength(JSON.stringify(json));
  }
  return all;
}

async function writeUpload(
  request: http.ClientRequest,
  upload: Upload,
  onSent: (bytes: number) => void,
  signal: AbortSignal,
): Promise<void> {
  let sent = 0;
  for await (const chunk of upload.chunks()) {
    signal.throwIfAborted();
    if (!request.write(chunk)) await once(request, 'drain', { signal });
    sent += chunk.length;
    onSent(sent);
  }
}

function unreachable({ origin }: URL, { code = '', message }: NodeJS.ErrnoException): RemoteError {
  const hint = /CERT|ISSUER/.test(code)
    ? 'NODE_EXTRA_CA_CERTS=FILE adds a certificate authority that is trusted'
    : 'is the server running, and is --url right?';
  return new RemoteError('server_unreachable', `${origin}: ${message || code}; ${hint}`);
}

/**
 * Sends one request and reads its answer. A server that answers before it has read the whole upload
 * (too large, a condition that does not hold) is heard at once.
 * @throws UsageError, RemoteError
 */
export async function send(url: string, call: Call): Promise<Answer> {
  const target = targetOf(url, call.route);
  const { request: start } = target.protocol === 'https:' ? https : http;
  const request = start(target, { method: call.method, headers: headersOf(call) });
  const answer = once(request, 'response') as Promise<[http.IncomingMessage]>;
  // The writer may fail first, when the server answers early and closes.
  answer.catch(() => {});
  const answered = new AbortController();
  try {
    if (call.upload !== undefined) {
      const onSent = call.onSent ?? (() => {});
      const writing = writeUpload(request, call.upload, onSent, answered.signal);
      const early = await Promise.race([writing, answer]);
      writing.catch(() => {});
      if (early === undefined) request.end();
    } else {
      request.end(call.json === undefined ? undefined : JSON.stringify(call.json));
    }
    const [response] = await answer;
    return await readAnswer(response);
  } catch (error) {
    if (error instanceof RemoteError || error instanceof LoramuxError) throw error;
    throw unreachable(target, error as NodeJS.ErrnoException);
  } finally {
    answered.abort();
    request.destroy();
  }
}
