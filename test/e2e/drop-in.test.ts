/** The adapter routes of vLLM and SGLang against a real server, called as their clients call them. */
import { cp, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { answeredBy, complete, sendJson } from '../support/clients.ts';
import {
  answerOf,
  askBody,
  CONTENT_MODEL,
  CONTENT_MODEL_DIR,
  type Content,
  type Contents,
  makeContents,
} from '../support/contents.ts';
import { HubServer } from '../support/hub-server.ts';
import { readAdapterFiles, startTestServer, type TestServer } from '../support/server.ts';
import { streamSse } from '../support/streams.ts';

let root: string;
let hub: HubServer;
let contents: Contents;
let server: TestServer;
let c: readonly [Content, Content, Content];
/** The folders of the contents, as clients name them. */
let paths: readonly string[];
beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'loramux-drop-in-'));
  [contents, hub] = await Promise.all([makeContents(3), HubServer.start()]);
  c = contents.list as unknown as typeof c;
  await mkdir(path.join(root, 'team'));
  paths = await Promise.all(
    c.map(async ({ dir }, i) => {
      const folder = path.join(root, 'team', `adapter-${i}`);
      await cp(dir, folder, { recursive: true });
      return folder;
    }),
  );
  server = await startTestServer([
    ...['--model', CONTENT_MODEL_DIR, '--adapter-root', root, '--max-loras', '3'],
    ...['--hub-endpoint', hub.url, '--allow-private-sources', 'true'],
  ]);
});
afterAll(async () => {
  await server?.end();
  await hub?.close();
  await contents?.remove();
  await rm(root, { recursive: true, force: true });
});

const post = (route: string, body: object) => sendJson(server, 'POST', route, body);
const models = async (): Promise<string[]> =>
  (await server.call('GET', '/v1/models')).body.data.map(({ id }: { id: string }) => id);

describe("vLLM's routes", () => {
  const load = (body: object) => post('/v1/load_lora_adapter', body);
  const unload = (body: object) => post('/v1/unload_lora_adapter', body);

  it('load, answer, replace in place and unload', async () => {
    const loaded = await load({ lora_name: 'sql', lora_path: paths[0] });
    expect(loaded.status).toBe(200);
    expect(loaded.body).toBe("Success: LoRA adapter 'sql' added successfully.");
    expect(loaded.headers.get('content-type')).toContain('text/plain');
    expect(await answeredBy(server, 'sql', contents)).toBe(c[0]);
    expect(await models()).toEqual([CONTENT_MODEL, 'sql']);

    const again = await load({ lora_name: 'sql', lora_path: paths[1] });
    expect(again.status).toBe(400);
    expect(again.body.error.message).toBe(
      "The lora adapter 'sql' has already been loaded. If you want to load the adapter in place, " +
        "set 'load_inplace' to True.",
    );
    expect(await answeredBy(server, 'sql', contents)).toBe(c[0]);

    const inPlace = { lora_name: 'sql', lora_path: paths[1], load_inplace: true };
    expect((await load(inPlace)).status).toBe(200);
    expect(await answeredBy(server, 'sql', contents)).toBe(c[1]);
    // A name that is new may be loaded in place as well.
    const fresh = { lora_name: 'new', lora_path: paths[2], load_inplace: true };
    expect((await load(fresh)).status).toBe(200);
    expect(await answeredBy(server, 'new', contents)).toBe(c[2]);

    const unloaded = await unload({ lora_name: 'sql' });
    expect([unloaded.status, unloaded.body]).toEqual([
      200,
      "Success: LoRA adapter 'sql' removed successfully.",
    ]);
    expect((await complete(server, 'sql')).status).toBe(404);
    const gone = await unload({ lora_name: 'sql' });
    expect(gone).toMatchObject({
      status: 404,
      body: { error: { message: "The lora adapter 'sql' cannot be found." } },
    });
    expect((await unload({ lora_name: 'new', lora_int_id: 2 ** 53 - 1 })).status).toBe(200);
  });

  it('replace and unload only what is expected', async () => {
    await load({ lora_name: 'guarded', lora_path: paths[0] });
    const [first, second] = [c[0].generation, c[1].generation];
    const inPlace = { lora_name: 'guarded', lora_path: paths[1], load_inplace: true };
    const stale = await load({ ...inPlace, expected_generation: second });
    expect(stale).toMatchObject({ status: 412, body: { error: { current_generation: first } } });
    expect((await load({ ...inPlace, expected_generation: first })).status).toBe(200);
    const held = await unload({ lora_name: 'guarded', expected_generation: first });
    expect(held.status).toBe(412);
    expect(await answeredBy(server, 'guarded', contents)).toBe(c[1]);
    expect((await unload({ lora_name: 'guarded', expected_generation: second })).status).toBe(200);
  });

  it('take relative paths and repositories, and serve streams', async () => {
    hub.commit('owner/lora', await readAdapterFiles(c[2].dir));
    expect((await load({ lora_name: 'relative', lora_path: 'team/adapter-1' })).status).toBe(200);
    expect((await load({ lora_name: 'hub', lora_path: 'owner/lora' })).status).toBe(200);
    expect(await answeredBy(server, 'relative', contents)).toBe(c[1]);
    const { generations, answer } = await streamSse(server, askBody('hub'));
    expect([generations, answer]).toEqual([[c[2].generation], c[2].answer]);
    const chosen = await complete(server, CONTENT_MODEL, { adapter: 'relative' });
    expect(answerOf(chosen.body)).toBe(c[1].answer);
    for (const name of ['relative', 'hub']) await unload({ lora_name: name });
  });

  it.each([
    [400, { lora_name: '', lora_path: 'x' }],
    [400, { lora_name: 'x', lora_path: '' }],
    [400, { lora_name: 'x' }],
    [400, { lora_path: 'x' }],
    [400, { lora_name: CONTENT_MODEL, lora_path: 'team/adapter-0' }],
    [404, { lora_name: 'x', lora_path: 'team/unknown' }],
    [404, { lora_name: 'x', lora_path: 'team/adapter-0', base_model_name: 'another' }],
    [403, { lora_name: 'x', lora_path: '/etc' }],
    [403, { lora_name: 'x', lora_path: '../outside/of/it' }],
  ])('refuse with %s: %j', async (status, body) => {
    const refused = await load(body);
    expect(refused.status, JSON.stringify(refused.body)).toBe(status);
    expect(refused.body.error.message).not.toBe('');
    expect(await models()).toEqual([CONTENT_MODEL]);
  });
});

describe("SGLang's routes", () => {
  const load = (body: object) => post('/load_lora_adapter', body);
  const unload = (body: object) => post('/unload_lora_adapter', body);

  it('load, answer and unload, and always list what is loaded', async () => {
    const first = await load({ lora_name: 'one', lora_path: paths[0] });
    expect(first).toMatchObject({
      status: 200,
      body: { success: true, error_message: '', loaded_adapters: { one: expect.any(String) } },
    });
    const second = await load({ lora_name: 'two', lora_path: 'team/adapter-1', pinned: true });
    expect(Object.keys(second.body.loaded_adapters)).toEqual(['one', 'two']);
    expect(await answeredBy(server, 'one', contents)).toBe(c[0]);
    expect(await answeredBy(server, 'two', contents)).toBe(c[1]);
    expect((await server.call('GET', '/v1/adapters/two')).body.pinned).toBe(true);

    const again = await load({ lora_name: 'one', lora_path: paths[2] });
    expect([again.status, again.body.success]).toEqual([400, false]);
    expect(again.body.error_message).toMatch(/^generation_mismatch: /);
    expect(await answeredBy(server, 'one', contents)).toBe(c[0]);
    const unknown = await unload({ lora_name: 'three' });
    expect([unknown.status, unknown.body.success]).toEqual([400, false]);
    expect(unknown.body.error_message).toMatch(/^adapter_not_found: /);

    for (const name of ['one', 'two']) {
      expect((await unload({ lora_name: name })).body).toMatchObject({ success: true });
      expect((await complete(server, name)).status).toBe(404);
    }
    expect(await models()).toEqual([CONTENT_MODEL]);
  });

  it('load nothing that cannot be pinned', async () => {
    const pinned = ['a', 'b'].map((name, i) =>
      load({ lora_name: name, lora_path: paths[i], pinned: true }),
    );
    for (const { status } of await Promise.all(pinned)) expect(status).toBe(200);
    const third = await load({ lora_name: 'c', lora_path: paths[2], pinned: true });
    expect([third.status, third.body.success]).toEqual([400, false]);
    expect(third.body.error_message).toMatch(/^pin_limit_exceeded: /);
    expect(Object.keys(third.body.loaded_adapters)).toEqual(['a', 'b']);
    expect((await complete(server, 'c')).status).toBe(404);
    for (const name of ['a', 'b']) await unload({ lora_name: name });
  });
});
