import { afterEach, describe, expect, it } from 'vitest';
import { repeating, type Script } from '../../support/fake-engine.ts';
import { codes, EOS } from '../generation/support.ts';
import { parseSse, type TestServer, type TestServerOptions, testServer } from './support.ts';

let server: TestServer;
afterEach(() => server.close());

const start = async (options?: TestServerOptions) => {
  server = await testServer(options);
};
const saying = (text: string) => ({ script: repeating([...codes(text), EOS]) });

const post = (url: string, body: object) =>
  server.app.inject({ method: 'POST', url, payload: { model: 'base', ...body } });
const complete = (body: object) => post('/v1/completions', { prompt: 'Q', ...body });
const chat = (body: object) =>
  post('/v1/chat/completions', { messages: [{ role: 'user', content: 'Q' }], ...body });
const chunksOf = (body: string) => parseSse(body).slice(0, -1) as Record<string, unknown>[];
const choiceOf = (chunk: Record<string, unknown>) =>
  (chunk.choices as Record<string, unknown>[])[0];
const promptOf = () => String.fromCharCode(...server.engine.submitted.at(-1)!.promptTokenIds);

describe('best_of', () => {
  it('answers with the likeliest choices of each prompt', async () => {
    // Each token of the double has -0.5: the longer, the less likely.
    const lengths = [4, 2, 3];
    const script: Script = (_request, index, position) =>
      position < lengths[index]! ? 'abc'.charCodeAt(index) : EOS;
    await start({ engine: { script } });
    const response = (await complete({ prompt: ['x', 'y'], n: 2, best_of: 3 })).json();
    expect(response.choices).toMatchObject([
      { index: 0, text: 'bb', logprobs: null },
      { index: 1, text: 'ccc', logprobs: null },
      { index: 2, text: 'bb', logprobs: null },
      { index: 3, text: 'ccc', logprobs: null },
    ]);
    // What was made is counted, not what is shown.
    expect(response.usage.completion_tokens).toBe(24);
    expect(server.engine.submitted[0]).toMatchObject({ n: 3, sampling: { logprobs: 0 } });
    const shown = (await complete({ best_of: 3, logprobs: 1 })).json().choices;
    expect(shown).toHaveLength(1);
    expect(shown[0].logprobs.tokens).toEqual(['b', 'b', '<eos>']);
  });
});

describe('prompt_logprobs', () => {
  it('come in the shape of vLLM', async () => {
    await start();
    const { choices } = (await complete({ prompt: 'AB', prompt_logprobs: 1, n: 2 })).json();
    const expected = [null, { 66: { logprob: -0.5, rank: 1, decoded_token: 'B' } }];
    expect(choices).toHaveLength(2);
    for (const choice of choices) {
      expect(choice).toMatchObject({ text: 'hello', prompt_logprobs: expected, logprobs: null });
    }
    const two = (await complete({ prompt: 'AB', prompt_logprobs: 2 })).json().choices[0];
    expect(two.prompt_logprobs[1]).toEqual({
      66: { logprob: -0.5, rank: 1, decoded_token: 'B' },
      67: { logprob: -1, rank: 2, decoded_token: 'C' },
    });
    const answer = (await chat({ prompt_logprobs: 0 })).json();
    expect(answer.prompt_logprobs).toHaveLength(answer.usage.prompt_tokens);
    expect((await complete({ prompt: 'A', prompt_logprobs: 0 })).json().choices[0]).toMatchObject({
      prompt_logprobs: [null],
    });
  });

  it('stand beside an echo with its own', async () => {
    await start();
    const body = { prompt: 'AB', prompt_logprobs: 3, echo: true, logprobs: 1, max_tokens: 1 };
    const { choices } = (await complete(body)).json();
    expect(Object.keys(choices[0].prompt_logprobs[1])).toHaveLength(3);
    expect(Object.keys(choices[0].logprobs.top_logprobs[1])).toHaveLength(1);
    const silent = (await complete({ ...body, logprobs: undefined })).json().choices[0];
    expect(silent).toMatchObject({ text: 'ABh', logprobs: null });
  });

  it('are refused in streams', async () => {
    await start();
    const { error } = (await chat({ prompt_logprobs: 0, stream: true })).json();
    expect(error).toMatchObject({ code: 'invalid_request', param: 'prompt_logprobs' });
  });
});

describe('return_token_ids', () => {
  it('shows the ids of prompts and answers', async () => {
    await start({ engine: saying('hi') });
    const body = { return_token_ids: true };
    const ids = [...codes('hi'), EOS];
    expect((await complete({ prompt: ['x', 'y'], ...body })).json().choices).toMatchObject([
      { prompt_token_ids: codes('x'), token_ids: ids },
      { prompt_token_ids: codes('y'), token_ids: ids },
    ]);
    const answer = (await chat(body)).json();
    expect(answer).toMatchObject({ choices: [{ token_ids: ids }] });
    expect(answer.prompt_token_ids).toHaveLength(answer.usage.prompt_tokens);
    expect((await chat({})).json()).not.toHaveProperty('prompt_token_ids');
  });

  it('shows those of each chunk in streams', async () => {
    await start({ engine: saying('hi') });
    const body = { return_token_ids: true, stream: true, n: 2 };
    for (const send of [complete, chat]) {
      const chunks = chunksOf((await send(body)).body);
      const first = choiceOf(chunks[0]!)!;
      const prompts = chunks.filter(
        (chunk) => 'prompt_token_ids' in chunk || 'prompt_token_ids' in choiceOf(chunk)!,
      );
      // Once for each choice where they stand in the choice.
      expect(prompts).toHaveLength(send === complete ? 2 : 1);
      const own = chunks.map(choiceOf).filter((choice) => choice!.index === first.index);
      expect(own.flatMap((choice) => choice!.token_ids ?? [])).toEqual([...codes('hi'), EOS]);
    }
  });
});

describe('other fields of an answer', () => {
  it('shows tokens as their ids', async () => {
    await start({ engine: saying('h') });
    const body = { return_tokens_as_token_ids: true };
    const { logprobs } = (await complete({ ...body, logprobs: 1, echo: true })).json().choices[0];
    expect(logprobs.tokens).toEqual(['token_id:81', 'token_id:104', 'token_id:0']);
    expect(logprobs.top_logprobs[1]).toEqual({ 'token_id:104': -0.5 });
    const shown = (await chat({ ...body, logprobs: true })).json().choices[0].logprobs.content[0];
    expect(shown.token).toBe('token_id:104');
  });

  it('has the id that the request gives', async () => {
    await start();
    expect((await complete({ request_id: 'mine' })).json().id).toBe('cmpl-mine');
    expect((await chat({ request_id: 'mine' })).json().id).toBe('chatcmpl-mine');
  });

  it('counts in every chunk', async () => {
    await start({ engine: saying('hi') });
    const options = { include_usage: true, continuous_usage_stats: true };
    for (const send of [complete, chat]) {
      const chunks = chunksOf((await send({ stream: true, stream_options: options })).body);
      const counts = chunks.map(
        ({ usage }) => (usage as { completion_tokens: number }).completion_tokens,
      );
      expect(Math.min(...counts)).toBeGreaterThan(0);
      expect(counts.at(-1)).toBe(3);
    }
  });

  it('echoes X-Request-Id, or makes one', async () => {
    await start();
    const idFor = async (id?: string) => {
      const headers = id === undefined ? {} : { 'x-request-id': id };
      const { headers: answer } = await server.app.inject({ url: '/v1/models', headers });
      return answer['x-request-id'];
    };
    expect(await idFor('trace-1')).toBe('trace-1');
    const made = /^req_[0-9a-f-]{36}$/;
    expect(await idFor()).toMatch(made);
    expect(await idFor('a b')).toMatch(made);
    expect(await idFor('x'.repeat(129))).toMatch(made);
    const missing = await server.app.inject({ url: '/nowhere', headers: { 'x-request-id': 'me' } });
    expect(missing.headers['x-request-id']).toBe('me');
    const stream = await chat({ stream: true });
    expect(stream.headers['x-request-id']).toMatch(made);
  });
});

describe('what is not generated', () => {
  const banned = () => [...server.engine.submitted.at(-1)!.sampling.bannedTokenIds!];

  it('is all but the allowed tokens', async () => {
    await start();
    await complete({ allowed_token_ids: [65, 70] });
    expect(banned()).toHaveLength(254);
    expect(banned()).not.toContain(65);
    const { error } = (await complete({ allowed_token_ids: [256] })).json();
    expect(error).toMatchObject({ code: 'token_out_of_range', param: 'allowed_token_ids' });
    const none = (await complete({ allowed_token_ids: [65], bad_words: ['A'] })).json();
    expect(none.error).toMatchObject({ code: 'invalid_request', param: 'allowed_token_ids' });
    const early = (await complete({ allowed_token_ids: [EOS], min_tokens: 1 })).json();
    expect(early.error).toMatchObject({ code: 'invalid_request', param: 'allowed_token_ids' });
    expect((await complete({ allowed_token_ids: [EOS] })).statusCode).toBe(200);
  });

  it('is words, as tokens or sequences of them', async () => {
    await start();
    await complete({ bad_words: ['A', ' bc'] });
    const { bannedTokenIds, bannedSequences } = server.engine.submitted.at(-1)!.sampling;
    expect([...bannedTokenIds!]).toEqual([65]);
    expect(bannedSequences!.map((one) => [...one])).toEqual([codes('bc')]);
  });
});

describe('truncate_prompt_tokens', () => {
  it.each([
    [{ truncate_prompt_tokens: 3 }, 'cde'],
    [{ truncate_prompt_tokens: 3, truncation_side: 'right' }, 'abc'],
    [{ truncate_prompt_tokens: 9 }, 'abcde'],
    [{ truncate_prompt_tokens: -1, max_tokens: 4 }, 'bcde'],
  ])('%j keeps %s', async (body, kept) => {
    await start({ engine: { ...saying('hi'), maxModelLen: 8 } });
    const response = await complete({ prompt: 'abcde', max_tokens: 3, echo: true, ...body });
    expect(response.statusCode, response.body).toBe(200);
    expect(promptOf()).toBe(kept);
    expect(response.json().choices[0].text).toBe(`${kept}hi`);
    const ids = await complete({ prompt: codes('abcde'), max_tokens: 3, echo: true, ...body });
    expect(ids.json().choices[0].text).toBe(`${kept}hi`);
  });

  it('needs its number', async () => {
    await start();
    const { error } = (await complete({ truncation_side: 'left' })).json();
    expect(error).toMatchObject({ code: 'invalid_request', param: 'truncation_side' });
    expect((await complete({ truncate_prompt_tokens: 0 })).json().error.code).toBe('prompt_empty');
    await chat({ truncate_prompt_tokens: 4 });
    expect(promptOf()).toBe('nt: ');
  });
});
