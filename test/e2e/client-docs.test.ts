/** The TypeScript of README.md and docs/client.md: well typed, and it prints what it should. */
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { transform } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOT } from '../../scripts/process.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

const run = promisify(execFile);
const TSC = path.join(ROOT, 'node_modules/.bin/tsc');
const EXAMPLE = path.join(ROOT, 'examples/modular-arithmetic');
const page = await readFile(path.join(ROOT, 'docs/client.md'), 'utf8');
const readme = await readFile(path.join(ROOT, 'README.md'), 'utf8');
const examples = [...`${readme}${page}`.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code]) => code!);
/** What each prints; some tokens are drawn. */
const OUTPUT = [
  /./,
  /^ 12\n$/,
  /^.+\n$/s,
  /^\[\n? *'17 @ 5 = 12 \((stop|length)\)',\s+'3 @ 4 = \d+ \(\w+\)',\s+'20 @ 20 = 0 \(\w+\)'\n?\s*\]\n$/,
  /^true\n$/,
];

let folder: string;
let server: TestServer;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'loramux-client-docs-'));
  // The package as it is published: package.json and what the compiler makes of the sources.
  const modules = path.join(folder, 'node_modules');
  await mkdir(path.join(modules, 'loramux'), { recursive: true });
  for (const name of ['ws', '@types']) {
    await symlink(path.join(ROOT, 'node_modules', name), path.join(modules, name));
  }
  await cp(path.join(ROOT, 'package.json'), path.join(modules, 'loramux/package.json'));
  const outDir = path.join(modules, 'loramux/dist');
  await run(TSC, ['-p', path.join(ROOT, 'tsconfig.build.json'), '--outDir', outDir]);
  await writeFile(path.join(folder, 'package.json'), '{"type": "module"}');
  await mkdir(path.join(folder, 'adapters'));
  const subtract = path.join(EXAMPLE, 'adapters/subtract');
  await cp(subtract, path.join(folder, 'adapters/support'), { recursive: true });
  for (const [i, code] of examples.entries()) {
    await writeFile(path.join(folder, `example-${i}.ts`), code);
  }
  server = await startTestServer([
    ...['--model', path.join(EXAMPLE, 'model'), '--served-model-name', 'demo'],
    ...['--adapter', `subtract=${subtract}`, '--adapter', `sql=${subtract}`],
  ]);
});
afterAll(async () => {
  expect(await server?.end()).toBe(0);
  await rm(folder, { recursive: true, force: true });
});

describe('examples of README.md and docs/client.md', () => {
  it('are there', () => {
    expect(examples.length).toBe(OUTPUT.length);
  });

  it('are well typed', async () => {
    const options = {
      compilerOptions: {
        strict: true,
        noEmit: true,
        target: 'ES2022',
        module: 'NodeNext',
        lib: ['ES2022'],
        types: ['node'],
      },
      files: examples.map((_, i) => `example-${i}.ts`),
    };
    await writeFile(path.join(folder, 'tsconfig.json'), JSON.stringify(options));
    const { stdout } = await run(TSC, ['-p', folder]).catch((error) => error);
    expect(stdout).toBe('');
  });

  it.each(OUTPUT.map((output, i) => [i, output] as const))('%i prints %s', async (i, output) => {
    const file = path.join(folder, `example-${i}.js`);
    const { code } = await transform(examples[i]!, { loader: 'ts', format: 'esm' });
    await writeFile(file, code.replaceAll('http://127.0.0.1:8000', server.url));
    // A process that something keeps alive would not end.
    const { stdout, stderr } = await run(process.execPath, [file], { cwd: folder });
    expect(stderr).toBe('');
    expect(stdout).toMatch(output);
  });
});

describe('docs/client.md', () => {
  it('lists the codes that the client itself uses, and no other', async () => {
    const sources = path.join(ROOT, 'src/client');
    const rows = [...page.matchAll(/^\| `([a-z_]+)` +\| [A-Z].*\. +\|$/gm)].map(
      ([, code]) => code!,
    );
    const { stdout: thrown } = await run('grep', [
      ...['-rhozE', "(new LoramuxError|#lose|\\.fail)\\(\\s*'[a-z_]+'", sources],
    ]);
    const codes = [...thrown.matchAll(/'([a-z_]+)'/g)].map(([, code]) => code!);
    expect([...new Set(codes)].sort()).toEqual(rows.sort());
  });
});
