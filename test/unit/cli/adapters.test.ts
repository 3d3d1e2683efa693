/** `loramux adapters` and `loramux replicas`: what is sent, what is printed, how it ends. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  adapter,
  digest,
  type FakeServer,
  fakeServer,
  loramux,
  type Reply,
  refusal,
} from './support.ts';

const A = digest('aaaaaaaa');
const B = digest('bbbbbbbb1');
const B2 = digest('bbbbbbbb2');

let server: FakeServer;
beforeAll(async () => {
  server = await fakeServer();
});
afterAll(() => server.close());
beforeEach(() => {
  vi.stubEnv('LORAMUX_URL', server.url);
  server.received.length = 0;
  server.replies.length = 0;
});
afterEach(() => {
  vi.unstubAllEnvs();
});

const reply = (...replies: Reply[]) => server.replies.push(...replies);
const sent = () =>
  server.received.map(({ method, url, body }) => {
    const text = body.toString();
    return text === '' ? `${method} ${url}` : `${method} ${url} ${text}`;
  });

const kept = (generation: string, fields: Record<string, unknown> = {}) => ({
  generation,
  created: 1_700_000_000,
  source: 'upload',
  rank: 8,
  file_bytes: 2048,
  resident_bytes: 1536,
  current: false,
  canary: false,
  ...fields,
});
const generations = {
  body: {
    name: 'a',
    current: A,
    split: { generation: B, weight: 0.25 },
    pinned: false,
    data: [
      kept(A, { current: true, residency: { level: 'host' } }),
      kept(B, { canary: true, source: 'hf:o/n@1' }),
      kept(B2),
    ],
  },
};

describe('reading', () => {
  it('lists adapters with level, pins and splits, and damaged names', async () => {
    const split = { generation: B, weight: 0.125 };
    const residency = { level: 'device', pinned: true, references: 0, evicting: false };
    reply({
      body: {
        object: 'list',
        data: [adapter('a', { pinned: true, residency, split }), adapter('b')],
        damaged: [{ name: 'c', reason: 'digest mismatch' }],
      },
    });
    const { code, stdout, stderr } = await loramux('adapters', 'list');
    expect([code, stderr, sent()]).toEqual([0, '', ['GET /v1/adapters']]);
    expect(stdout.split('\n').map((line) => line.split(/ {2,}/))).toEqual([
      ['name', 'generation', 'rank', 'memory', 'level', 'pinned', 'split'],
      ['a', 'aaaaaaaa0000', '8', '1.5 KiB', 'device', 'yes', 'bbbbbbbb1000 12.5 %'],
      ['b', 'aaaaaaaa0000', '8', '1.5 KiB'],
      ['c: DAMAGED, digest mismatch'],
      [''],
    ]);
  });

  it('shows every field of one adapter, its name encoded in the path', async () => {
    reply({ body: adapter('team/one', { split: { generation: B, weight: 0.5 } }) });
    const { stdout } = await loramux('adapters', 'show', 'team/one');
    expect(sent()).toEqual(['GET /v1/adapters/team%2Fone']);
    expect(stdout).toMatch(/^target_modules +q_proj, v_proj$/m);
    expect(stdout).toMatch(/^split +\{"generation":"bbbbbbbb1/m);
  });

  it('lists generations', async () => {
    reply(generations);
    const { stdout } = await loramux('adapters', 'generations', 'a');
    expect(stdout).toMatch(
      /^a{8}0+ {2}2023-11-14 22:13:20Z {2}8 {5}1\.5 KiB {2}host {3}current {2}upload$/m,
    );
    expect(stdout).toMatch(/canary {3}hf:o\/n@1$/m);
  });

  it('lists replicas, and where a name is warm', async () => {
    const replica = (id: string, self: boolean, level: string) => ({
      id,
      url: `http://${id}:8000`,
      version: '1.0.0',
      model: 'm',
      started: 1,
      updated: 2,
      slots: 4,
      revision: 7,
      running: 3,
      waiting: 1,
      adapters: [{ generation: A, names: ['a'], level, pinned: level === 'device' }],
      self,
    });
    const body = { data: [replica('one', true, 'device'), replica('two', false, 'host')] };
    reply({ body }, { body }, { body });
    const all = await loramux('replicas');
    expect(all.stdout).toMatch(/^one {2}http:\/\/one:8000 .* 1\/4 .*02Z \(asked\)$/m);
    expect(all.stdout).toMatch(/^two .* 0\/4 {5}1 {5}7 {9}1970-01-01 00:00:02Z$/m);
    const warm = await loramux('replicas', '--adapter', 'a');
    expect(warm.stdout).toMatch(/^one .*aaaaaaaa0000 {2}device {2}pinned$/m);
    expect(warm.stdout).toMatch(/^two .*host$/m);
    const cold = await loramux('replicas', '--adapter', 'z');
    expect(cold.stdout).toBe('z: on no replica\n');
    expect((await loramux('replicas', '--adapter', 'a', '--json')).code).toBe(2);
  });

  it("prints the server's answer unchanged with --json", async () => {
    const text = '{"object": "list",  "data": [], "damaged": [], "more": 1.0}';
    reply({ body: text });
    expect((await loramux('adapters', 'list', '--json')).stdout).toBe(`${text}\n`);
  });
});

describe('changing', () => {
  it.each([
    ['load', [], ['POST /v1/adapters/a/load {}'], 'a: loaded'],
    ['load', ['--pin'], ['POST /v1/adapters/a/load {"pinned":true}'], 'a: loaded, pinned'],
    ['pin', [], ['POST /v1/adapters/a/pin'], 'a: pinned'],
    ['unpin', [], ['POST /v1/adapters/a/unpin'], 'a: not pinned'],
    ['evict', [], ['POST /v1/adapters/a/evict {}'], 'a: evicted'],
    ['evict', ['--generation', B], [`POST /v1/adapters/a/evict {"generation":"${B}"}`], 'a: evi'],
    ['load', ['--generation', B], [`POST /v1/adapters/a/load {"generation":"${B}"}`], 'a: loaded'],
    ['remove', [], ['DELETE /v1/adapters/a'], 'a: removed'],
    ['rollback', [], ['POST /v1/adapters/a/rollback {}'], `a: generation ${A}, rank 8`],
    ['rollback', [B], [`POST /v1/adapters/a/rollback {"generation":"${B}"}`], `a: generation ${A}`],
    ['split', ['--end'], ['DELETE /v1/adapters/a/split'], `a: generation ${A}`],
    [
      'split',
      [B, '0.25'],
      [`PUT /v1/adapters/a/split {"generation":"${B}","weight":0.25}`],
      `a: generation ${A}`,
    ],
  ])('%s %j', async (command, args, requests, line) => {
    reply({ body: adapter('a', { pinned: args.includes('--pin') }) });
    const { code, stdout, stderr } = await loramux('adapters', command, 'a', ...args);
    expect([code, stderr, sent()]).toEqual([0, '', requests]);
    expect(stdout.startsWith(line), stdout).toBe(true);
    expect(server.received[0]!.headers['if-match']).toBeUndefined();
  });

  it('says what a split means, and that an eviction waits', async () => {
    reply({ body: adapter('a', { split: { generation: B, weight: 0.25 }, pinned: true }) });
    const split = await loramux('adapters', 'split', 'a', B, '.25');
    expect(split.stdout).toBe(
      `a: generation ${A}, rank 8, 25 % of the requests get ${B}, pinned\n`,
    );
    reply({ body: adapter('a', { residency: { level: 'device', evicting: true } }) });
    const evicted = await loramux('adapters', 'evict', 'a');
    expect(evicted.stdout).toBe('a: goes with the last request that uses it\n');
  });

  it('resolves the first digits of a generation', async () => {
    reply(generations, { body: adapter('a') });
    await loramux('adapters', 'rollback', 'a', 'BBBBBBBB2');
    expect(sent()).toEqual([
      'GET /v1/adapters/a/generations',
      `POST /v1/adapters/a/rollback {"generation":"${B2}"}`,
    ]);
    reply(generations, { body: adapter('a') });
    const { headers } = await loramux('adapters', 'remove', 'a', '--if-match', 'aaaaaaaa').then(
      () => server.received.at(-1)!,
    );
    expect(headers['if-match']).toBe(`"${A}"`);
    reply({ body: adapter('a') });
    await loramux('adapters', 'remove', 'a', '--if-match', '*');
    expect(server.received.at(-1)!.headers['if-match']).toBe('*');
  });

  it.each([
    [['rollback', 'a', 'bbbbbbbb'], 1, /generation_not_found: 2 generations of a begin/],
    [['split', 'a', 'cccccccc', '0.5'], 1, /generation_not_found: a keeps no generation/],
    [['rollback', 'a', 'bbbbbbb'], 2, /config_invalid: bbbbbbb is too short/],
    [['rollback', 'a', 'previous'], 2, /config_invalid: "previous" is not a generation/],
    [['split', 'a', 'bbbbbbbb1', '1'], 2, /config_invalid: .*above 0 and below 1/],
    [['split', 'a', 'bbbbbbbb1', '1e-1'], 2, /config_invalid: .*above 0 and below 1/],
    [['split', 'a', 'bbbbbbbb1'], 2, /config_invalid: give either a generation and its weight/],
    [['split', 'a'], 2, /config_invalid: give either/],
    [['split', 'a', 'bbbbbbbb1', '0.5', '--end'], 2, /config_invalid: give either/],
    [['remove'], 2, /config_invalid: missing required argument 'name'/],
    [['push', 'a', '.', '--if-match', A, '--create-only'], 2, /cannot be used with/],
  ])('%j ends with %i', async (args, code, message) => {
    reply(generations);
    const run = await loramux('adapters', ...args);
    expect(run.stderr).toMatch(message);
    expect([run.code, run.stdout]).toEqual([code, '']);
    expect(server.received.every(({ method }) => method === 'GET')).toBe(true);
  });

  it('passes a refusal on, with the current generation of a condition that does not hold', async () => {
    const refused = (more: Record<string, unknown>, headers: Record<string, string> = {}) => ({
      status: 412,
      headers,
      body: refusal('generation_mismatch', 'another generation is current', more),
    });
    const args = ['adapters', 'rollback', 'a', '--if-match', B];
    reply(refused({ current_generation: A }));
    const run = await loramux(...args);
    expect(run).toEqual({
      code: 1,
      stdout: '',
      stderr:
        'loramux: generation_mismatch: another generation is current ' +
        `(the current generation is ${A})\n`,
    });
    reply(refused({}, { etag: `"${A}"` }));
    expect((await loramux(...args)).stderr).toContain(`(the current generation is ${A})`);
    reply(refused({ current_generation: null }));
    expect((await loramux(...args)).stderr).toContain('(the name does not exist)');
    reply(refused({ current_generation: A }));
    const json = await loramux(...args, '--json');
    expect(JSON.parse(json.stderr)).toMatchObject({
      error: { code: 'generation_mismatch', current_generation: A },
    });
  });
});

describe('servers', () => {
  it('may live below a path', async () => {
    reply({ body: adapter('a') });
    const { code } = await loramux('adapters', 'show', 'a', '--url', `${server.url}/lora/`);
    expect([code, sent()]).toEqual([0, ['GET /lora/v1/adapters/a']]);
  });

  it.each([
    [{ status: 200, body: '<html>' }, /http_200: no JSON from this server: <html>/],
    [{ status: 502, body: { detail: 'x' } }, /http_502: HTTP 502/],
    [{ status: 503, body: refusal('registry_lost', 'refused') }, /registry_lost: refused/],
    [
      { status: 301, headers: { location: 'https://b/' }, body: '' },
      /http_301: the server redirects to https:\/\/b\/; name that server with --url/,
    ],
  ])('%j is a failure', async (answer, message) => {
    reply(answer);
    const { code, stderr, stdout } = await loramux('adapters', 'list');
    expect([code, stdout]).toEqual([1, '']);
    expect(stderr).toMatch(message);
  });

  it.each(['ftp://x', 'http://h/?a=1', 'http://h/#a', '', 'localhost:8000'])(
    '%j is no server',
    async (url) => {
      const { code, stderr } = await loramux('adapters', 'list', '--url', url);
      expect([code, stderr]).toEqual([2, expect.stringContaining('LORAMUX_URL')]);
    },
  );
});
