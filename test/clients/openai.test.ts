/** OpenAI's own client for Node against the demo server: completions, models, errors, aborts. */
import { once } from 'node:events';
import OpenAI, {
  APIError,
  APIUserAbortError,
  BadRequestError,
  NotFoundError,
  RateLimitError,
} from 'openai';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  DEMO_NAME,
  demoQuestions,
  idle,
  startDemoServer,
  useDemoServer,
} from '../support/demo-server.ts';
import type { TestServer } from '../support/server.ts';
import { until } from '../support/until.ts';

const demo = useDemoServer();
let client: OpenAI;

const clientOf = ({ url }: TestServer) =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
/** vLLM's field, which OpenAI's types do not know; makes an answer as long as it may be. */
const endless = { ignore_eos: true } as object;

beforeAll(() => {
  client = clientOf(demo.server);
});

const ask = (model: string, prompt: string) =>
  client.completions.create({ model, prompt, max_tokens: 2, temperature: 0 });

describe('models', () => {
  it('are listed: the base and its adapters', async () => {
    const ids: string[] = [];
    for await (const model of client.models.list()) {
      expect(model.object).toBe('model');
      ids.push(model.id);
    }
    const names = (await demoQuestions()).map(({ model }) => model);
    expect(ids.sort()).toEqual([...names].sort());
  });

  it('are retrieved by name', async () => {
    expect((await client.models.retrieve('subtract')).id).toBe('subtract');
    await expect(client.models.retrieve('none')).rejects.toBeInstanceOf(NotFoundError);
  });
});

describe('completions', () => {
  it('come from the base and from each adapter, all at once', async () => {
    const answers = await Promise.all(
      (await demoQuestions()).map(async ({ model, prompt, answer }) => {
        const completion = await ask(model, prompt);
        expect(completion).toMatchObject({ object: 'text_completion', model });
        expect(completion.choices).toHaveLength(1);
        expect(completion.choices[0]).toMatchObject({ index: 0, finish_reason: 'stop' });
        expect(completion.usage).toMatchObject({
          prompt_tokens: 5,
          completion_tokens: 2,
          total_tokens: 7,
        });
        return [model, completion.choices[0]!.text, answer];
      }),
    );
    for (const [model, text, answer] of answers) expect(text, model).toBe(answer);
  });

  it('are streamed, with usage at the end', async () => {
    for (const { model, prompt, answer } of await demoQuestions()) {
      const stream = await client.completions.create({
        ...{ model, prompt, max_tokens: 2, temperature: 0 },
        stream: true,
        stream_options: { include_usage: true },
      });
      let text = '';
      let usage: OpenAI.CompletionUsage | undefined;
      const reasons: string[] = [];
      for await (const chunk of stream) {
        text += chunk.choices[0]?.text ?? '';
        if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
        if (chunk.usage) usage = chunk.usage;
      }
      expect([text, reasons], model).toEqual([answer, ['stop']]);
      expect(usage).toMatchObject({ prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 });
    }
  });

  it('have n choices of several prompts, and equal ones for equal seeds', async () => {
    const draw = (seed: number) =>
      client.completions.create({
        model: 'multiply',
        prompt: ['17 @ 5 =', '3 @ 4 ='],
        ...{ n: 3, max_tokens: 8, temperature: 1.5, seed, ...endless },
      });
    const [first, second, other] = await Promise.all([draw(7), draw(7), draw(8)]);
    const texts = ({ choices }: OpenAI.Completion) => choices.map(({ text }) => text);
    expect(first.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(texts(second)).toEqual(texts(first));
    expect(texts(other)).not.toEqual(texts(first));
    expect(new Set(texts(first)).size).toBeGreaterThan(1);
    expect(first.usage!.completion_tokens).toBe(6 * 8);
  });

  it('have log-probabilities, of the prompt too', async () => {
    const completion = await client.completions.create({
      ...{ model: 'subtract', prompt: ' 17 @ 5 =', max_tokens: 1, temperature: 0 },
      logprobs: 3,
      echo: true,
    });
    const { text, logprobs } = completion.choices[0]!;
    expect(text).toBe(' 17 @ 5 = 12');
    expect(logprobs!.tokens).toEqual(['<s>', ' 17', ' @', ' 5', ' =', ' 12']);
    expect(logprobs!.token_logprobs![0]).toBeNull();
    expect(logprobs!.token_logprobs![5]).toBeGreaterThan(Math.log(0.9));
    expect(Object.keys(logprobs!.top_logprobs![5]!)).toHaveLength(3);
    expect(logprobs!.text_offset).toEqual([0, 0, 3, 5, 7, 9]);
  });

  it('end before a stop text', async () => {
    const { choices } = await client.completions.create({
      ...{ model: 'subtract', prompt: '17 @ 5 =', max_tokens: 8, temperature: 0 },
      stop: [' 12', 'never'],
    });
    expect(choices[0]).toMatchObject({ text: '', finish_reason: 'stop' });
  });
});

describe('errors', () => {
  it('of names that are not there are NotFoundError', async () => {
    const error = await ask('nobody', '1 @ 1 =').catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(NotFoundError);
    expect(error).toMatchObject({ status: 404, code: 'model_not_found', param: 'model' });
  });

  it('of requests are BadRequestError with code and field', async () => {
    const base = { model: DEMO_NAME, prompt: '1 @ 1 =' };
    const cases: [object, object][] = [
      [{ max_tokens: -1 }, { code: 'invalid_request', param: 'max_tokens' }],
      [{ suffix: ' and so on' }, { code: 'unsupported_field', param: 'suffix' }],
      [{ mood: 'good' }, { code: 'unknown_field', param: 'mood' }],
      [{ max_tokens: 5000 }, { code: 'context_length_exceeded' }],
    ];
    for (const [more, want] of cases) {
      const error = await client.completions
        .create({ ...base, ...more })
        .catch((thrown: unknown) => thrown);
      expect(error, JSON.stringify(more)).toBeInstanceOf(BadRequestError);
      expect(error).toMatchObject({ ...want, status: 400, type: 'invalid_request_error' });
    }
  });

  it('of a full queue are RateLimitError', async () => {
    const small = await startDemoServer(['--max-queued-requests', '1', '--max-sequences', '1']);
    const one = clientOf(small);
    const abort = new AbortController();
    const params = { model: DEMO_NAME, prompt: '1 @ 1 =', max_tokens: 4000, ...endless };
    const answers = Array.from({ length: 6 }, () =>
      one.completions.create(params, { signal: abort.signal }).catch((thrown: unknown) => thrown),
    );
    const first = await Promise.race(answers);
    expect(first).toBeInstanceOf(RateLimitError);
    expect(first).toMatchObject({ status: 429, code: 'queue_full' });
    abort.abort();
    await Promise.all(answers);
    await idle(small);
    expect(await small.end()).toBe(0);
  });

  it('in the middle of a stream are APIError', async () => {
    const short = await startDemoServer(['--drain-ms', '0']);
    const stream = await clientOf(short).completions.create({
      ...{ model: 'cubic', prompt: '1 @ 1 =', max_tokens: 4000, ...endless },
      stream: true,
    });
    let chunks = 0;
    const ended = once(short.child, 'exit');
    const read = async () => {
      for await (const _ of stream) if (chunks++ === 0) short.child.kill('SIGTERM');
    };
    const error = await read().catch((thrown: unknown) => thrown);
    expect(chunks).toBeGreaterThan(0);
    expect(error).toBeInstanceOf(APIError);
    expect(error).toMatchObject({ code: 'shutting_down' });
    await ended;
    expect(await short.end()).toBe(0);
  });
});

it('frees what a stream held when it is aborted', async () => {
  const stream = await client.completions.create({
    ...{ model: 'linear', prompt: '1 @ 1 =', max_tokens: 4000, ...endless },
    stream: true,
  });
  const running = () => demo.server.metric('loramux_num_requests_running');
  let chunks = 0;
  for await (const _ of stream) {
    if (chunks++ > 0) continue;
    await until('it runs', running, (count) => count === 1);
    stream.controller.abort();
  }
  await idle(demo.server);
  const abort = new AbortController();
  const whole = client.completions.create(
    { model: 'linear', prompt: '1 @ 1 =', max_tokens: 4000, ...endless },
    { signal: abort.signal },
  );
  await until('it runs', running, (count) => count === 1);
  abort.abort();
  await expect(whole).rejects.toBeInstanceOf(APIUserAbortError);
  await idle(demo.server);
});
