/**
 * The examples of all pages. What can be run here is: requests are sent to the app, `loramux` commands
 * are parsed and those that talk to a server run against it. What is not run is listed with the reason.
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { ROOT } from '../../scripts/process.ts';
import { createProgram } from '../../src/cli/program.ts';
import { sha256 } from '../support/fake-adapters.ts';
import { commandsOf, examples, PAGES, type ShellCommand } from '../support/pages.ts';
import { loramux } from '../unit/cli/support.ts';
import { type TestServer, testServer } from '../unit/http/support.ts';

/** Examples in other languages, and the tests that run them; those of text say why none does. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  'README.md ts': 'test/e2e/client-docs.test.ts',
  'docs/client.md ts': 'test/e2e/client-docs.test.ts',
  'docs/websocket.md text': 'test/contract/websocket-examples.test.ts',
  'docs/errors.md json': 'below',
  'docs/benchmarks.md json': 'below',
  'ARCHITECTURE.md ': 'a drawing',
  'docs/adapters.md ': 'a formula',
  'docs/fleet.md ': 'test/e2e/redis-access.test.ts',
  'docs/http.md ': 'a line that the server prints',
};

/** Commands that are not run, by how they begin; the files they name must be there. */
const NOT_RUN: readonly (readonly [pattern: RegExp, reason: string])[] = [
  [/^npm (ci|test|run|start)\b/, 'its script and arguments are looked up below'],
  [/^(mkdir|redis-server|export|unzip|tail|pip|python3) /, 'prepares what others then use'],
  [/^\.venv\/bin\/(python|pip) /, 'needs torch and minutes'],
  [/^(node scripts\/build-native\.mjs|cmake|ctest) ?/, 'builds; every run of `npm test` does'],
  [/^(build\/|qemu-|LD_PRELOAD=)/, 'runs what was built with sanitizers or for another processor'],
];

const commands = examples.filter(({ language }) => language === 'sh').flatMap(commandsOf);
const isCurl = ({ words }: ShellCommand) => words[0] === 'curl';
const isLoramux = ({ words }: ShellCommand) =>
  words[0] === 'loramux' || (words[0] === 'npx' && words[1] === 'loramux');
const titled = (list: ShellCommand[]) =>
  list.map((one) => [`${one.page}: ${one.line}`, one] as const);

/** As `3f2a91c0` and `8be1d7a2` of the pages begin. */
const KEPT = '3f2a91c0'.padEnd(64, '0');
const CURRENT = '8be1d7a2'.padEnd(64, '1');
const TAGGED = '8f14e45fceea167a5a36dedd4bea2543ba5e0d1f7c2d9b3a6e4f5d6c7b8a9012';

let server: TestServer;
let address: string;
let folder: string;
beforeAll(async () => {
  server = await testServer();
  address = await server.listen();
  folder = await mkdtemp(path.join(tmpdir(), 'loramux-pages-'));
});
afterAll(async () => {
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

describe('examples of the pages', () => {
  it('are in a language that a test knows', () => {
    const unknown = examples
      .filter(({ language }) => language !== 'sh')
      .map(({ page, language }) => `${page} ${language}`)
      .filter((kind) => ELSEWHERE[kind] === undefined);
    expect(unknown).toEqual([]);
  });

  it('are run by the tests that are said to', () => {
    for (const [kind, where] of Object.entries(ELSEWHERE)) {
      expect(
        examples.some(({ page, language }) => `${page} ${language}` === kind),
        kind,
      ).toBe(true);
      if (!where.endsWith('.ts')) continue;
      const page = path.basename(kind.split(' ')[0]!);
      expect(readFileSync(path.join(ROOT, where), 'utf8').includes(page), where).toBe(true);
    }
  });

  it('are run, or not run for a reason', () => {
    const strange = commands.filter(
      (one) => !isCurl(one) && !isLoramux(one) && !NOT_RUN.some(([begin]) => begin.test(one.line)),
    );
    // A pipe after a request only shows a part of the answer.
    const shown = strange.filter(({ words }) => !['grep', 'jq', 'head'].includes(words[0]!));
    expect(shown.map(({ page, line }) => `${page}: ${line}`)).toEqual([]);
    for (const [begin] of NOT_RUN) expect(commands.some(({ line }) => begin.test(line))).toBe(true);
  });

  it('name files that are there', () => {
    const isOurs = /^(scripts|test|deploy|docs|src|bench|kernels|examples|cmake)\/|\.py$/;
    for (const { page, line, words } of commands.filter((one) => !isCurl(one))) {
      for (const word of words) {
        const file = word.replace(/^.*=/, '');
        if (!isOurs.test(file)) continue;
        const places = [ROOT, path.join(ROOT, path.dirname(page)), path.join(ROOT, 'kernels')];
        expect(
          places.some((place) => existsSync(path.join(place, file))),
          line,
        ).toBe(true);
      }
    }
  });

  it('use scripts of package.json', () => {
    const { scripts } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8'));
    for (const { line, words } of commands.filter(({ words: [first] }) => first === 'npm')) {
      const script = words[1] === 'run' ? words[2]! : words[1]!;
      if (script !== 'ci') expect(Object.keys(scripts), line).toContain(script);
    }
  });

  it('are JSON where they say so', () => {
    const json = examples.filter(({ language }) => language === 'json');
    expect(json.length).toBeGreaterThan(0);
    for (const { page, text } of json) expect(() => JSON.parse(text), page).not.toThrow();
  });

  it('are looked for on every page', () => {
    expect(PAGES).toEqual(
      expect.arrayContaining(['README.md', 'docs/http.md', 'kernels/README.md']),
    );
  });
});

interface Request {
  readonly method: string;
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body: string | FormData | undefined;
}

const BASE = /^(http:\/\/)?(127\.0\.0\.1|localhost):80\d\d(?=\/)/;

function requestOf({ words }: ShellCommand): Request {
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
    } else if (word === '-d') {
      body = words[++i]!.replace('<64 digits>', KEPT).replace(/"model": *"demo"/, '"model":"base"');
    } else if (word === '--data-binary') body = `the content of ${words[++i]}`;
    else if (word === '-F') {
      const [field, file] = words[++i]!.split('=@') as [string, string];
      if (!(body instanceof FormData)) body = new FormData();
      body.append(field, new Blob(['content']), path.basename(file));
    } else if (BASE.test(word)) url = word.replace(BASE, '');
    else expect(['-s', '-si', '-N', '-sN']).toContain(word);
  }
  if (method === 'GET' && body !== undefined) method = 'POST';
  return { method, path: url, headers, body };
}

describe('requests of the pages', () => {
  it('are there', () => {
    expect(commands.filter(isCurl).length).toBeGreaterThan(20);
  });

  it.each(titled(commands.filter(isCurl)))('%s', async (_title, command) => {
    const request = requestOf(command);
    const { method, headers, body } = request;
    const { adapters } = server;
    adapters.entries.delete('support');
    const isNew = request.path.endsWith('/load_lora_adapter') && !request.path.includes('unload');
    if (!isNew)
      adapters.seed('support', [KEPT, headers['if-match'] === undefined ? CURRENT : TAGGED]);
    const model =
      headers['content-type'] === 'application/json' && typeof body === 'string'
        ? JSON.parse(body).model
        : undefined;
    if (model !== undefined && model !== 'base') adapters.seed(model, [sha256('sub')]);
    const response = await fetch(address + request.path, { method, headers, body: body ?? null });
    expect([200, 201], await response.clone().text()).toContain(response.status);
    await response.body?.cancel();
  });
});

/** A `loramux` command's own words. */
const argsOf = ({ words }: ShellCommand) => words.slice(words[0] === 'npx' ? 2 : 1);

describe('commands of the pages', () => {
  it.each(titled(commands.filter(isLoramux)))('%s: can be parsed', async (_title, command) => {
    const program = createProgram();
    let ran = 0;
    const visit = (one: typeof program) => {
      one.action(() => {
        ran += 1;
      });
      for (const sub of one.commands) visit(sub as typeof program);
    };
    visit(program);
    await program.parseAsync(argsOf(command), { from: 'user' });
    expect(ran).toBe(1);
  });
});

const talks = commands.filter(
  (one) => isLoramux(one) && /^(adapters|replicas)$/.test(argsOf(one)[0]!),
);

describe('commands of the pages that talk to a server', () => {
  const cwd = process.cwd();
  afterEach(() => {
    process.chdir(cwd);
  });

  /** The files that a push takes, where it looks for them. */
  async function prepare(source: string): Promise<void> {
    const place = path.join(folder, source);
    if (/:\/\/|^server:/.test(source) || existsSync(place)) return;
    if (/\.(tar\.gz|zip)$/.test(source)) {
      await writeFile(place, 'content');
      return;
    }
    await mkdir(place, { recursive: true });
    for (const file of ['adapter_config.json', 'adapter_model.safetensors']) {
      await writeFile(path.join(place, file), 'content');
    }
  }

  it.each(titled(talks))('%s', async (_title, command) => {
    const args = argsOf(command).filter(
      (word, i, all) => word !== '--url' && all[i - 1] !== '--url',
    );
    const [group, action, name] = args;
    if (group === 'adapters' && name !== undefined) {
      server.adapters.entries.delete(name);
      const condition = args[args.indexOf('--if-match') + 1];
      const generations = condition === KEPT.slice(0, 8) ? [CURRENT, KEPT] : [KEPT, CURRENT];
      if (!args.includes('--create-only')) server.adapters.seed(name, generations);
    }
    if (action === 'push') await prepare(args[3]!);
    process.chdir(folder);
    const { code, stderr } = await loramux(...args, '--url', address);
    expect(stderr).not.toContain('loramux:');
    expect(code).toBe(0);
  });
});
