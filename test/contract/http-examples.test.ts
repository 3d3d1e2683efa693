/** The curl examples of docs/http.md: the server takes every one as it stands there. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sha256 } from '../support/fake-adapters.ts';
import { type TestServer, testServer } from '../unit/http/support.ts';

const text = readFileSync(fileURLToPath(new URL('../../docs/http.md', import.meta.url)), 'utf8');
const commands = [...text.matchAll(/^```sh\n([\s\S]*?)^```$/gm)]
  .flatMap(([, block]) => block!.replaceAll('\\\n', ' ').split('\n'))
  .filter((line) => line.startsWith('curl '));

const BASE = 'http://127.0.0.1:8000';
const CURRENT = '8f14e45fceea167a5a36dedd4bea2543ba5e0d1f7c2d9b3a6e4f5d6c7b8a9012';
const KEPT = sha256('kept');

/** A command's words, without quotes. */
const wordsOf = (command: string) =>
  [...command.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!);

interface Example {
  readonly method: string;
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body: string | FormData | undefined;
}

function parse(command: string): Example {
  const words = wordsOf(command.split(' | ')[0]!);
  let method = 'GET';
  let url = '';
  const headers: Record<string, string> = {};
  let body: string | FormData | undefined;
  for (let i = 1; i < words.length; i++) {
    const word = words[i]!;
    if (word === '-X') method = words[++i]!;
    else if (word === '-H') {
      const [name, value] = words[++i]!.split(': ', 2);
      headers[name!] = value!;
    } else if (word === '-d') body = words[++i]!.replace('<64 digits>', KEPT);
    else if (word === '--data-binary') body = `the content of ${words[++i]}`;
    else if (word === '-F') {
      const [field, file] = words[++i]!.split('=@') as [string, string];
      if (!(body instanceof FormData)) body = new FormData();
      body.append(field, new Blob(['content']), file);
    } else if (word.startsWith(BASE)) url = word;
    else expect(['-s', '-si']).toContain(word);
  }
  return { method, path: url.slice(BASE.length), headers, body };
}

let server: TestServer;
let address: string;
beforeAll(async () => {
  server = await testServer();
  address = await server.listen();
});
afterAll(() => server.close());

describe('examples of docs/http.md', () => {
  it('are there', () => {
    expect(commands.length).toBeGreaterThan(20);
  });

  it.each(commands)('%s', async (command) => {
    const { method, path, headers, body } = parse(command);
    server.adapters.entries.delete('support');
    if (!path.endsWith('/load_lora_adapter') || path.includes('unload')) {
      server.adapters.seed('support', [KEPT, CURRENT]);
    }
    const response = await fetch(`${address}${path}`, { method, headers, body: body ?? null });
    expect([200, 201], await response.clone().text()).toContain(response.status);
    await response.body?.cancel();
  });
});
