/**
 * A Hugging Face hub on loopback: the API and the addresses that hub clients use to read a model
 * repository, with large files behind a redirect to a second server, as the real one has it.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';

export interface HubRequest {
  readonly server: 'hub' | 'cdn';
  readonly method: string;
  /** Path and query. */
  readonly target: string;
  readonly authorization: string | undefined;
}

export interface HubRepo {
  /** Needs the hub's token. */
  private?: boolean;
  /** Readable by nobody, whatever the token. */
  gated?: boolean;
  /** Branches and tags -> commit. */
  readonly refs: Map<string, string>;
  /** Commit -> path -> bytes. */
  readonly commits: Map<string, ReadonlyMap<string, Buffer>>;
}

/** What goes wrong with a file's bytes. */
export type Fault =
  | 'cut'
  | 'stalled'
  | 'endless'
  | 'wrong-bytes'
  | 'gzip'
  | { readonly status: number }
  | { readonly redirect: string };

/** Files of this many bytes and all safetensors are in large file storage. */
const LFS_BYTES = 10_000;
const MAX_BODY_BYTES = 1024 * 1024;

const hex = (algorithm: string, ...parts: (string | Buffer)[]) => {
  const hash = createHash(algorithm);
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
};
const gitOid = (bytes: Buffer) => hex('sha1', `blob ${bytes.length}\0`, bytes);
const isLfs = (path: string, bytes: Buffer) =>
  path.endsWith('.safetensors') || bytes.length >= LFS_BYTES;

class HubError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class HubServer {
  /** All requests so far, in order. */
  readonly requests: HubRequest[] = [];
  /** By path of the file, for both servers. */
  readonly faults = new Map<string, Fault>();
  /** Instead of the answer of an API route; by a part of its path. */
  readonly answers = new Map<string, (response: ServerResponse) => void>();
  token: string | undefined;
  url = '';
  cdnUrl = '';
  /** SHA-256 that is stated in place of the true one. */
  statedSha256: string | undefined;
  readonly #repos = new Map<string, HubRepo>();
  readonly #hub: Server;
  readonly #cdn: Server;
  #commits = 0;

  private constructor() {
    this.#hub = createServer((request, response) => this.#serve('hub', request, response));
    this.#cdn = createServer((request, response) => this.#serve('cdn', request, response));
  }

  static async start(token?: string): Promise<HubServer> {
    const server = new HubServer();
    server.token = token;
    for (const each of [server.#hub, server.#cdn]) {
      await new Promise<void>((resolve, reject) => {
        each.once('error', reject).listen(0, '127.0.0.1', resolve);
      });
    }
    server.url = urlOf(server.#hub);
    server.cdnUrl = urlOf(server.#cdn);
    return server;
  }

  /** Adds a commit to a repository's branch, making both if need be. @returns the commit id. */
  commit(
    name: string,
    files: Readonly<Record<string, Uint8Array | string>>,
    branch = 'main',
    access: Pick<HubRepo, 'private' | 'gated'> = {},
  ): string {
    const repo: HubRepo = this.#repos.get(name) ?? {
      refs: new Map(),
      commits: new Map(),
    };
    Object.assign(repo, access);
    const id = hex('sha1', `${name} ${this.#commits++}`);
    repo.commits.set(
      id,
      new Map(Object.entries(files).map(([path, bytes]) => [path, Buffer.from(bytes)])),
    );
    repo.refs.set(branch, id);
    this.#repos.set(name, repo);
    return id;
  }

  /** Ends all connections. */
  async close(): Promise<void> {
    for (const server of [this.#hub, this.#cdn]) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  async #serve(
    server: 'hub' | 'cdn',
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const { method = 'GET', url: target = '/', headers } = request;
    this.requests.push({ server, method, target, authorization: headers.authorization });
    try {
      const url = new URL(target, 'http://hub');
      const path = url.pathname.split('/').slice(1).map(decodeURIComponent);
      if (server === 'cdn') {
        response.setHeader('etag', `"${path[0]}"`);
        this.#sendFile(request, response, this.#blob(path[0] ?? ''));
      } else if (path[0] === 'api') await this.#api(request, response, path, url);
      else this.#resolve(request, response, path);
    } catch (error) {
      if (!(error instanceof HubError)) throw error;
      const known = error.status === 401 && error.code === '' ? {} : { 'x-error-code': error.code };
      response.writeHead(error.status, {
        'content-type': 'application/json',
        'x-error-message': error.message,
        ...known,
      });
      response.end(JSON.stringify({ error: error.message }));
    }
  }

  async #api(
    request: IncomingMessage,
    response: ServerResponse,
    path: readonly string[],
    url: URL,
  ): Promise<void> {
    for (const [part, answer] of this.answers) {
      if (url.pathname.includes(part)) return answer(response);
    }
    // api/models/OWNER/NAME/ROUTE/REVISION/...
    const [, , owner, name, route, revision, ...rest] = path;
    const id = `${owner}/${name}`;
    const repo = this.#repo(request, id);
    const { commit, files } = this.#at(repo, revision ?? 'main');
    if (route === undefined || route === 'revision') {
      const siblings = [...files.keys()].map((rfilename) => ({ rfilename }));
      sendJson(response, {
        _id: hex('md5', id).slice(0, 24),
        id,
        modelId: id,
        sha: commit,
        private: repo.private === true,
        gated: false,
        downloads: 0,
        likes: 0,
        tags: [],
        lastModified: '2026-01-01T00:00:00.000Z',
        createdAt: '2026-01-01T00:00:00.000Z',
        siblings,
      });
    } else if (route === 'paths-info' && request.method === 'POST') {
      const paths = await readPaths(request);
      sendJson(
        response,
        paths.flatMap((path) => this.#entries(files, path).filter((e) => e.path === path)),
      );
    } else if (route === 'tree') {
      const all = this.#entries(files, rest.join('/'));
      const depth = rest.length + 1;
      const recursive = ['true', 'True', '1'].includes(url.searchParams.get('recursive') ?? '');
      sendJson(
        response,
        all.filter((e) => recursive || e.path.split('/').length === depth),
      );
    } else {
      throw new HubError(404, 'NotFound', 'No such route');
    }
  }

  /** Files and folders below a folder, and what has the very path, as the tree route has them. */
  #entries(files: ReadonlyMap<string, Buffer>, under: string) {
    const folders = new Set<string>();
    const isUnder = (path: string) =>
      under === '' || path === under || path.startsWith(`${under}/`);
    const found: { type: string; path: string; size: number; oid: string; lfs?: object }[] = [];
    for (const [path, bytes] of files) {
      const parts = path.split('/');
      for (let n = 1; n < parts.length; n++) folders.add(parts.slice(0, n).join('/'));
      if (!isUnder(path)) continue;
      const lfs = {
        oid: this.statedSha256 ?? hex('sha256', bytes),
        size: bytes.length,
        pointerSize: 130,
      };
      const entry = { type: 'file', path, size: bytes.length, oid: gitOid(bytes) };
      found.push(isLfs(path, bytes) ? { ...entry, lfs } : entry);
    }
    for (const path of folders) {
      if (isUnder(path)) found.push({ type: 'directory', path, size: 0, oid: hex('sha1', path) });
    }
    return found;
  }

  /** OWNER/NAME/resolve/REVISION/PATH. */
  #resolve(request: IncomingMessage, response: ServerResponse, path: readonly string[]): void {
    const [owner, name, verb, revision = '', ...rest] = path;
    if (verb !== 'resolve') throw new HubError(404, 'NotFound', 'No such route');
    const repo = this.#repo(request, `${owner}/${name}`);
    const { commit, files } = this.#at(repo, revision);
    const file = rest.join('/');
    const bytes = files.get(file);
    response.setHeader('x-repo-commit', commit);
    if (bytes === undefined) throw new HubError(404, 'EntryNotFound', 'Entry not found');
    const fault = this.faults.get(file);
    if (typeof fault === 'object' && 'redirect' in fault) {
      response.writeHead(302, { location: fault.redirect }).end();
      return;
    }
    if (!isLfs(file, bytes)) {
      response.setHeader('etag', `"${gitOid(bytes)}"`);
      this.#sendFile(request, response, { path: file, bytes });
      return;
    }
    const sha256 = hex('sha256', bytes);
    response.writeHead(302, {
      location: `${this.cdnUrl}/${sha256}?signature=secret`,
      'x-linked-size': bytes.length,
      'x-linked-etag': `"${this.statedSha256 ?? sha256}"`,
      etag: `"${this.statedSha256 ?? sha256}"`,
    });
    response.end();
  }

  #sendFile(
    request: IncomingMessage,
    response: ServerResponse,
    { path, bytes }: { path: string; bytes: Buffer },
  ): void {
    const fault = this.faults.get(path);
    const length = bytes.length;
    response.setHeader('accept-ranges', 'bytes');
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    if (typeof fault === 'object') {
      response.writeHead('status' in fault ? fault.status : 500).end();
    } else if (fault === 'endless') {
      const more = () => {
        while (response.write(Buffer.alloc(65_536)));
      };
      response.on('drain', more);
      more();
    } else if (fault === 'cut' || fault === 'stalled') {
      response.writeHead(200, { 'content-length': length });
      response.write(bytes.subarray(0, length >> 1), () => {
        if (fault === 'cut') response.destroy();
      });
    } else if (fault === 'gzip') {
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(bytes));
    } else if (fault === 'wrong-bytes') {
      response.writeHead(200, { 'content-length': length }).end(Buffer.alloc(length, 0x5a));
    } else if (range !== null) {
      const from = Number(range[1]);
      const part = bytes.subarray(from, range[2] === '' ? undefined : Number(range[2]) + 1);
      response.writeHead(206, {
        'content-length': part.length,
        'content-range': `bytes ${from}-${from + part.length - 1}/${length}`,
      });
      response.end(part);
    } else {
      response.writeHead(200, { 'content-length': length });
      response.end(request.method === 'HEAD' ? undefined : bytes);
    }
  }

  #repo(request: IncomingMessage, name: string): HubRepo {
    const repo = this.#repos.get(name);
    const authorization = request.headers.authorization;
    const known = this.token !== undefined && authorization === `Bearer ${this.token}`;
    if (authorization !== undefined && !known) {
      throw new HubError(401, '', 'Invalid credentials in Authorization header');
    }
    if (repo === undefined || (repo.private === true && !known)) {
      throw new HubError(known ? 404 : 401, 'RepoNotFound', 'Repository not found');
    }
    const isFile = !request.url!.startsWith('/api/');
    if (repo.gated === true && isFile) {
      throw new HubError(known ? 403 : 401, 'GatedRepo', 'Access to this model is restricted');
    }
    return repo;
  }

  #at(repo: HubRepo, revision: string): { commit: string; files: ReadonlyMap<string, Buffer> } {
    const commit = repo.refs.get(revision === 'HEAD' ? 'main' : revision) ?? revision;
    const files = repo.commits.get(commit);
    if (files === undefined) throw new HubError(404, 'RevisionNotFound', 'Invalid rev id');
    return { commit, files };
  }

  #blob(sha256: string): { path: string; bytes: Buffer } {
    for (const repo of this.#repos.values()) {
      for (const files of repo.commits.values()) {
        for (const [path, bytes] of files) {
          if (hex('sha256', bytes) === sha256) return { path, bytes };
        }
      }
    }
    throw new HubError(404, 'NotFound', 'No such blob');
  }
}

function urlOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function sendJson(response: ServerResponse, value: unknown): void {
  response.setHeader('content-type', 'application/json; charset=utf-8');
  response.end(JSON.stringify(value));
}

/** As JSON from JavaScript's client, as a form from Python's. */
async function readPaths(request: IncomingMessage): Promise<string[]> {
  let text = '';
  for await (const chunk of request) {
    text += chunk;
    if (text.length > MAX_BODY_BYTES) throw new HubError(413, 'TooLarge', 'Body too large');
  }
  if (request.headers['content-type']?.startsWith('application/json')) {
    return (JSON.parse(text) as { paths: string[] }).paths;
  }
  return new URLSearchParams(text).getAll('paths');
}
