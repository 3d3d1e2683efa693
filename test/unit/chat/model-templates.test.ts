import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createChat } from '../../../src/chat/chat-service.ts';
import { readModelChat } from '../../../src/chat/model-templates.ts';

/** Adapters without templates of their own. */
const adapters = { chatTemplates: async () => new Map<string, string>() };

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'loramux-chat-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const write = (name: string, value: unknown) =>
  writeFile(path.join(folder, name), typeof value === 'string' ? value : JSON.stringify(value));
const input = {
  messages: [{ role: 'user', content: 'Hi' }],
  addGenerationPrompt: false,
  continueFinalMessage: false,
  kwargs: {},
};

describe('the chat templates of a model folder', () => {
  it('are none in an empty folder', async () => {
    expect((await readModelChat(folder)).templates.size).toBe(0);
  });

  it('come from chat_template.jinja before tokenizer_config.json', async () => {
    await write('tokenizer_config.json', { chat_template: 'config' });
    expect([...(await readModelChat(folder)).templates]).toEqual([['default', 'config']]);
    await write('chat_template.jinja', 'file');
    await mkdir(path.join(folder, 'additional_chat_templates'));
    await write('additional_chat_templates/tool_use.jinja', 'tools');
    const { templates } = await readModelChat(folder);
    expect(Object.fromEntries(templates)).toEqual({ default: 'file', tool_use: 'tools' });
  });

  it('may be named, and the one for tools is chosen for tools', async () => {
    await write('tokenizer_config.json', {
      chat_template: [
        { name: 'default', template: 'plain' },
        { name: 'tool_use', template: 'tools' },
      ],
    });
    const chat = createChat({ model: await readModelChat(folder), adapters, trustRequests: false });
    const template = await chat.templateFor(undefined);
    expect(await template.render(input)).toBe('plain');
    expect(await template.render({ ...input, tools: [{}] })).toBe('tools');
    expect(await template.render({ ...input, tools: [] })).toBe('plain');
  });

  it('know special tokens as texts and as objects', async () => {
    await write('tokenizer_config.json', { bos_token: '<s>', unk_token: null });
    await write('special_tokens_map.json', {
      bos_token: '<other>',
      eos_token: { content: '</s>', lstrip: false },
      additional_special_tokens: ['<tool>'],
    });
    const { specialTokens } = await readModelChat(folder);
    expect(specialTokens).toEqual({ bos_token: '<s>', eos_token: '</s>' });
  });

  it('are refused when they are something else', async () => {
    for (const chat_template of [7, [{ name: 'default' }], [null]]) {
      await write('tokenizer_config.json', { chat_template });
      await expect(readModelChat(folder)).rejects.toMatchObject({ code: 'tokenizer_invalid' });
    }
  });
});

describe('the chat service', () => {
  const model = {
    templates: new Map([['default', '{{ messages[0].content }}']]),
    specialTokens: {},
  };

  it('says what to do without a template', async () => {
    const none = { templates: new Map<string, string>(), specialTokens: {} };
    const chat = createChat({ model: none, adapters, trustRequests: false });
    await expect(chat.templateFor(undefined)).rejects.toMatchObject({
      code: 'chat_template_missing',
      message: expect.stringContaining('--chat-template'),
    });
    const broken = { templates: new Map([['default', '{% if %}']]), specialTokens: {} };
    await expect(
      createChat({ model: broken, adapters, trustRequests: false }).templateFor(undefined),
    ).rejects.toMatchObject({ code: 'chat_template_missing' });
    const unnamed = { templates: new Map([['rag', 'x']]), specialTokens: {} };
    const template = await createChat({
      model: unnamed,
      adapters,
      trustRequests: false,
    }).templateFor(undefined);
    await expect(template.render(input)).rejects.toThrow(/none named "default"/);
  });

  it("takes a request's own template only when it may", async () => {
    const strict = createChat({ model, adapters, trustRequests: false });
    await expect(strict.templateFor(undefined, 'mine')).rejects.toMatchObject({
      code: 'unsupported_field',
      param: 'chat_template',
    });
    const open = createChat({ model, adapters, trustRequests: true });
    expect(await (await open.templateFor(undefined, 'mine')).render(input)).toBe('mine');
    expect(await (await open.templateFor(undefined)).render(input)).toBe('Hi');
    await open.close();
  });
});
