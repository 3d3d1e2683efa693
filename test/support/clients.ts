/** Requests as clients make them, beyond what `TestServer` has: bodies, conditions, streams. */
import { answerOf, askBody, type Content, type Contents } from './contents.ts';
import { checkedText } from './contract.ts';
import type { Json, TestServer } from './server.ts';

export interface Answer {
  readonly status: number;
  /** JSON, or the text when it is none. */
  readonly body: Json;
  readonly headers: Headers;
}

export interface Sent {
  readonly type?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array | FormData;
}

/** One request with any body. */
export async function send(
  server: Pick<TestServer, 'url'>,
  method: string,
  route: string,
  { type, headers, body }: Sent = {},
): Promise<Answer> {
  const response = await fetch(server.url + route, {
    method,
    headers: { ...headers, ...(type !== undefined && { 'content-type': type }) },
    ...(body !== undefined && { body: body as NonNullable<RequestInit['body']> }),
  });
  const text = await checkedText(method, route, response);
  const isJson = response.headers.get('content-type')?.startsWith('application/json') === true;
  return {
    status: response.status,
    body: isJson ? JSON.parse(text) : text,
    headers: response.headers,
  };
}

export const sendJson = (
  server: Pick<TestServer, 'url'>,
  method: string,
  route: string,
  value: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<Answer> =>
  send(server, method, route, { type: 'application/json', body: JSON.stringify(value), headers });

/** PUT with a JSON body that says where the adapter is. */
export const putFrom = (
  server: Pick<TestServer, 'url'>,
  name: string,
  source: object,
): Promise<Answer> => sendJson(server, 'PUT', `/v1/adapters/${encodeURIComponent(name)}`, source);

/** One completion of the prompt that tells contents apart. */
export const complete = (server: TestServer, model: string, more: object = {}) =>
  server.call('POST', '/v1/completions', askBody(model, more));

/** Which content a name answers with; every answer must be exactly that of what it names. */
export async function answeredBy(
  server: TestServer,
  model: string,
  contents: Contents,
  more: object = {},
): Promise<Content> {
  const { status, body } = await complete(server, model, more);
  if (status !== 200) throw new Error(`${model} answered ${status}: ${JSON.stringify(body)}`);
  const content = contents.byGeneration(body.adapter_generation);
  if (answerOf(body) !== content.answer) {
    throw new Error(`${model} says ${content.generation}, but that is not its answer`);
  }
  return content;
}
