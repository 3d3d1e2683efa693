/** The events of streamed responses. */
import { afterEach, describe, expect, it } from 'vitest';
import { LoramuxError } from '../../../src/errors.ts';
import type { WireOutputItem } from '../../../src/http/schemas/responses.ts';
import type { WireResponseEvent } from '../../../src/http/schemas/responses-events.ts';
import { checkAnswer } from '../../support/contract.ts';
import { repeating, type Script } from '../../support/fake-engine.ts';
import { codes, EOS } from '../generation/support.ts';
import { type TestServer, type TestServerOptions, testServer } from './support.ts';

let server: TestServer;
afterEach(() => server.close());

const TOOLS_TEMPLATE = '{% if tools %}tools {% endif %}{{ messages[0].content }}';
const TOOLS = ['add', 'get_time'].map((name) => ({
  ...{ type: 'function', name, parameters: { type: 'object' } },
}));
const callText = (name: string) =>
  `<tool_call>\n{"name": "${name}", "arguments": {"x": 1}}\n</tool_call>`;

const start = async (text: string, options: TestServerOptions = {}) => {
  const script = repeating([...codes(text), EOS]);
  server = await testServer({ ...options, engine: { script, ...options.engine } });
};

const post = (body: object) =>
  server.app.inject({
    ...{ method: 'POST', url: '/v1/responses' },
    payload: { model: 'base', input: 'Q', ...body },
  });

type Event<T extends WireResponseEvent['type']> = Extract<WireResponseEvent, { type: T }>;

/** The events of an answer, which is as openapi.yaml has it. */
async function eventsOf(body: object): Promise<WireResponseEvent[]> {
  const answer = await post({ ...body, stream: true });
  expect(answer.statusCode, answer.body).toBe(200);
  checkAnswer({
    ...{ method: 'POST', path: '/v1/responses', status: 200, text: answer.body },
    headers: new Headers(answer.headers as Record<string, string>),
  });
  return [...answer.body.matchAll(/^data: (.*)$/gm)].map(([, data]) => JSON.parse(data!));
}

const ofType = <T extends WireResponseEvent['type']>(events: WireResponseEvent[], type: T) =>
  events.filter((event): event is Event<T> => event.type === type);

/** Types in their order, repeated ones once. */
const order = (events: WireResponseEvent[]) =>
  events.map(({ type }) => type).filter((type, i, all) => type !== all[i - 1]);

/** The items that the deltas make. */
function assembled(events: WireResponseEvent[]): WireOutputItem[] {
  const items: WireOutputItem[] = [];
  for (const event of events) {
    if (event.type === 'response.output_item.added') {
      expect(event.output_index).toBe(items.length);
      items.push(structuredClone(event.item));
    } else if ('output_index' in event) {
      expect(event.output_index).toBe(items.length - 1);
    }
    const item = items.at(-1)!;
    if ('item_id' in event) expect(event.item_id).toBe(item.id);
    if (event.type === 'response.content_part.added' && item.type === 'message') {
      item.content.push(structuredClone(event.part));
    } else if (event.type === 'response.output_text.delta' && item.type === 'message') {
      item.content[event.content_index]!.text += event.delta;
      item.content[event.content_index]!.logprobs.push(...event.logprobs);
    } else if (event.type === 'response.function_call_arguments.delta') {
      (item as { arguments: string }).arguments += event.delta;
    } else if (event.type === 'response.output_item.done') {
      const { status } = event.item;
      expect({ ...item, status }).toEqual(event.item);
      items[event.output_index] = event.item;
    }
  }
  return items;
}

/** But what differs from one request to the next. */
const anonymous = (value: unknown) =>
  JSON.parse(
    JSON.stringify(value)
      .replaceAll(/[0-9a-f]{24,}/g, 'ID')
      .replaceAll(/_at":\d+/g, '_at":0'),
  );

const TEXT_EVENTS = [
  ...['response.output_item.added', 'response.content_part.added', 'response.output_text.delta'],
  ...['response.output_text.done', 'response.content_part.done', 'response.output_item.done'],
];
const CALL_EVENTS = [
  ...['response.output_item.added', 'response.function_call_arguments.delta'],
  ...['response.function_call_arguments.done', 'response.output_item.done'],
];
const BEGIN = ['response.created', 'response.in_progress'];

describe('a streamed response', () => {
  it('begins, says its text and ends', async () => {
    await start('hello');
    const events = await eventsOf({});
    expect(order(events)).toEqual([...BEGIN, ...TEXT_EVENTS, 'response.completed']);
    const [created] = ofType(events, 'response.created');
    expect(created!.response).toMatchObject({ status: 'in_progress', output: [], usage: null });
    const deltas = ofType(events, 'response.output_text.delta').map(({ delta }) => delta);
    expect(deltas).toEqual([...'hello']);
    const [{ response }] = ofType(events, 'response.completed') as [Event<'response.completed'>];
    expect(response.output).toEqual(assembled(events));
    expect(anonymous(response)).toEqual(anonymous((await post({})).json()));
  });

  it('is incomplete where the tokens end', async () => {
    await start('hello');
    const events = await eventsOf({ max_output_tokens: 2 });
    expect(order(events)).toEqual([...BEGIN, ...TEXT_EVENTS, 'response.incomplete']);
    const [{ response }] = ofType(events, 'response.incomplete') as [Event<'response.incomplete'>];
    expect(response.incomplete_details).toEqual({ reason: 'max_output_tokens' });
    expect(response.output).toEqual(assembled(events));
    expect(response.output[0]!.status).toBe('incomplete');
  });

  it('has a message where nothing is said', async () => {
    await start('');
    const events = await eventsOf({});
    expect(order(events)).toEqual([...BEGIN, ...TEXT_EVENTS, 'response.completed']);
    expect(assembled(events)).toMatchObject([{ content: [{ text: '' }] }]);
  });

  it('lists log-probabilities where their text is', async () => {
    await start('a<b', { template: TOOLS_TEMPLATE });
    const include = ['message.output_text.logprobs'];
    for (const body of [{}, { tools: TOOLS }, { stop: ['zz', '<c'] }]) {
      const events = await eventsOf({ ...body, include, top_logprobs: 1 });
      const [item] = assembled(events) as [WireOutputItem & { type: 'message' }];
      const { logprobs } = item.content[0]!;
      expect(logprobs.map(({ token }) => token).slice(0, 3)).toEqual(['a', '<', 'b']);
      const whole = (await post({ ...body, include, top_logprobs: 1 })).json();
      expect(whole.output[0].content[0].logprobs).toEqual(logprobs);
    }
  });

  it('has calls between texts', async () => {
    const text = `Well.${callText('add')}So:${callText('get_time')}`;
    await start(text, { template: TOOLS_TEMPLATE });
    const include = ['message.output_text.logprobs'];
    const events = await eventsOf({ tools: TOOLS, include });
    expect(order(events)).toEqual([
      ...[...BEGIN, ...TEXT_EVENTS, ...CALL_EVENTS, ...TEXT_EVENTS, ...CALL_EVENTS],
      'response.completed',
    ]);
    const items = assembled(events);
    const call = { type: 'function_call', arguments: '{"x": 1}', status: 'completed' };
    expect(items).toMatchObject([
      { type: 'message', content: [{ text: 'Well.' }] },
      { ...call, name: 'add', call_id: expect.stringMatching(/^call_/) },
      { type: 'message', content: [{ text: 'So:' }] },
      { ...call, name: 'get_time', call_id: expect.stringMatching(/^call_/) },
    ]);
    expect(new Set(items.map(({ id }) => id)).size).toBe(4);
    // Tokens of calls have no place in the lists.
    const lists = items.flatMap((item) =>
      item.type === 'message' ? [item.content[0]!.logprobs.map(({ token }) => token).join('')] : [],
    );
    expect(lists).toEqual(['Well.', 'So:']);
    const whole = (await post({ tools: TOOLS, include })).json();
    expect(anonymous(whole.output)).toEqual(anonymous(items));
  });

  it('has a call that is cut off', async () => {
    await start(callText('add'), { template: TOOLS_TEMPLATE });
    const length = callText('add').indexOf('1}');
    const events = await eventsOf({ tools: TOOLS, max_output_tokens: length });
    expect(events.at(-1)!.type).toBe('response.incomplete');
    expect(assembled(events)).toMatchObject([{ name: 'add', status: 'incomplete' }]);
  });

  it('has one call where one is allowed', async () => {
    await start(callText('add') + callText('get_time'), { template: TOOLS_TEMPLATE });
    const events = await eventsOf({ tools: TOOLS, parallel_tool_calls: false });
    expect(assembled(events)).toMatchObject([{ name: 'add' }]);
  });

  it('fails with the error in the shapes that clients know', async () => {
    const said = [...codes('hello'), EOS];
    const script: Script = (_request, _index, position) => {
      if (position < 2) return said[position];
      server.engine.fail(new LoramuxError('session_restarted', 'try again'));
      return undefined;
    };
    await start('', { engine: { script } });
    const events = await eventsOf({});
    expect(events.slice(-2).map(({ type }) => type)).toEqual(['error', 'response.failed']);
    const [error] = ofType(events, 'error');
    expect(error!.error).toMatchObject({ code: error!.code, message: error!.message });
    const [failed] = ofType(events, 'response.failed');
    expect(failed!.response).toMatchObject({
      ...{ status: 'failed', completed_at: null, usage: { output_tokens: 2 } },
      error: { code: 'session_restarted', message: 'try again' },
      output: [{ status: 'in_progress', content: [{ text: 'he' }] }],
    });
  });

  it('is refused with a status before it begins', async () => {
    await start('hello');
    const answer = await post({ stream: true, model: 'nobody' });
    expect(answer.statusCode).toBe(404);
    expect(answer.json().error.code).toBe('model_not_found');
  });
});
