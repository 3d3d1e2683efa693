/** What the head of a request asks for and no route honours: refused, where Node or a parser would not. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { LoramuxError } from '../../errors.ts';

const CONTINUE = /^100-continue$/i;
const CHARSET = /;\s*charset\s*=\s*"?([^";\s]+)/i;

/** Node answers these two without a body, or not at all. */
function checkHead({ raw }: FastifyRequest): void {
  const { expect } = raw.headers;
  if (expect !== undefined && !CONTINUE.test(expect)) {
    throw new LoramuxError(
      'invalid_request',
      'the header Expect may only be 100-continue; leave it out',
    );
  }
  const isHost = (text: string, i: number) => i % 2 === 0 && text.toLowerCase() === 'host';
  const hosts = raw.rawHeaders.filter(isHost).length;
  if (hosts > 1 || (hosts === 0 && raw.httpVersion !== '1.0')) {
    throw new LoramuxError('invalid_request', `one Host header is required, got ${hosts}`);
  }
}

/** A body is read as it comes: in no content coding, and JSON as UTF-8. */
function checkBody({ method, headers }: FastifyRequest): void {
  if (method === 'GET' || method === 'HEAD') return;
  const coding = headers['content-encoding'];
  if (coding !== undefined && coding.toLowerCase() !== 'identity') {
    throw new LoramuxError(
      'unsupported_media_type',
      'bodies with a Content-Encoding are not accepted; send the body as it is',
    );
  }
  const type = headers['content-type'] ?? '';
  const charset = CHARSET.exec(type)?.[1];
  if (type.startsWith('application/json') && charset !== undefined && !/^utf-?8$/i.test(charset)) {
    throw new LoramuxError('unsupported_media_type', 'JSON is UTF-8; leave the charset out');
  }
}

/** The server must be made with `requireHostHeader: false`. */
export function registerHeadChecks(app: FastifyInstance): void {
  // With a listener, Node leaves it to us to refuse.
  app.server.on('checkExpectation', (request, response) => app.routing(request, response));
  app.addHook('onRequest', async (request) => checkHead(request));
  app.addHook('preParsing', async (request, _reply, payload) => {
    checkBody(request);
    return payload;
  });
}
