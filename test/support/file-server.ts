/** A web server on loopback that serves files from memory, by http or https. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Certificate } from './certificate.ts';

export interface FileServer {
  readonly url: string;
  /** By path, with its slash: bytes, or where a redirect leads. */
  readonly files: Map<string, Uint8Array | { readonly redirect: string }>;
  readonly requests: string[];
  close(): Promise<void>;
}

export async function startFileServer(certificate?: Certificate): Promise<FileServer> {
  const files: FileServer['files'] = new Map();
  const requests: string[] = [];
  const serve = (request: IncomingMessage, response: ServerResponse) => {
    const target = request.url ?? '';
    requests.push(target);
    const file = files.get(target);
    if (file === undefined) response.writeHead(404).end();
    else if ('redirect' in file) response.writeHead(302, { location: file.redirect }).end();
    else response.writeHead(200, { 'content-length': file.length }).end(file);
  };
  const server =
    certificate === undefined ? createServer(serve) : createSecureServer(certificate, serve);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `${certificate === undefined ? 'http' : 'https'}://127.0.0.1:${port}`,
    files,
    requests,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
