/**
 * A real `loramux serve` process for end-to-end tests, on a free loopback port. Its answers are compared
 * with openapi.yaml: one that is not documented fails the test that got it.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { readMetric } from '../../scripts/metrics.ts';
import { type StartedServer, startServer } from '../../scripts/process.ts';
import { checkedText } from './contract.ts';

export interface TestServer extends StartedServer {
  readonly dataDir: string;
  /** JSON body, or text when it is none. */
  call(method: string, route: string, body?: unknown): Promise<{ status: number; body: Json }>;
  /** PUT /v1/adapters/{name} with the two files of a PEFT directory. */
  upload(name: string, folder: string): Promise<{ status: number; body: Json }>;
  uploadFiles(
    name: string,
    files: Record<string, Uint8Array>,
  ): Promise<{ status: number; body: Json }>;
  metric(name: string): Promise<number>;
  /** Stops the process and removes its data folder. */
  end(): Promise<number | null>;
}

// biome-ignore lint/suspicious/noExplicitAny: answers are checked field by field in the tests.
export type Json = any;

export async function readAdapterFiles(folder: string): Promise<Record<string, Uint8Array>> {
  const names = ['adapter_config.json', 'adapter_model.safetensors'];
  const files = names.map(async (name) => [name, await readFile(path.join(folder, name))] as const);
  return Object.fromEntries(await Promise.all(files));
}

/**
 * Limits of time that a machine with other work besides would exceed; a test of one of them gives the
 * option, which goes before.
 */
const PATIENCE = {
  LORAMUX_GRAMMAR_COMPILE_MS: '300000',
  LORAMUX_GRAMMAR_MASK_WAIT_MS: '60000',
};

/** @param args besides --port and --data-dir; a data folder of its own unless one is given. */
export async function startTestServer(
  args: readonly string[],
  options: { dataDir?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<TestServer> {
  const dataDir = options.dataDir ?? (await mkdtemp(path.join(tmpdir(), 'loramux-e2e-')));
  const server = await startServer(
    ['--port', '0', '--data-dir', dataDir, '--log-level', 'error', ...args],
    { env: { ...PATIENCE, ...options.env } },
  );
  const parse = async (method: string, route: string, response: Response) => {
    const text = await checkedText(method, route, response);
    try {
      return { status: response.status, body: JSON.parse(text) as Json };
    } catch {
      return { status: response.status, body: text as Json };
    }
  };
  const uploadFiles: TestServer['uploadFiles'] = async (name, files) => {
    const form = new FormData();
    for (const [file, bytes] of Object.entries(files)) form.set(file, new Blob([bytes]), file);
    const route = `/v1/adapters/${encodeURIComponent(name)}`;
    return parse('PUT', route, await fetch(server.url + route, { method: 'PUT', body: form }));
  };
  return {
    ...server,
    dataDir,
    uploadFiles,
    async call(method, route, body) {
      return parse(
        method,
        route,
        await fetch(server.url + route, {
          method,
          ...(body === undefined
            ? {}
            : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
        }),
      );
    },
    async upload(name, folder) {
      return uploadFiles(name, await readAdapterFiles(folder));
    },
    async metric(name) {
      return readMetric(await (await fetch(`${server.url}/metrics`)).text(), name);
    },
    async end() {
      const code = await server.stop();
      if (options.dataDir === undefined) await rm(dataDir, { recursive: true, force: true });
      return code;
    },
  };
}
