/** The program in this process, and a server that answers what a test says. */
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { vi } from 'vitest';
import { run } from '../../../src/cli/run.ts';

export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program and catches what it prints. One at a time: the streams are the process's. */
export async function loramux(...args: string[]): Promise<Run> {
  const caught = { stdout: '', stderr: '' };
  const spies = (['stdout', 'stderr'] as const).map((name) =>
    vi.spyOn(process[name], 'write').mockImplementation((text) => {
      caught[name] += String(text);
      return true;
    }),
  );
  try {
    const code = await run(['node', 'loramux', ...args]);
    return { code, ...caught };
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

export interface Received {
  readonly method: string;
  readonly url: string;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: Buffer;
}

export interface Reply {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** A text is sent as it is, anything else as JSON. */
  readonly body: unknown;
}

export interface FakeServer {
  readonly url: string;
  /** Oldest first. */
  readonly received: Received[];
  /** What the next requests are answered, in their order. */
  readonly replies: Reply[];
  /** The next request is answered before its body is read, and its connection closed. */
  answerEarly: boolean;
  close(): Promise<void>;
}

export async function fakeServer(): Promise<FakeServer> {
  const received: Received[] = [];
  const replies: Reply[] = [];
  const server = http.createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    if (!fake.answerEarly) for await (const chunk of request) chunks.push(chunk as Buffer);
    const { method = '', url = '', headers } = request;
    received.push({ method, url, headers, body: Buffer.concat(chunks) });
    const reply = replies.shift() ?? { status: 500, body: 'no reply is left' };
    const text = typeof reply.body === 'string' ? reply.body : JSON.stringify(reply.body);
    const close = fake.answerEarly ? { connection: 'close' } : {};
    response.writeHead(reply.status ?? 200, { ...reply.headers, ...close }).end(text);
    // What comes of the body is thrown away, so that the answer is not lost with a reset.
    request.resume();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const fake: FakeServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    received,
    replies,
    answerEarly: false,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
  return fake;
}

export const digest = (first: string) => first.padEnd(64, '0');

export const adapter = (name: string, fields: Record<string, unknown> = {}) => ({
  name,
  object: 'adapter',
  generation: digest('aaaaaaaa'),
  created: 1_700_000_000,
  rank: 8,
  target_modules: ['q_proj', 'v_proj'],
  resident_bytes: 1536,
  file_bytes: 2048,
  source: 'upload',
  pinned: false,
  split: null,
  ...fields,
});

export const refusal = (code: string, message: string, more: Record<string, unknown> = {}) => ({
  error: { message, type: 'conflict_error', param: null, code, ...more },
});
