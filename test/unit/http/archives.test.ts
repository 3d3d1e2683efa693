import net from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type TestServer, testServer } from './support.ts';

let server: TestServer;
let url: string;
beforeEach(async () => {
  server = await testServer();
  url = await server.listen();
});
afterEach(() => server.close());

const CONFIG = ['adapter_config.json', '{"r":8}'] as const;
const WEIGHTS = ['adapter_model.safetensors', 'tensors'] as const;
/** Largest archive: both files and room for what else a folder holds. */
const BYTES_MAX = 4096 + 1024 + 64 * 1024 * 1024;

async function answerOf(response: Response) {
  const body = (await response.json()) as { error?: { code: string; message: string } };
  return { status: response.status, code: body.error?.code, message: body.error?.message };
}

async function form(files: readonly (readonly [string, string])[], field = 'files') {
  const body = new FormData();
  for (const [file, content] of files) body.append(field, new Blob([content]), file);
  return answerOf(await fetch(`${url}/v1/adapters/new`, { method: 'PUT', body }));
}

async function put(type: string, body: string | Uint8Array<ArrayBuffer>) {
  const init = { method: 'PUT', headers: { 'content-type': type }, body };
  return answerOf(await fetch(`${url}/v1/adapters/new`, init));
}

const nothingLeft = async () => {
  expect(server.adapters.puts).toHaveLength(0);
  expect(await server.uploads()).toEqual([]);
};

describe('an archive in a form', () => {
  it.each([
    ['adapter.zip', 'zip'],
    ['Adapter.ZIP', 'zip'],
    ['adapter.tar.gz', 'tar.gz'],
    ['adapter.tgz', 'tar.gz'],
  ])('%s is handed over as %s', async (name, format) => {
    expect(await form([[name, 'archived']])).toMatchObject({ status: 201 });
    const [put] = server.adapters.puts;
    expect(put?.source).toMatchObject({ kind: 'archive', format });
    expect(put?.files).toEqual({ archive: 'archived' });
    expect(await server.uploads()).toEqual([]);
  });

  it('is known by its field name too', async () => {
    const body = new FormData();
    body.append('adapter.tar.gz', new Blob(['archived']), 'blob');
    const response = await fetch(`${url}/v1/adapters/new`, { method: 'PUT', body });
    expect(response.status).toBe(201);
    expect(server.adapters.puts[0]?.source).toMatchObject({ format: 'tar.gz' });
  });

  it.each([
    ['with the two files', [['a.zip', 'x'], CONFIG, WEIGHTS], 400, 'invalid_request'],
    ['with one of the files', [CONFIG, ['a.zip', 'x']], 400, 'invalid_request'],
    [
      'with another archive',
      [
        ['a.zip', 'x'],
        ['b.tgz', 'y'],
      ],
      400,
      'invalid_request',
    ],
    [
      'twice',
      [
        ['a.zip', 'x'],
        ['a.zip', 'y'],
      ],
      400,
      'invalid_request',
    ],
    ['of another kind', [['a.7z', 'x']], 400, 'invalid_request'],
    ['that is a bare tar', [['a.tar', 'x']], 400, 'invalid_request'],
  ] as const)('is refused %s', async (_what, files, status, code) => {
    expect(await form(files)).toMatchObject({ status, code });
    await nothingLeft();
  });

  it('is refused beyond its limit', async () => {
    const large = 'x'.repeat(BYTES_MAX + 1);
    expect(await form([['a.zip', large]])).toMatchObject({
      status: 413,
      code: 'adapter_too_large',
    });
    await nothingLeft();
  });
});

describe('an archive as the body', () => {
  it.each([
    ['application/zip', 'zip'],
    ['application/x-zip-compressed', 'zip'],
    ['application/gzip', 'tar.gz'],
    ['application/x-gzip', 'tar.gz'],
    ['application/x-tar+gzip', 'tar.gz'],
    ['application/x-gtar', 'tar.gz'],
    ['Application/X-Tgz; charset=binary', 'tar.gz'],
  ])('%s is handed over as %s', async (type, format) => {
    const bytes = Uint8Array.from({ length: 3000 }, (_, i) => i % 256);
    expect(await put(type, bytes)).toMatchObject({ status: 201 });
    const [{ source, files } = {}] = server.adapters.puts;
    expect(source).toMatchObject({ kind: 'archive', format });
    expect(Buffer.from(files?.archive ?? '', 'latin1')).toEqual(Buffer.from(bytes));
    expect(await server.uploads()).toEqual([]);
  });

  it('of an unknown kind is refused', async () => {
    const answer = await put('application/x-7z-compressed', 'x');
    expect(answer).toMatchObject({ status: 415, code: 'unsupported_media_type' });
    await nothingLeft();
  });

  it('is taken by no other route', async () => {
    const response = await fetch(`${url}/v1/adapters/sub/rollback`, {
      method: 'POST',
      headers: { 'content-type': 'application/zip' },
      body: 'x',
    });
    expect(await answerOf(response)).toMatchObject({ code: 'unsupported_media_type' });
  });

  it('that is empty is refused', async () => {
    const answer = await put('application/zip', '');
    expect(answer).toMatchObject({ status: 400, code: 'adapter_upload_incomplete' });
    await nothingLeft();
  });

  it('beyond its limit is refused, announced or not', async () => {
    const large = new Uint8Array(BYTES_MAX + 1);
    expect(await put('application/zip', large)).toMatchObject({ code: 'adapter_too_large' });
    let sent = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        const piece = large.subarray(sent, sent + 1_000_000);
        sent += piece.length;
        if (piece.length > 0) controller.enqueue(piece);
        else controller.close();
      },
    });
    const response = await fetch(`${url}/v1/adapters/new`, {
      method: 'PUT',
      headers: { 'content-type': 'application/zip' },
      body,
      duplex: 'half',
    } as RequestInit);
    expect(await answerOf(response)).toMatchObject({ status: 413, code: 'adapter_too_large' });
    await nothingLeft();
  });
});

describe('a client that leaves while it uploads', () => {
  const FORM =
    'content-type: multipart/form-data; boundary=xx\r\n\r\n--xx\r\ncontent-disposition: form-data; ' +
    'name="f"; filename="a.zip"\r\n\r\n';

  it.each([
    ['an archive as the body', 'content-type: application/zip\r\n\r\n'],
    ['an archive in a form', FORM],
  ])('leaves no file: %s', async (_what, head) => {
    const { hostname, port } = new URL(url);
    const socket = net.connect(Number(port), hostname);
    socket.write(
      `PUT /v1/adapters/new HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n${head}` +
        'x'.repeat(3000),
    );
    let files: string[] = [];
    while (files.length === 0) files = await server.uploads();
    socket.destroy();
    while (files.length > 0) files = await server.uploads();
    await nothingLeft();
  });
});
