/** Adapters with chat templates of their own on a real server, through what happens to a name. */
import { openAsBlob } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { LoramuxClient } from '../../src/client/index.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

const EXAMPLE = path.resolve(import.meta.dirname, '../../examples/modular-arithmetic');
const QUESTION = '17 @ 5 =';
/** Each begins with another operand, so that whose template was used shows in the ids. */
const TEMPLATES = { file: '1', config: '2', replaced: '3' };
type Own = keyof typeof TEMPLATES;

let dataDir: string;
let server: TestServer;
let client: LoramuxClient;

async function start(): Promise<void> {
  const model = ['--model', path.join(EXAMPLE, 'model'), '--served-model-name', 'demo'];
  server = await startTestServer(model, { dataDir });
  client = new LoramuxClient({ baseUrl: server.url });
}
beforeAll(async () => {
  dataDir = await mkdtemp(path.join(tmpdir(), 'loramux-templates-'));
  await start();
});
afterAll(async () => {
  expect(await server?.end()).toBe(0);
  await rm(dataDir, { recursive: true, force: true });
});

const jinja = (own: Own) =>
  `{% for m in messages %}{{ '${TEMPLATES[own]} @ ' + m.content }}{% endfor %}`;

async function upload(name: string, own?: Own) {
  const file = (name: string) => openAsBlob(path.join(EXAMPLE, 'adapters/subtract', name));
  const files = {
    config: await file('adapter_config.json'),
    model: await file('adapter_model.safetensors'),
  };
  if (own === undefined) return client.adapters.upload(name, files);
  if (own !== 'config') {
    return client.adapters.upload(name, { ...files, chatTemplate: new Blob([jinja(own)]) });
  }
  const config = JSON.stringify({ chat_template: jinja(own), eos_token: 'not read' });
  return client.adapters.upload(name, { ...files, tokenizerConfig: new Blob([config]) });
}

const messages = [{ role: 'user' as const, content: QUESTION }];
const idsOf = async (prompt: string) =>
  (await client.tokenize({ prompt, add_special_tokens: false })).tokens;

/** Both routes render with the adapter's template, or with the base's. */
async function expectTemplate(model: string, own: Own | undefined): Promise<void> {
  const { tokens } = await client.tokenize({ model, messages });
  const answer = await client.chat.completions.create({
    model,
    messages,
    max_tokens: 1,
    return_token_ids: true,
  });
  expect(answer.prompt_token_ids, model).toEqual(tokens);
  const base = await client.tokenize({ model: 'demo', messages });
  if (own === undefined) return expect(tokens, model).toEqual(base.tokens);
  expect(tokens, model).not.toEqual(base.tokens);
  expect(tokens, model).toEqual(await idsOf(`${TEMPLATES[own]} @ ${QUESTION}`));
}

const ownOf = async (name: string) => {
  const { data } = await client.adapters.generations(name);
  const shown = await client.adapters.get(name);
  expect(shown.has_chat_template).toBe(data.find(({ current }) => current)?.has_chat_template);
  return data.map(({ has_chat_template: own }) => own);
};

it("answer with them, and the base and other adapters with the base's", async () => {
  expect((await upload('file', 'file')).has_chat_template).toBe(true);
  expect((await upload('config', 'config')).has_chat_template).toBe(true);
  expect((await upload('plain')).has_chat_template).toBe(false);
  await expectTemplate('file', 'file');
  await expectTemplate('config', 'config');
  await expectTemplate('plain', undefined);
  await expectTemplate('demo', undefined);
});

it('keep them when the server starts again', async () => {
  await server.stop();
  await start();
  await expectTemplate('file', 'file');
  await expectTemplate('config', 'config');
  await expectTemplate('plain', undefined);
  expect(await ownOf('file')).toEqual([true]);
});

it('change them with their content: replaced, without one, rolled back', async () => {
  await upload('file', 'replaced');
  await expectTemplate('file', 'replaced');
  await upload('file');
  expect(await ownOf('file')).toEqual([false, true, true]);
  await expectTemplate('file', undefined);
  await client.adapters.rollback('file');
  expect(await ownOf('file')).toEqual([false, true, true]);
  await expectTemplate('file', 'replaced');
  const { data } = await client.adapters.generations('file');
  await client.adapters.rollback('file', { generation: data.at(-1)!.generation });
  await expectTemplate('file', 'file');
});
