/** Chats that are rendered in a thread: which ones, in what order, and what ends it. */
import { afterEach, describe, expect, it } from 'vitest';
import { type ChatOptions, createChat } from '../../../src/chat/chat-service.ts';
import { RenderThread, type RenderThreadOptions } from '../../../src/chat/render-thread.ts';
import type { Rendering } from '../../../src/chat/rendering.ts';
import type { ChatInput } from '../../../src/chat/types.ts';
import { PATIENCE_MS } from '../../support/until.ts';

const UNRULY = new URL('../../support/unruly-renderer.mjs', import.meta.url);
const TEMPLATE = '{% for m in messages %}{{ m.role ~ m.content }}\n{% endfor %}';
/** Far more turns than a chat takes. */
const ENDLESS = '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}';
const DOES_NOT_END = { code: 'chat_template_failed', message: /does not come to an end in time/ };

const input = (numMessages: number, content = 'Hi'): ChatInput => ({
  messages: Array.from({ length: numMessages }, (_, i) => ({
    role: i % 2 === 0 ? 'user' : 'assistant',
    content,
  })),
  addGenerationPrompt: true,
  continueFinalMessage: false,
  kwargs: {},
});

const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

function chatOf(options: Partial<ChatOptions> = {}) {
  const adapters = { chatTemplates: async () => new Map<string, string>() };
  const model = { templates: new Map([['default', TEMPLATE]]), specialTokens: {} };
  const chat = createChat({ model, adapters, trustRequests: true, ...options });
  ends.push(() => chat.close());
  return {
    chat,
    render: async (chatInput: ChatInput, override?: string) =>
      (await chat.templateFor(undefined, override)).render(chatInput),
  };
}

describe('a chat', () => {
  it('is rendered at once when it is short and the template is of the operator', async () => {
    // Whatever reaches this thread ends it.
    const { render } = chatOf({ workerUrl: new URL('data:text/javascript,process.exit(7)') });
    expect(await render(input(20))).toMatch(/^userHi\nassistantHi\n/);
    await expect(render(input(1001))).rejects.toMatchObject({ code: 'internal_error' });
    await expect(render(input(1, 'x'.repeat(100_000)))).rejects.toMatchObject({
      code: 'internal_error',
    });
    await expect(render(input(1), 'mine')).rejects.toMatchObject({ code: 'internal_error' });
  });

  it('is the same text however it was rendered', async () => {
    const { render } = chatOf();
    const whole = await render(input(1001));
    expect(whole.split('\n')).toHaveLength(1002);
    expect(whole.startsWith(await render(input(20)))).toBe(true);
    expect(await render(input(20), TEMPLATE)).toBe(await render(input(20)));
  });

  it('lets the event loop turn while it is rendered', async () => {
    const { render } = chatOf();
    const order: string[] = [];
    const long = render(input(1001)).then(() => order.push('long'));
    const hostile = render(input(1), ENDLESS).catch(() => order.push('hostile'));
    const other = new Promise<void>((resolve) => setImmediate(resolve));
    await other.then(() => order.push('other'));
    await Promise.all([long, hostile]);
    expect(order[0]).toBe('other');
  });

  it('is refused by the code that it has anywhere', async () => {
    const { render } = chatOf();
    const refusal = expect.objectContaining({ code: 'chat_template_failed', param: 'messages' });
    await expect(render(input(1), "{{ raise_exception('no') }}")).rejects.toEqual(refusal);
    await expect(render(input(1), ENDLESS)).rejects.toEqual(refusal);
    await expect(render(input(1), ENDLESS)).rejects.toThrow(DOES_NOT_END.message);
    await expect(render(input(1), '{% if %}')).rejects.toMatchObject({
      code: 'chat_template_invalid',
    });
    const kwargs = { messages: [] };
    await expect(render({ ...input(1001), kwargs })).rejects.toMatchObject({
      code: 'invalid_request',
      param: 'chat_template_kwargs',
    });
    let nested: object = {};
    for (let i = 0; i < 100_000; i++) nested = { nested };
    const deep = { ...input(1), kwargs: { nested } } as unknown as ChatInput;
    await expect(render(deep)).rejects.toEqual(refusal);
    expect(await render(input(1001))).toContain('userHi');
  });
});

describe('a rendering thread', () => {
  const threadOf = (options: Partial<RenderThreadOptions> = {}) => {
    const setup = { specialTokens: {} };
    const thread = new RenderThread({ setup, workerUrl: UNRULY, graceMs: 0, ...options });
    ends.push(() => thread.close());
    const render = (source: string, timeoutMs = PATIENCE_MS, signal?: AbortSignal) => {
      const limits = { workMax: 1, timeoutMs };
      const rendering = { source, input: input(1), limits, nowMs: 0 } satisfies Rendering;
      return thread.render(rendering, signal);
    };
    return { thread, render };
  };

  it('is replaced when it dies, and only its chat fails', async () => {
    const { render } = threadOf();
    const first = await render('a');
    expect(await render('b')).toBe(first.replace('a', 'b'));
    for (const death of ['exit', 'throw']) {
      const [dead, next] = await Promise.allSettled([render(death), render('a')]);
      expect(dead).toMatchObject({ reason: { code: 'internal_error' } });
      expect(next).toMatchObject({ status: 'fulfilled' });
    }
    expect(await render('a')).not.toBe(first);
    await expect(render('memory')).rejects.toMatchObject({
      code: 'chat_template_failed',
      message: expect.stringContaining('memory'),
    });
  });

  it('is replaced when a chat takes too long', async () => {
    const { render } = threadOf();
    const first = await render('a');
    await expect(render('silent', 1)).rejects.toMatchObject({ code: DOES_NOT_END.code });
    expect(await render('a')).not.toBe(first);
  });

  it('serves templates in turn', async () => {
    const { render } = threadOf();
    const order: string[] = [];
    const sources = ['a', 'a', 'a', 'b', 'b', 'c'];
    await Promise.all(
      sources.map((source) => render(source).then((text) => order.push(text.slice(0, 1)))),
    );
    expect(order.join('')).toBe('abcaba');
  });

  it('gives the place of a chat that is not wanted any more to another', async () => {
    const { thread, render } = threadOf();
    const settled = [Promise.allSettled([render('silent')])];
    const clients = Array.from({ length: 256 }, () => new AbortController());
    const left = Promise.allSettled(clients.map(({ signal }) => render('a', PATIENCE_MS, signal)));
    await expect(render('a')).rejects.toMatchObject({ code: 'queue_full' });
    for (const client of clients) client.abort('gone');
    for (const one of await left) expect(one).toMatchObject({ reason: 'gone' });
    await expect(render('a', PATIENCE_MS, clients[0]!.signal)).rejects.toBe('gone');
    for (let i = 0; i < 256; i++) settled.push(Promise.allSettled([render('a')]));
    await expect(render('a')).rejects.toMatchObject({ code: 'queue_full' });
    await thread.close();
    for (const [one] of await Promise.all(settled)) {
      expect(one).toMatchObject({ reason: { code: 'shutting_down' } });
    }
  });

  it('refuses what would wait behind too many', async () => {
    const { thread, render } = threadOf();
    const settled = [Promise.allSettled([render('silent')])];
    for (let i = 0; i < 256; i++) settled.push(Promise.allSettled([render('a')]));
    await expect(render('a')).rejects.toMatchObject({ code: 'queue_full' });
    await thread.close();
    for (const [one] of await Promise.all(settled)) {
      expect(one).toMatchObject({ reason: { code: 'shutting_down' } });
    }
    await expect(render('a')).rejects.toMatchObject({ code: 'shutting_down' });
  });

  it('that does not start fails whoever waits for it', async () => {
    const { render } = threadOf({ setup: { specialTokens: { start: 'dies' } } });
    const settled = await Promise.allSettled([render('a'), render('b')]);
    for (const one of settled) expect(one).toMatchObject({ reason: { code: 'internal_error' } });
  });
});
