/** Adapter files that change on a server's own disk: never an answer, and healed from what is whole. */
import { readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { complete } from '../support/clients.ts';
import { answerOf, CONTENT_MODEL_DIR, type Contents, makeContents } from '../support/contents.ts';
import { type Fleet, startFleet, untilAnswers } from '../support/fleet.ts';
import { startTestServer, type TestServer } from '../support/server.ts';
import { until } from '../support/until.ts';

/** Whatever is in memory would hide what is on disk. */
const NO_HOST_CACHE = ['--host-cache-mb', '0'];

const DAMAGES: Readonly<Record<string, (file: string) => Promise<void>>> = {
  'one bit': async (file) => {
    const bytes = await readFile(file);
    bytes[bytes.length - 100]! ^= 0x10;
    await writeFile(file, bytes);
  },
  'its header': async (file) => {
    const bytes = await readFile(file);
    bytes.write('damaged', 20);
    await writeFile(file, bytes);
  },
  'its end': (file) => truncate(file, 5000),
  'all of it': (file) => writeFile(file, ''),
  'the file': (file) => rm(file),
};

let contents: Contents;
beforeAll(async () => {
  contents = await makeContents(2);
});
afterAll(() => contents?.remove());

async function fileOf(folder: string, generation: string): Promise<string> {
  const names = await readdir(folder, { recursive: true });
  const found = names.filter((name) => name.includes(generation));
  expect(found).toHaveLength(1);
  return path.join(folder, found[0]!);
}

async function evict(server: TestServer, name: string): Promise<void> {
  const { body } = await server.call('POST', `/v1/adapters/${name}/evict`);
  expect(body.residency?.level, JSON.stringify(body)).toBe('disk');
}

describe('a server with a registry of its own', () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await startTestServer(['--model', CONTENT_MODEL_DIR, ...NO_HOST_CACHE]);
  });
  afterAll(() => server?.end());

  it.each(Object.entries(DAMAGES))(
    'that loses %s refuses until it is put again',
    async (_, damage) => {
      const [content, other] = contents.list;
      await server.upload('hurt', content!.dir);
      await server.upload('whole', other!.dir);
      await untilAnswers(server, 'hurt', content!);
      await evict(server, 'hurt');
      await damage(
        await fileOf(path.join(server.dataDir, 'adapters', 'blobs'), content!.generation),
      );
      for (let tries = 0; tries < 2; tries++) {
        const { status, body } = await complete(server, 'hurt');
        expect([500, 503], JSON.stringify(body)).toContain(status);
        expect(['store_corrupt', 'adapter_load_failed']).toContain(body.error.code);
      }
      await untilAnswers(server, 'whole', other!);
      const put = await server.upload('hurt', content!.dir);
      expect([put.status, put.body.generation]).toEqual([200, content!.generation]);
      // A load that failed is not tried again at once.
      await until(
        'it answers again',
        () => complete(server, 'hurt'),
        ({ status }) => status === 200,
      );
      await untilAnswers(server, 'hurt', content!);
    },
  );

  it('says at its start which names are damaged, and serves the rest', async () => {
    const [content, other] = contents.list;
    await server.upload('hurt', content!.dir);
    await server.upload('whole', other!.dir);
    const { dataDir } = server;
    const file = await fileOf(path.join(dataDir, 'adapters', 'blobs'), content!.generation);
    await server.stop();
    await truncate(file, 100);
    const again = await startTestServer(['--model', CONTENT_MODEL_DIR], { dataDir });
    try {
      await untilAnswers(again, 'whole', other!);
      const { status, body } = await complete(again, 'hurt');
      expect([status, body.error.code]).toEqual([500, 'store_corrupt']);
      const { damaged } = (await again.call('GET', '/v1/adapters')).body;
      expect(damaged).toMatchObject([
        { name: 'hurt', reason: expect.stringContaining('100 bytes') },
      ]);
      expect((await again.upload('hurt', content!.dir)).status).toBe(200);
      await untilAnswers(again, 'hurt', content!);
      expect((await again.call('GET', '/v1/adapters')).body.damaged).toEqual([]);
    } finally {
      await again.end();
    }
  });
});

describe('a server of a fleet', () => {
  let fleet: Fleet;
  beforeAll(async () => {
    fleet = await startFleet({ replicas: 1, args: NO_HOST_CACHE });
  });
  afterAll(() => fleet?.end());

  it.each(Object.entries(DAMAGES))('that loses %s fetches it again', async (_, damage) => {
    const [server] = fleet.servers as [TestServer];
    const [content] = contents.list;
    await server.upload('hurt', content!.dir);
    await untilAnswers(server, 'hurt', content!);
    await evict(server, 'hurt');
    await damage(await fileOf(path.join(server.dataDir, 'cache', 'blobs'), content!.generation));
    const { status, body } = await complete(server, 'hurt');
    expect([status, body.adapter_generation], JSON.stringify(body)).toEqual([
      200,
      content!.generation,
    ]);
    expect(answerOf(body)).toBe(content!.answer);
  });
});
