/** An adapter's own chat templates: from its files to the canonical file and back. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readStoredTemplates } from '../../../src/adapters/chat-templates.ts';
import { convert } from '../../../src/adapters/convert/canonicalize.ts';
import { readChatTemplates } from '../../../src/adapters/formats/chat-templates.ts';
import { chatFilesOf } from '../../../src/adapters/sources/source-dir.ts';
import { createChat } from '../../../src/chat/chat-service.ts';
import {
  loraConfig,
  loraTensors,
  safetensors,
  TempDir,
  TINY_MODULES,
} from '../../support/adapter-files.ts';
import { record } from '../generation/support.ts';

const temp = new TempDir();
afterAll(() => temp.remove());

const LIMITS = { maxRank: 256, maxAdapterBytes: 1 << 20, maxResidentBytes: 1 << 20 };

function converted(files: Record<string, string>) {
  const dir = temp.adapter(loraConfig(), safetensors(loraTensors()));
  for (const [name, text] of Object.entries(files)) writeFileSync(path.join(dir, name), text);
  const outPath = temp.fresh('.safetensors');
  const job = {
    configPath: path.join(dir, 'adapter_config.json'),
    weightsPath: path.join(dir, 'adapter_model.safetensors'),
    ...chatFilesOf(dir, Object.keys(files)),
    root: undefined,
    outPath,
    limits: LIMITS,
  };
  return { ...convert(job, TINY_MODULES), base: '', path: outPath };
}

/** Reads the templates back as a server does. */
async function stored(from: ReturnType<typeof converted>, rejected: string[] = []) {
  const files = {
    ensureLocal: async () => ({ path: from.path, tier: 'disk' as const, release: () => {} }),
    reject: async (digest: string) => void rejected.push(digest),
  };
  return Object.fromEntries(await readStoredTemplates(files, from));
}

describe('chat templates of an adapter', () => {
  it('are in its canonical file, which is as ever without them', async () => {
    const plain = converted({});
    expect(converted({ 'tokenizer_config.json': '{"eos_token":"x"}' }).digest).toBe(plain.digest);
    expect(await stored(plain)).toEqual({});

    const own = converted({ 'chat_template.jinja': 'own' });
    expect(own.digest).not.toBe(plain.digest);
    expect(own.digest).not.toBe(converted({ 'chat_template.jinja': 'other' }).digest);
    expect(await stored(own)).toEqual({ default: 'own' });
    expect(own.hasChatTemplate).toBe(true);
    expect(plain).not.toHaveProperty('hasChatTemplate');
    const both = { 'chat_template.jinja': 'own', 'tokenizer_config.json': '{"chat_template":"c"}' };
    expect(converted(both).digest).toBe(own.digest);
  });

  it('may have names', async () => {
    const chat_template = [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: 'plain' },
    ];
    const json = JSON.stringify({ chat_template });
    expect(await stored(converted({ 'tokenizer_config.json': json }))).toEqual({
      default: 'plain',
      tool_use: 'tools',
    });
  });

  it.each([
    ['chat_template.jinja', '{% if %}'],
    ['chat_template.jinja', '{{ x | shout }}'],
    ['tokenizer_config.json', '{"chat_template": 7}'],
    ['tokenizer_config.json', 'not JSON'],
  ])('are refused when they cannot be used: %s %s', (file, text) => {
    expect(() => converted({ [file]: text })).toThrow(
      expect.objectContaining({ code: 'chat_template_invalid' }),
    );
  });

  it('are refused when they are too long or not UTF-8', () => {
    const refused = expect.objectContaining({ code: 'chat_template_invalid' });
    const bytes = (length: number) => new Uint8Array(length).fill(0x78);
    const read = (template: Uint8Array) =>
      readChatTemplates({ template, tokenizerConfig: undefined });
    expect(() => read(bytes(131_073))).toThrow(refused);
    expect(() => read(new Uint8Array([0xff]))).toThrow(refused);
    expect(read(bytes(131_072)).size).toBe(1);
  });

  it('are not read from a damaged file', async () => {
    const own = converted({ 'chat_template.jinja': 'own' });
    writeFileSync(own.path, 'damaged');
    const rejected: string[] = [];
    await expect(stored(own, rejected)).rejects.toMatchObject({ code: 'store_corrupt' });
    expect(rejected).toEqual([own.digest]);
  });

  it("win over the base's", async () => {
    let reads = 0;
    const templates = new Map([[record('own').generation.digest, new Map([['default', 'own']])]]);
    const adapters = {
      chatTemplates: async ({ digest }: { digest: string }) => {
        reads++;
        return templates.get(digest) ?? new Map<string, string>();
      },
    };
    const model = { templates: new Map([['default', 'base']]), specialTokens: {} };
    const chat = createChat({ model, adapters, trustRequests: false });
    const rendered = async (name: string | undefined) => {
      const template = await chat.templateFor(name === undefined ? undefined : record(name));
      const input = { addGenerationPrompt: true, continueFinalMessage: false, kwargs: {} };
      return template.render({ ...input, messages: [{ role: 'user', content: '' }] });
    };
    expect(await rendered(undefined)).toBe('base');
    expect(await rendered('own')).toBe('own');
    expect(await rendered('plain')).toBe('base');
    expect(await rendered('own')).toBe('own');
    expect(await rendered('plain')).toBe('base');
    expect(reads).toBe(2);
    await chat.close();
  });
});
