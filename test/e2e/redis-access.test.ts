/** Servers that Redis does not let in, or not any more: they say so, and never say the password. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOT } from '../../scripts/process.ts';
import { type Answer, putFrom, send, sendJson } from '../support/clients.ts';
import { askBody, CONTENT_MODEL, CONTENT_MODEL_DIR } from '../support/contents.ts';
import { type EarlyServer, startEarlyServer } from '../support/early-server.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { FIXTURES } from '../support/stack.ts';
import { until } from '../support/until.ts';

const PASSWORD = 'correct-horse';
const ARGS = [
  ...['--model', CONTENT_MODEL_DIR, '--redis-timeout-ms', '2000'],
  ...['--registry-reconcile-ms', '200'],
];

let redis: TestRedis;
beforeAll(async () => {
  redis = await startRedis();
});
afterAll(() => redis?.stop());

const setUser = (name: string, ...rules: readonly string[]) =>
  redis.command('ACL', 'SETUSER', name, ...rules);
const urlOf = (user: string, password: string) =>
  `redis://${user}:${password}@127.0.0.1:${redis.port}`;
const ask = (server: EarlyServer, model: string) =>
  sendJson(server, 'POST', '/v1/completions', askBody(model));
/** On a busy machine Redis misses its time now and then. */
const untilUnknown = (server: EarlyServer) =>
  until(
    'a name is not known',
    () => ask(server, 'unknown'),
    ({ status }) => status === 404,
  );

/** The health of a server that may not listen yet. */
function untilHealth(server: EarlyServer, what: string, holds: (health: Answer) => boolean) {
  const gone = server.exited.then((code) => {
    throw new Error(`the server ended with ${code}:\n${server.output()}`);
  });
  const asked = until(
    what,
    () => send(server, 'GET', '/health').catch(() => undefined),
    (answer) => answer !== undefined && holds(answer),
  );
  return Promise.race([asked, gone]) as Promise<Answer>;
}

describe('access to Redis', () => {
  it('that is refused at start is said, and waited for', async () => {
    await setUser('late', 'on', '>another-one', '~*', '&*', '+@all');
    const server = await startEarlyServer([...ARGS, '--redis', urlOf('late', PASSWORD)]);
    try {
      const { status, body } = await untilHealth(
        server,
        'the server says why it waits',
        ({ body: { registry } }) => /WRONGPASS/.test(registry?.reason ?? ''),
      );
      expect([status, body.status, body.registry.state]).toEqual([503, 'connecting', 'connecting']);
      // The base needs no registry; nothing is said of adapters that is not known.
      expect((await ask(server, CONTENT_MODEL)).status).toBe(200);
      for (const refused of [
        await ask(server, 'unknown'),
        await send(server, 'GET', '/v1/adapters'),
        await putFrom(server, 'new', { path: 'x' }),
      ]) {
        expect(refused.status).toBe(503);
        expect(refused.body.error.code).toBe('registry_unavailable');
        expect(refused.body.error.message).toContain('WRONGPASS');
      }
      expect(server.output()).not.toContain('ready on');
      await setUser('late', `>${PASSWORD}`);
      await untilHealth(server, 'the server is let in', (health) => health.status === 200);
      await until(
        'the ready line',
        () => server.output(),
        (text) => text.includes('ready on'),
      );
      await untilUnknown(server);
    } finally {
      expect(await server.end()).toBe(0);
    }
    expect(server.output()).toContain('WRONGPASS');
    expect(server.output()).not.toContain(PASSWORD);
  });

  it('to the keys of another deployment only is said as well', async () => {
    await setUser('narrow', 'on', `>${PASSWORD}`, '~{narrow:v1}:*', '&{narrow:v1}:*', '+@all');
    const args = [...ARGS, '--redis', urlOf('narrow', PASSWORD)];
    const outside = await startEarlyServer(args);
    const inside = await startEarlyServer([...args, '--redis-prefix', 'narrow']);
    try {
      await untilHealth(outside, 'the server says that it may not', ({ body: { registry } }) =>
        /NOPERM/.test(registry?.reason ?? ''),
      );
      await untilHealth(inside, 'the other one may', ({ status }) => status === 200);
    } finally {
      await Promise.all([outside.end(), inside.end()]);
    }
    expect(outside.output()).not.toContain(PASSWORD);
  });

  it('that is taken away while the server runs is said, and found again', async () => {
    await setUser('taken', 'on', `>${PASSWORD}`, '~*', '&*', '+@all');
    const server = await startEarlyServer([...ARGS, '--redis', urlOf('taken', PASSWORD)]);
    try {
      await untilHealth(server, 'the server is ready', ({ status }) => status === 200);
      await setUser('taken', '-@write', '-@scripting');
      const { status, body } = await untilHealth(
        server,
        'the loss is noticed',
        ({ body: { registry } }) => /NOPERM/.test(registry.reason ?? ''),
      );
      expect([status, body.status, body.registry.state]).toEqual([200, 'degraded', 'degraded']);
      const refused = await send(server, 'DELETE', '/v1/adapters/any');
      expect(refused).toMatchObject({
        status: 503,
        body: { error: { code: 'registry_unavailable' } },
      });
      // Without the user at all, its connections are closed and cannot come back.
      await redis.command('ACL', 'DELUSER', 'taken');
      await untilHealth(server, 'the user is gone', ({ body: { registry } }) =>
        /WRONGPASS/.test(registry.reason ?? ''),
      );
      await setUser('taken', 'on', `>${PASSWORD}`, '~*', '&*', '+@all');
      await untilHealth(server, 'all is well again', (health) => health.body.status === 'ok');
    } finally {
      expect(await server.end()).toBe(0);
    }
    expect(server.output()).not.toContain(PASSWORD);
  });

  it('as narrow as docs/fleet.md says is enough to put, ask for and remove adapters', async () => {
    const page = readFileSync(path.join(ROOT, 'docs/fleet.md'), 'utf8');
    const rules = /^user loramux (.*?)^```/ms.exec(page)![1]!.trim().split(/\s+/);
    await setUser(
      'loramux',
      ...rules.map((rule) => (rule === '>PASSWORD' ? `>${PASSWORD}` : rule)),
    );
    const server = await startEarlyServer([
      ...['--adapter-root', path.join(FIXTURES, 'adapters', CONTENT_MODEL)],
      ...[...ARGS, '--redis', urlOf('loramux', PASSWORD), '--blob-store', 'redis'],
    ]);
    try {
      await untilHealth(server, 'the server is ready', ({ status }) => status === 200);
      const made = async (what: string, ask: () => Promise<Answer>, status: number) =>
        until(what, ask, (answer) => answer.status === status);
      for (const source of ['qv-r4', 'all-r8-rslora']) {
        const put = () => putFrom(server, 'narrow', { path: source });
        await until('it is put', put, ({ status }) => status < 300);
      }
      await made('it answers', () => ask(server, 'narrow'), 200);
      await made('it is listed', () => send(server, 'GET', '/v1/replicas'), 200);
      const rollback = () => send(server, 'POST', '/v1/adapters/narrow/rollback');
      await made('it is rolled back', rollback, 200);
      await made('it is removed', () => send(server, 'DELETE', '/v1/adapters/narrow'), 200);
      const { body } = await send(server, 'GET', '/health');
      expect(body.registry.state).toBe('ok');
    } finally {
      expect(await server.end()).toBe(0);
    }
    expect(server.output()).not.toContain('NOPERM');
  });

  it.each([
    ['127.0.0.1:6379', /redis:\/\/ or rediss:\/\//],
    ['redis://user:secret-word@127.0.0.1:1/zero', /HOST:PORT\/DB/],
  ])('at the address %s ends the start', async (address, message) => {
    const server = await startEarlyServer([...ARGS, '--redis', address]);
    expect(await server.exited).not.toBe(0);
    expect(server.output()).toMatch(message);
    expect(server.output()).not.toContain('secret-word');
    await server.end();
  });
});
