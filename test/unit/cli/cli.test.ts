/** The command as a user runs it: a process, its output, its exit code. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { VERSION } from '../../../src/version.ts';
import { selfSigned } from '../../support/certificate.ts';
import { type TestServer, testServer } from '../http/support.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const FIXTURES = path.join(ROOT, 'test/fixtures');
const MODEL = path.join(FIXTURES, 'models/llama2');

interface Run {
  code: number | null;
  stdout: string;
  stderr: string;
}

function loramux(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Run> {
  const child = spawn(process.execPath, [path.join(ROOT, 'bin/loramux.mjs'), ...args], {
    env: { ...process.env, LORAMUX_FROM_SOURCE: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, stdout, stderr })));
}

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'loramux-cli-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

describe('loramux', () => {
  it('prints version and help', async () => {
    expect(await loramux(['version'])).toEqual({ code: 0, stdout: `${VERSION}\n`, stderr: '' });
    expect(await loramux(['--version'])).toMatchObject({ code: 0, stdout: `${VERSION}\n` });
    const help = await loramux(['serve', '--help']);
    expect(help.code).toBe(0);
    expect(help.stdout).toContain('LORAMUX_MAX_TOKENS_PER_STEP');
  });

  it.each([
    [2, ['serve'], {}, /config_invalid: --model \(or LORAMUX_MODEL\) is required/],
    [2, ['serve', '--prot', '1'], {}, /config_invalid: unknown option '--prot'/],
    [2, ['serve', '--model', 'x'], { LORAMUX_PROT: '1' }, /config_invalid: .*LORAMUX_PROT/],
    [1, ['serve', '--model', '/nowhere'], {}, /model_config_unsupported: .*nowhere/],
    [1, ['serve', '--model', MODEL, '--adapter', 'a=/nowhere'], {}, /config_invalid: --adapter a=/],
    [2, ['fly'], {}, /config_invalid: unknown command 'fly'/],
    [2, ['adapters'], {}, /config_invalid: a command is missing/],
    [2, ['import', MODEL, '--quantize', 'int3'], {}, /config_invalid: .*int8/],
    [2, ['import', MODEL, '--quantize', 'int8'], {}, /config_invalid: .*--out/],
    [2, ['import', MODEL, '--group-size', 'x', '--out', 'y'], {}, /config_invalid: .*group-size/],
    [1, ['import', MODEL, '--out', '/tmp/none'], {}, /config_invalid: .*name the format/],
    [1, ['synth', 'nothing', '/tmp'], {}, /config_invalid: /],
    [2, ['adapters', 'list', '--url', 'ftp://x'], {}, /config_invalid: --url/],
    [2, ['adapters', 'list'], { LORAMUX_URL: 'ftp://x' }, /config_invalid: .*LORAMUX_URL/],
    [1, ['adapters', 'list', '--url', 'http://127.0.0.1:1'], {}, /server_unreachable: .*--url/],
    [1, ['adapters', 'push', 'a', '/nowhere'], {}, /adapter_upload_incomplete: /],
  ] as const)('ends with %i for %j and says why', async (expected, args, env, message) => {
    const flags = args[0] === 'serve' ? ['--data-dir', path.join(dir, 'data'), '--port', '0'] : [];
    const { code, stdout, stderr } = await loramux([...args, ...flags], env);
    expect(stderr).toMatch(message);
    expect([code, stdout]).toEqual([expected, '']);
    expect(stderr, 'no stack for what a user did').not.toMatch(/^ {4}at /m);
  });

  it('reports errors as JSON when asked', async () => {
    const { code, stderr } = await loramux(['import', '/nowhere', '--json']);
    expect(code).toBe(1);
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'model_config_unsupported' } });
  });
});

describe('loramux import', () => {
  it('checks a model', async () => {
    const { code, stdout } = await loramux(['import', MODEL, '--json']);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      architecture: 'LlamaForCausalLM',
      quantization: null,
    });
  });

  it('packs once', async () => {
    const format = [
      '--quantize',
      'int4',
      '--group-size',
      '32',
      '--zero-points',
      '--lm-head',
      'same',
    ];
    const args = ['import', MODEL, ...format, '--out', path.join(dir, 'int4'), '--json'];
    expect(JSON.parse((await loramux(args)).stdout)).toMatchObject({ written: true });
    expect(JSON.parse((await loramux(args)).stdout)).toMatchObject({ written: false });
    const checked = await loramux(['import', path.join(dir, 'int4'), '--json']);
    expect(JSON.parse(checked.stdout)).toMatchObject({ quantization: 'int4' });
    const text = await loramux(args.slice(0, -1));
    expect([text.code, text.stdout]).toEqual([
      0,
      `${path.join(dir, 'int4')} holds this packing already\n`,
    ]);
  });
});

describe('loramux synth', () => {
  it('writes a model and adapters of a given config', async () => {
    const config = path.join(dir, 'config.json');
    await cp(path.join(MODEL, 'config.json'), config);
    const out = path.join(dir, 'synth');
    const args = ['synth', config, out, '--adapters', '2', '--rank', '2,4', '--targets', 'q_proj'];
    const { code, stdout, stderr } = await loramux([...args, '--dtype', 'f32', '--json']);
    expect([code, stderr]).toEqual([0, '']);
    const result = JSON.parse(stdout) as { adapters: { rank: number; dir: string }[] };
    expect(result.adapters.map(({ rank }) => rank)).toEqual([2, 4]);
    expect(await readdir(result.adapters[0]!.dir)).toContain('adapter_model.safetensors');
    expect((await loramux(['import', out])).code).toBe(0);
  });
});

describe('loramux adapters', () => {
  let server: TestServer;
  let url: string;
  beforeAll(async () => {
    server = await testServer();
    url = await server.listen();
  });
  afterAll(() => server.close());

  it('pushes, lists, shows and removes', async () => {
    const folder = await mkdtemp(path.join(dir, 'adapter-'));
    await writeFile(path.join(folder, 'adapter_config.json'), '{"r":4}');
    await writeFile(path.join(folder, 'adapter_model.safetensors'), 'x'.repeat(4000));
    const pushed = await loramux(['adapters', 'push', 'team/new', folder, '--url', url]);
    expect(pushed).toMatchObject({ code: 0, stderr: '' });
    expect(pushed.stdout).toMatch(/^team\/new: generation \S{64}, rank 8\n$/);
    expect(server.adapters.puts.at(-1)?.files).toEqual({
      config: '{"r":4}',
      weights: 'x'.repeat(4000),
    });
    const list = await loramux(['adapters', 'list', '--url', url]);
    expect(list.stdout).toMatch(/^name +generation/);
    expect(list.stdout).toContain('team/new');
    expect(list.stdout).toContain('broken: DAMAGED');
    const shown = await loramux(['adapters', 'show', 'team/new', '--url', url, '--json']);
    expect(JSON.parse(shown.stdout)).toMatchObject({ name: 'team/new', object: 'adapter' });
    expect((await loramux(['adapters', 'remove', 'team/new', '--url', url])).code).toBe(0);
    const gone = await loramux(['adapters', 'show', 'team/new', '--url', url]);
    expect(gone.code).toBe(1);
    expect(gone.stderr).toMatch(/^loramux: adapter_not_found: /);
  });

  it("passes the server's refusal on, also of a file it stops reading", async () => {
    const folder = await mkdtemp(path.join(dir, 'adapter-'));
    await writeFile(path.join(folder, 'adapter_config.json'), '{}');
    await writeFile(path.join(folder, 'adapter_model.safetensors'), Buffer.alloc(5_000_000));
    const { code, stderr } = await loramux(['adapters', 'push', 'big', folder, '--url', url]);
    expect(stderr).toMatch(/^loramux: adapter_too_large: /);
    expect(code).toBe(1);
  });
});

describe('an https server', () => {
  it('is trusted as Node.js trusts it', async () => {
    const { cert, key } = selfSigned();
    const file = path.join(dir, 'authority.pem');
    await writeFile(file, cert);
    const body = JSON.stringify({ object: 'list', data: [], damaged: [] });
    const server = https.createServer({ cert, key }, (_request, response) => response.end(body));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const args = ['adapters', 'list', '--json', '--url', `https://127.0.0.1:${port}`];
    const trusted = await loramux(args, { NODE_EXTRA_CA_CERTS: file });
    const refused = await loramux(args, { NODE_EXTRA_CA_CERTS: undefined });
    server.close();
    expect(trusted).toEqual({ code: 0, stdout: `${body}\n`, stderr: '' });
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(
      /server_unreachable.*self-signed certificate; NODE_EXTRA_CA_CERTS/,
    );
  });
});

describe('loramux doctor', () => {
  it('describes the machine and finds the known answers', async () => {
    const { code, stdout } = await loramux(['doctor', '--json']);
    const report = JSON.parse(stdout) as {
      ok: boolean;
      isas: string[];
      checks: { name: string; status: string; detail: string }[];
    };
    const failed = report.checks.filter(({ status }) => status === 'failed');
    expect(failed).toEqual([]);
    expect([code, report.ok]).toEqual([0, true]);
    expect(report.isas[0]).toBe('scalar');
    const names = report.checks.map(({ name }) => name);
    expect(names).toEqual(expect.arrayContaining(['native', 'demo model', 'goldens llama2']));
  });
});
