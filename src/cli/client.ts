/** Requests to a running server, with its errors as errors. */

import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { LoramuxError } from '../errors.ts';
import type { ProgressCallback } from '../importer/types.ts';
import { RemoteError } from './output.ts';

/** Answers are small objects; a larger one is not from this server. */
const ANSWER_BYTES_MAX = 64 * 2 ** 20;

function baseUrl(url: string): URL {
  try {
    const parsed = new URL(url);
    if (parsed.protocol === 'http:' || parsed.protocol === 'https:') return parsed;
  } catch {
    // The message below says it for both cases.
  }
  throw new LoramuxError(
    'config_invalid',
    `--url is ${JSON.stringify(url)}; it must begin with http:// or https://`,
  );
}

async function readAnswer(response: http.IncomingMessage): Promise<unknown> {
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) {
    text += chunk;
    if (text.length > ANSWER_BYTES_MAX) throw new Error('the answer is too large');
  }
  const status = response.statusCode ?? 0;
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new RemoteError(`http_${status}`, `no JSON from this server: ${text.slice(0, 200)}`);
  }
  if (status < 400) return body;
  const { error } = body as { error?: { code?: string; message?: string } };
  throw new RemoteError(error?.code ?? `http_${status}`, error?.message ?? `HTTP ${status}`);
}

interface Call {
  readonly method: 'GET' | 'PUT' | 'DELETE';
  readonly route: string;
  readonly headers?: http.OutgoingHttpHeaders;
}

/** Sends a request; `write` sends the body, if any. */
async function send(
  url: string,
  call: Call,
  write?: (request: http.ClientRequest) => Promise<void>,
): Promise<unknown> {
  const target = new URL(call.route, baseUrl(url));
  const { request: start } = target.protocol === 'https:' ? https : http;
  const request = start(target, { method: call.method, headers: call.headers ?? {} });
  const answer = once(request, 'response') as Promise<[http.IncomingMessage]>;
  // The writer may fail first, when the server answers early and closes.
  answer.catch(() => {});
  try {
    if (write !== undefined) await Promise.race([write(request), answer]);
    request.end();
    const [response] = await answer;
    return await readAnswer(response);
  } catch (error) {
    if (error instanceof RemoteError || error instanceof LoramuxError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new RemoteError(
      'server_unreachable',
      `${target.origin}: ${message || code}; is the server running, and is --url right?`,
    );
  } finally {
    request.destroy();
  }
}

const adapterRoute = (name: string) => `/v1/adapters/${encodeURIComponent(name)}`;

export const listAdapters = (url: string) => send(url, { method: 'GET', route: '/v1/adapters' });
export const showAdapter = (url: string, name: string) =>
  send(url, { method: 'GET', route: adapterRoute(name) });
export const removeAdapter = (url: string, name: string) =>
  send(url, { method: 'DELETE', route: adapterRoute(name) });

const FILES = ['adapter_config.json', 'adapter_model.safetensors'] as const;

/** Uploads the two files of a PEFT folder without reading them into memory. */
export async function pushAdapter(
  url: string,
  name: string,
  folder: string,
  onProgress: ProgressCallback,
): Promise<unknown> {
  const boundary = `loramux-${randomUUID()}`;
  const parts: { from: string; size: number; head: string }[] = [];
  for (const file of FILES) {
    const from = path.join(folder, file);
    const size = await stat(from).then(
      (stats) => stats.size,
      (cause: unknown) => {
        const message = `${folder} has no ${file}; save the adapter with PEFT's save_pretrained`;
        throw new LoramuxError('adapter_upload_incomplete', message, { cause });
      },
    );
    const head =
      `--${boundary}\r\ncontent-disposition: form-data; name="files"; filename="${file}"\r\n` +
      'content-type: application/octet-stream\r\n\r\n';
    parts.push({ from, size, head });
  }
  const tail = `--${boundary}--\r\n`;
  const total = parts.reduce((sum, { size, head }) => sum + head.length + size + 2, tail.length);
  const headers = {
    'content-type': `multipart/form-data; boundary=${boundary}`,
    'content-length': total,
  };
  return send(url, { method: 'PUT', route: adapterRoute(name), headers }, async (request) => {
    let done = 0;
    const write = async (data: string | Buffer) => {
      if (!request.write(data)) await once(request, 'drain');
      done += data.length;
      onProgress(done, total, `uploading ${name}`);
    };
    for (const { from, head } of parts) {
      await write(head);
      for await (const chunk of createReadStream(from)) await write(chunk as Buffer);
      await write('\r\n');
    }
    await write(tail);
  });
}
