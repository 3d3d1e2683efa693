/**
 * HTTP for addresses that clients name. Each hop is checked anew: scheme, credentials, host; a
 * connection goes to exactly the addresses that were checked, since the check is the look-up of the
 * connection itself. Environment proxies do not apply, and no body is ever decompressed.
 */
import type { LookupAddress } from 'node:dns';
import { lookup } from 'node:dns/promises';
import { isIP, type LookupFunction } from 'node:net';
import type { Readable } from 'node:stream';
import { Agent, request } from 'undici';
import { LoramuxError } from '../../errors.ts';
import { isPublicAddress } from './address.ts';
import { quote } from './archive-contents.ts';

export const MAX_REDIRECTS = 5;
export const MAX_URL_BYTES = 4096;
const MAX_HEADER_BYTES = 16 * 1024;
const CONNECT_TIMEOUT_MS = 15_000;
/** A server that says nothing for so long has failed, however long the whole may take. */
const SILENCE_TIMEOUT_MS = 60_000;

/** All addresses of a host name. */
export type Resolve = (host: string) => Promise<readonly LookupAddress[]>;

export const systemResolve: Resolve = (host) => lookup(host, { all: true, verbatim: true });

export interface GuardOptions {
  /** Any address, and http. */
  readonly allowPrivate: boolean;
  /** An origin that the operator configured: reached wherever it is, by http too. */
  readonly trustedOrigin?: string;
  readonly resolve?: Resolve;
  /** For tests of the address check. */
  readonly isAllowed?: (address: string) => boolean;
}

export interface GuardedRequest {
  readonly method?: 'GET' | 'POST';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | undefined;
  readonly signal: AbortSignal;
  /** Sent to `origin` only, whatever the redirects. */
  readonly authorization?: { readonly origin: string; readonly value: string } | undefined;
}

export interface GuardedResponse {
  /** After redirects. */
  readonly url: URL;
  readonly status: number;
  /** The first value of a header. */
  header(name: string): string | undefined;
  /** Raw bytes; read it to its end or destroy it. */
  readonly body: Readable;
}

/** Serves one source; close it to drop its connections. */
export class GuardedHttp {
  readonly #options: GuardOptions;
  readonly #isAllowed: (address: string) => boolean;
  readonly #guarded: Agent;
  /** For the trusted origin. */
  readonly #open: Agent;

  constructor(options: GuardOptions) {
    this.#options = options;
    const resolve = options.resolve ?? systemResolve;
    this.#isAllowed = options.allowPrivate ? () => true : (options.isAllowed ?? isPublicAddress);
    this.#guarded = newAgent(resolve, this.#isAllowed);
    this.#open = newAgent(resolve, () => true);
  }

  /**
   * @throws LoramuxError invalid_request, source_forbidden, source_unavailable; the signal's reason.
   */
  async request(target: string, options: GuardedRequest): Promise<GuardedResponse> {
    let url = parseUrl(target);
    let { method = 'GET', body } = options;
    for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
      const response = await this.#hop(url, { ...options, method, body });
      const location = response.header('location');
      if (![301, 302, 303, 307, 308].includes(response.status) || location === undefined) {
        return response;
      }
      response.body.destroy();
      url = parseUrl(location, url);
      if (response.status <= 303) {
        method = 'GET';
        body = undefined;
      }
    }
    throw new LoramuxError(
      'source_unavailable',
      `${shownUrl(url)} was reached by more than ${MAX_REDIRECTS} redirects.`,
    );
  }

  /** Ends what is under way. Never rejects. */
  async close(): Promise<void> {
    await Promise.allSettled([this.#guarded.destroy(), this.#open.destroy()]);
  }

  async #hop(url: URL, options: GuardedRequest): Promise<GuardedResponse> {
    const isTrusted = url.origin === this.#options.trustedOrigin;
    if (!isTrusted) this.#checkUrl(url);
    const { method = 'GET', body = null, signal, authorization } = options;
    const headers: Record<string, string> = {
      'user-agent': 'loramux',
      ...options.headers,
      'accept-encoding': 'identity',
    };
    if (authorization?.origin === url.origin) headers.authorization = authorization.value;
    try {
      const response = await request(url, {
        dispatcher: isTrusted ? this.#open : this.#guarded,
        method,
        headers,
        body,
        signal,
      });
      // Destroying a body that nobody listens to must not end the process.
      response.body.on('error', () => undefined);
      return {
        url,
        status: response.statusCode,
        header: (name) => {
          const value = response.headers[name];
          return Array.isArray(value) ? value[0] : value;
        },
        body: response.body,
      };
    } catch (error) {
      throw transferError(error, url, signal);
    }
  }

  /** What can be refused before a look-up. */
  #checkUrl(url: URL): void {
    const { allowPrivate } = this.#options;
    if (url.protocol !== 'https:' && !(url.protocol === 'http:' && allowPrivate)) {
      throw forbidden(`${shownUrl(url)} is not an https address`);
    }
    if (allowPrivate) return;
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const name = host.replace(/\.+$/, '').toLowerCase();
    const isBad =
      isIP(host) === 0
        ? name === 'localhost' || name.endsWith('.localhost')
        : !this.#isAllowed(host);
    if (isBad) throw forbidden(`${shownUrl(url)} is not a public address`);
  }
}

function newAgent(resolve: Resolve, isAllowed: (address: string) => boolean): Agent {
  return new Agent({
    connect: {
      lookup: checkedLookup(resolve, isAllowed),
      timeout: CONNECT_TIMEOUT_MS,
      rejectUnauthorized: true,
    },
    headersTimeout: SILENCE_TIMEOUT_MS,
    bodyTimeout: SILENCE_TIMEOUT_MS,
    maxHeaderSize: MAX_HEADER_BYTES,
  });
}

/** The look-up of a connection: fails unless every address of the host is allowed. */
function checkedLookup(resolve: Resolve, isAllowed: (address: string) => boolean): LookupFunction {
  return (host, { all }, callback) => {
    const check = async () => {
      const addresses = await resolve(host);
      const first = addresses[0];
      if (first === undefined) throw new Error(`${host} has no address`);
      if (!addresses.every(({ address }) => isAllowed(address))) {
        throw forbidden(`${quote(host)} has an address that is not public`);
      }
      return { addresses, first };
    };
    check().then(
      ({ addresses, first }) =>
        all ? callback(null, [...addresses]) : callback(null, first.address, first.family),
      (error) => callback(error, []),
    );
  };
}

function parseUrl(text: string, base?: URL): URL {
  if (Buffer.byteLength(text) > MAX_URL_BYTES) {
    throw new LoramuxError('invalid_request', `The URL has more than ${MAX_URL_BYTES} bytes.`, {
      param: 'url',
    });
  }
  let url: URL;
  try {
    url = new URL(text, base);
  } catch {
    // Not the text: it may hold credentials.
    const where = base === undefined ? 'The URL' : `The redirect of ${shownUrl(base)}`;
    throw base === undefined
      ? new LoramuxError('invalid_request', `${where} is malformed.`, { param: 'url' })
      : new LoramuxError('source_unavailable', `${where} is malformed.`);
  }
  if (url.username !== '' || url.password !== '') {
    throw forbidden(`${shownUrl(url)} has credentials in it, which are not accepted`);
  }
  return url;
}

/** A URL without query and credentials, which may be secrets. */
export function shownUrl(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}`;
}

export function forbidden(what: string): LoramuxError {
  return new LoramuxError('source_forbidden', `${what}.`);
}

/**
 * What a failed transfer is reported as: the reason of an abort, our own refusals as they are, and
 * source_unavailable with the cause's code for the rest.
 */
export function transferError(error: unknown, url: URL, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason;
  for (let at = error; at instanceof Error; at = at.cause) {
    if (at instanceof LoramuxError) return at;
  }
  const { code } = error as { code?: unknown };
  const what = typeof code === 'string' ? code : error instanceof Error ? error.message : 'unknown';
  return new LoramuxError(
    'source_unavailable',
    `The transfer from ${shownUrl(url)} failed (${what.slice(0, 200)}).`,
    { cause: error },
  );
}
