/** `loramux adapters` and `loramux replicas` as processes against a real server. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tarGz, zip } from '../support/archives.ts';
import { selfSigned } from '../support/certificate.ts';
import { cliOf, jsonOf, runCli } from '../support/cli.ts';
import { answeredBy } from '../support/clients.ts';
import {
  CONTENT_MODEL_DIR,
  type Content,
  type Contents,
  makeContents,
} from '../support/contents.ts';
import { type FileServer, startFileServer } from '../support/file-server.ts';
import { HubServer } from '../support/hub-server.ts';
import { freePort } from '../support/redis.ts';
import { readAdapterFiles, startTestServer, type TestServer } from '../support/server.ts';

let folder: string;
let contents: Contents;
let hub: HubServer;
let web: FileServer;
let server: TestServer;
let cli: ReturnType<typeof cliOf>;
let c: readonly [Content, Content, Content, Content];
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'loramux-cli-'));
  const certificate = selfSigned();
  const authorities = path.join(folder, 'authorities.pem');
  await writeFile(authorities, certificate.cert);
  [contents, hub, web] = await Promise.all([
    makeContents(4),
    HubServer.start(),
    startFileServer(certificate),
  ]);
  c = contents.list as unknown as typeof c;
  server = await startTestServer(
    [
      ...['--model', CONTENT_MODEL_DIR, '--max-loras', '3', '--hub-endpoint', hub.url],
      ...['--allow-private-sources', 'true', '--adapter-root', path.dirname(c[0].dir)],
    ],
    { env: { NODE_EXTRA_CA_CERTS: authorities } },
  );
  cli = cliOf(server);
});
afterAll(async () => {
  await server?.end();
  await hub?.close();
  await web?.close();
  await contents?.remove();
  await rm(folder, { recursive: true, force: true });
});

const fails = async (args: readonly string[], code: number, error: string) => {
  const { code: exit, stdout, stderr } = await cli(...args);
  expect([exit, stdout], stderr).toEqual([code, '']);
  expect(stderr).toMatch(new RegExp(`^loramux: ${error}: `, 'm'));
  return stderr;
};

describe.concurrent('loramux adapters push', () => {
  it('takes every kind of source', async () => {
    const files = await readAdapterFiles(c[0].dir);
    const entries = Object.entries(files).map(([name, data]) => ({ name, data }));
    const zipFile = path.join(folder, 'one.zip');
    await writeFile(zipFile, zip(entries));
    const tarFile = path.join(folder, 'one.tar.gz');
    await writeFile(tarFile, tarGz(entries));
    hub.commit('team/one', files, 'v1');
    web.files.set('/one.tgz', tarGz(entries));
    const sources = {
      folder: c[0].dir,
      zip: zipFile,
      tar: tarFile,
      hub: 'hf://team/one@v1',
      web: `${web.url}/one.tgz`,
      server: `server:${path.basename(c[0].dir)}`,
    };
    for (const [name, source] of Object.entries(sources)) {
      const { code, stdout, stderr } = await cli('adapters', 'push', name, source);
      expect([code, stderr], stderr).toEqual([0, '']);
      expect(stdout).toBe(`${name}: generation ${c[0].generation}, rank 2\n`);
      expect(await answeredBy(server, name, contents)).toBe(c[0]);
    }
    const { stdout } = await cli('adapters', 'list');
    const names = stdout.split('\n').map((line) => line.split(' ')[0]);
    expect(names).toEqual(expect.arrayContaining(Object.keys(sources)));
  });

  it('says what is wrong, with the exit code of its kind', async () => {
    const text = path.join(folder, 'notes.txt');
    await writeFile(text, 'notes');
    const bad = path.join(folder, 'bad.zip');
    await writeFile(bad, zip([{ name: '../evil', data: Buffer.from('x') }]));
    await fails(['adapters', 'push', 'x', folder], 1, 'adapter_upload_incomplete');
    await fails(['adapters', 'push', 'x', text], 2, 'config_invalid');
    await fails(['adapters', 'push', 'x', 'hf://nobody/nothing'], 1, 'source_not_found');
    await fails(['adapters', 'push', 'x', 'server:/etc'], 1, 'adapter_path_forbidden');
    await fails(['adapters', 'push', 'x', bad], 1, 'archive_unsafe');
    await fails(['adapters', 'push', 'x', c[0].dir, '--canary', '2'], 2, 'config_invalid');
    await fails(['adapters', 'show', 'x'], 1, 'adapter_not_found');
    const port = await freePort();
    const away = await runCli(['adapters', 'list', '--url', `http://127.0.0.1:${port}`, '--json']);
    expect([away.code, away.stdout]).toEqual([1, '']);
    expect(JSON.parse(away.stderr).error.code).toBe('server_unreachable');
  });
});

describe.concurrent('the life of an adapter', () => {
  it('can be led from the command line', async () => {
    const [one, two, three] = c.map(({ generation }) => generation) as [string, string, string];
    expect(
      jsonOf(await cli('adapters', 'push', 'life', c[0].dir, '--create-only', '--json')),
    ).toMatchObject({ name: 'life', generation: one });
    const taken = await fails(
      ['adapters', 'push', 'life', c[1].dir, '--create-only'],
      1,
      'generation_mismatch',
    );
    expect(taken).toContain(one);
    const stale = ['adapters', 'push', 'life', c[1].dir, '--if-match', two];
    expect(await fails(stale, 1, 'generation_mismatch')).toContain(one);
    const asJson = await cli(...stale, '--json');
    expect([asJson.code, asJson.stdout]).toEqual([1, '']);
    expect(JSON.parse(asJson.stderr).error).toMatchObject({
      code: 'generation_mismatch',
      current_generation: one,
    });
    expect(
      jsonOf(
        await cli('adapters', 'push', 'life', c[1].dir, '--if-match', one.slice(0, 8), '--json'),
      ),
    ).toMatchObject({ generation: two });

    const canary = await cli('adapters', 'push', 'life', c[2].dir, '--canary', '0.25');
    expect(canary.stdout).toBe(
      `life: generation ${two}, rank 4, 25 % of the requests get ${three}\n`,
    );
    const kept = jsonOf(await cli('adapters', 'generations', 'life', '--json'));
    expect(kept.data.map(({ generation }: { generation: string }) => generation)).toEqual([
      three,
      two,
      one,
    ]);
    const table = await cli('adapters', 'generations', 'life');
    expect(table.stdout).toMatch(new RegExp(`^${three} .* canary +upload$`, 'm'));
    expect(table.stdout).toMatch(new RegExp(`^${two} .* current +upload$`, 'm'));

    expect(
      jsonOf(await cli('adapters', 'split', 'life', one.slice(0, 12), '0.5', '--json')).split,
    ).toEqual({ generation: one, weight: 0.5 });
    expect((await cli('adapters', 'split', 'life', '--end')).stdout).toBe(
      `life: generation ${two}, rank 4\n`,
    );
    await fails(['adapters', 'rollback', 'life', 'abc'], 2, 'config_invalid');
    await fails(['adapters', 'rollback', 'life', '00000000'], 1, 'generation_not_found');
    expect((await cli('adapters', 'rollback', 'life', one.slice(0, 8))).code).toBe(0);
    expect(await answeredBy(server, 'life', contents)).toBe(c[0]);
    const back = jsonOf(
      await cli('adapters', 'rollback', 'life', three, '--if-match', '*', '--json'),
    );
    expect(back.generation).toBe(three);
    expect((await cli('adapters', 'rollback', 'life')).stdout).toContain(two);
    expect(await answeredBy(server, 'life', contents)).toBe(c[1]);
  });

  it('in memory as well', async () => {
    await server.upload('memory', c[3].dir);
    expect((await cli('adapters', 'load', 'memory')).stdout).toBe('memory: loaded\n');
    expect((await cli('adapters', 'evict', 'memory')).stdout).toBe('memory: evicted\n');
    const show = await cli('adapters', 'show', 'memory');
    expect(show.stdout).toMatch(/^residency +.*"level":"disk"/m);
    expect((await cli('adapters', 'load', 'memory', '--pin')).stdout).toBe(
      'memory: loaded, pinned\n',
    );
    await fails(['adapters', 'evict', 'memory'], 1, 'adapter_pinned');
    expect((await cli('adapters', 'unpin', 'memory')).stdout).toBe('memory: not pinned\n');
    expect((await cli('adapters', 'pin', 'memory')).stdout).toBe('memory: pinned\n');
    const listed = jsonOf(await cli('adapters', 'list', '--json')).data.find(
      ({ name }: { name: string }) => name === 'memory',
    );
    expect(listed).toMatchObject({ pinned: true, residency: { level: 'device', pinned: true } });
    const replicas = await cli('replicas');
    expect(replicas.stdout).toContain(server.url);
    const warm = await cli('replicas', '--adapter', 'memory');
    expect(warm.stdout).toMatch(new RegExp(`${c[3].generation.slice(0, 12)} +device +pinned`));
    expect(jsonOf(await cli('replicas', '--json')).data).toMatchObject([{ self: true }]);
    await fails(
      ['adapters', 'remove', 'memory', '--if-match', c[1].generation],
      1,
      'generation_mismatch',
    );
    expect((await cli('adapters', 'remove', 'memory')).stdout).toBe('memory: removed\n');
    expect((await server.call('GET', '/v1/adapters/memory')).status).toBe(404);
  });
});
