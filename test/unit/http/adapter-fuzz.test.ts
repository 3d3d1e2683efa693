/** Malformed requests for the adapter routes: always an answer, never a defect, no file left over. */
import Schema from 'typebox/schema';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SglangUpdateSchema } from '../../../src/http/schemas/drop-in.ts';
import { ErrorSchema } from '../../../src/http/schemas/error.ts';
import { sha256 } from '../../support/fake-adapters.ts';
import { Random } from '../../support/random.ts';
import { type TestServer, testServer } from './support.ts';

const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 20261123);
const REQUESTS = 4000;
const FORMS = 600;

let random: Random;
let server: TestServer;
beforeAll(async () => {
  server = await testServer();
  server.adapters.seed('name', [sha256('a'), sha256('b')]);
});
afterAll(() => server.close());

const pick = <T>(values: readonly T[]): T => random.pick(values);
const often = (percent: number) => random.int(0, 99) < percent;

const ROUTES = [
  ['PUT', ''],
  ['GET', ''],
  ['DELETE', ''],
  ['GET', '/generations'],
  ['POST', '/rollback'],
  ['PUT', '/split'],
  ['DELETE', '/split'],
  ['POST', '/load'],
  ['POST', '/evict'],
  ['POST', '/pin'],
  ['POST', '/unpin'],
] as const;
const DROP_IN = ['/v1/load_lora_adapter', '/v1/unload_lora_adapter'].flatMap((url) => [
  url,
  url.slice('/v1'.length),
]);
const FIELDS = [
  'path',
  'repo',
  'revision',
  'subfolder',
  'url',
  'generation',
  'weight',
  'pinned',
  'lora_name',
  'lora_path',
  'load_inplace',
  'expected_generation',
  'lora_int_id',
  '__proto__',
  'x',
];
const NAMES = ['name', 'sub', 'new', 'nobody', 'a%20b', 'a%2Fb', '%00', '..', 'x'.repeat(300)];

const tag = () => pick([sha256('a'), sha256('b'), 'f'.repeat(64), 'abc', '']);

const value = (): unknown =>
  pick<() => unknown>([
    tag,
    () => pick([null, true, false, '', 'a/b', 'folder', '/etc', '../x', '\u0000', '\ud800']),
    () => pick([0, 1, 0.5, -0, 1e308, 2 ** 63, 1e-320]),
    () => [value()],
    () => ({ [pick(FIELDS)]: tag() }),
    () => 'x'.repeat(random.int(0, 9000)),
  ])();

function payload(): string | undefined {
  if (often(15)) return undefined;
  const fields = Object.fromEntries(
    Array.from({ length: random.int(0, 4) }, () => [pick(FIELDS), value()]),
  );
  const text = often(5) ? pick(['null', '[]', '7', '"x"', '']) : JSON.stringify(fields);
  if (!often(10)) return text;
  const at = random.int(0, text.length);
  return text.slice(0, at) + pick(['"', '{', '\u0000', ',']) + text.slice(at + 1);
}

function headers(): Record<string, string> {
  const all: Record<string, string> = { 'content-type': 'application/json' };
  if (often(10)) {
    all['content-type'] = pick([
      'application/zip',
      'application/gzip; x=y',
      'multipart/form-data; boundary=x',
      'multipart/form-data',
      'text/plain',
      'application/',
      ';',
    ]);
  }
  const condition = () => pick([`"${tag()}"`, '*', `W/"${tag()}"`, '"a", "b"', '"', tag()]);
  if (often(15)) all['if-match'] = condition();
  if (often(10)) all['if-none-match'] = condition();
  return all;
}

function target(): { method: 'GET' | 'PUT' | 'POST' | 'DELETE'; url: string } {
  const query = often(15)
    ? `?${pick(['canary_weight', 'x', ''])}=${pick(['0.5', '', '1', 'NaN', '%', '0.1&canary_weight=1'])}`
    : '';
  if (often(25)) return { method: 'POST', url: pick(DROP_IN) + query };
  const [method, action] = pick(ROUTES);
  return { method, url: `/v1/adapters/${pick(NAMES)}${action}${query}` };
}

/** A form that may have the wrong parts, too many of them, or end anywhere. */
function form(): string {
  let text = '';
  for (let i = random.int(0, 5); i > 0; i--) {
    const name = pick(['adapter_config.json', 'adapter_model.safetensors', 'a.zip', 'b.tgz', 'x']);
    const file = pick([
      'adapter_config.json',
      'adapter_model.safetensors',
      '../adapter_config.json',
      'a.tar.gz',
      'weights.bin',
      '',
      'x'.repeat(300),
    ]);
    const disposition = pick([
      `form-data; name="${name}"; filename="${file}"`,
      `form-data; name="${name}"; filename="${file}"`,
      `form-data; name="${name}"`,
      `form-data; filename="${file}"`,
      'attachment',
    ]);
    const content = 'x'.repeat(pick([0, 1, 100, 1024, 1025, 5000]));
    text += `--b\r\ncontent-disposition: ${disposition}\r\n\r\n${content}\r\n`;
  }
  text += '--b--\r\n';
  return often(30) ? text.slice(0, random.int(0, text.length)) : text;
}

describe(`fuzz of adapter routes (LORAMUX_FUZZ_SEED=${SEED})`, () => {
  it(`answers ${REQUESTS} requests without a 5xx`, async () => {
    random = new Random(SEED);
    const seen = new Set<number>();
    for (let i = 0; i < REQUESTS; i++) {
      const { method, url } = target();
      const body = payload();
      const response = await server.app.inject({
        method,
        url,
        headers: headers(),
        ...(body !== undefined && { payload: body }),
      });
      const what = `${method} ${url} ${body} -> ${response.body}`;
      seen.add(response.statusCode);
      expect(response.statusCode, what).toBeLessThan(500);
      if (response.statusCode < 300) continue;
      const isError = Schema.Check(ErrorSchema, response.json());
      expect(isError || Schema.Check(SglangUpdateSchema, response.json()), what).toBe(true);
    }
    expect([...seen].sort()).toEqual(expect.arrayContaining([200, 201, 400, 404, 412, 415]));
    expect(await server.uploads()).toEqual([]);
    expect(server.adapters.holds).toBe(0);
  });

  it(`takes ${FORMS} forms and leaves no file`, async () => {
    random = new Random(SEED + 1);
    const seen = new Set<number>();
    for (let i = 0; i < FORMS; i++) {
      const payload = form();
      const response = await server.app.inject({
        method: 'PUT',
        url: '/v1/adapters/form',
        headers: { 'content-type': 'multipart/form-data; boundary=b' },
        payload,
      });
      seen.add(response.statusCode);
      expect(response.statusCode, `${payload} -> ${response.body}`).toBeLessThan(500);
      if (response.statusCode >= 300) expect(Schema.Check(ErrorSchema, response.json())).toBe(true);
    }
    expect([...seen].sort()).toEqual([200, 201, 400, 413, 422]);
    expect(await server.uploads()).toEqual([]);
  });
});
