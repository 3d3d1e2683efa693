import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { codes } from '../generation/support.ts';
import { type TestServer, testServer } from './support.ts';

let server: TestServer;
beforeEach(async () => {
  server = await testServer();
});
afterEach(() => server.close());

const post = async (url: string, payload: object) => {
  const answer = await server.app.inject({ method: 'POST', url, payload });
  return { status: answer.statusCode, body: answer.json() };
};
const errorOf = async (url: string, payload: object) => {
  const { status, body } = await post(url, payload);
  return { status, code: body.error.code, param: body.error.param };
};

describe('POST /tokenize', () => {
  it('answers the tokens of a text', async () => {
    const { status, body } = await post('/tokenize', { model: 'base', prompt: 'Hi' });
    expect(status).toBe(200);
    const { maxModelLen } = server.engine.limits;
    expect(body).toEqual({
      count: 2,
      max_model_len: maxModelLen,
      tokens: codes('Hi'),
      token_strs: null,
    });
    const empty = await post('/tokenize', { prompt: '', return_token_strs: true });
    expect(empty.body).toMatchObject({ count: 0, tokens: [], token_strs: [] });
    const spelled = await post('/tokenize', { prompt: 'A', return_token_strs: true });
    expect(spelled.body.token_strs).toEqual(['<65>']);
  });

  it('answers the tokens of a chat', async () => {
    const messages = [
      { role: 'user', content: 'Hi' },
      { role: 'assistant', content: 'Ho' },
    ];
    const tokensOf = async (fields: object) =>
      String.fromCharCode(...(await post('/tokenize', { messages, ...fields })).body.tokens);
    expect(await tokensOf({})).toBe('user: Hi\nassistant: Ho\nassistant: ');
    expect(await tokensOf({ add_generation_prompt: false })).toBe('user: Hi\nassistant: Ho\n');
    expect(await tokensOf({ model: 'sub', continue_final_message: true })).toBe(
      'user: Hi\nassistant: Ho',
    );
  });

  it('takes one of prompt and messages, and nothing of the one with the other', async () => {
    const messages = [{ role: 'user', content: 'Hi' }];
    const refused = { status: 400, code: 'invalid_request' };
    expect(await errorOf('/tokenize', {})).toMatchObject(refused);
    expect(await errorOf('/tokenize', { prompt: 'Hi', messages })).toMatchObject(refused);
    expect(await errorOf('/tokenize', { prompt: 'Hi', tools: [] })).toMatchObject(refused);
    expect(
      await errorOf('/tokenize', { prompt: 'Hi', continue_final_message: true }),
    ).toMatchObject({ ...refused, param: 'continue_final_message' });
    expect(await errorOf('/tokenize', { prompt: 'Hi', priority: 1 })).toMatchObject({
      code: 'unknown_field',
      param: 'priority',
    });
    expect(await errorOf('/tokenize', { messages, chat_template: 'x' })).toMatchObject({
      status: 400,
      code: 'unsupported_field',
      param: 'chat_template',
    });
  });

  it('knows whom it is asked for', async () => {
    expect(await errorOf('/tokenize', { model: 'nobody', prompt: 'Hi' })).toMatchObject({
      status: 404,
      code: 'model_not_found',
    });
    expect((await post('/tokenize', { model: 'sub', prompt: 'Hi' })).status).toBe(200);
    expect(await errorOf('/tokenize', { prompt: 'ü€' })).toMatchObject({
      code: 'token_out_of_range',
    });
  });
});

describe('POST /detokenize', () => {
  it('answers the text of tokens', async () => {
    const { body } = await post('/detokenize', { model: 'sub', tokens: codes('Hi') });
    expect(body).toEqual({ prompt: 'Hi' });
    expect((await post('/detokenize', { tokens: [] })).body).toEqual({ prompt: '' });
  });

  it('refuses ids outside of the vocabulary, and unknown models', async () => {
    expect(await errorOf('/detokenize', { tokens: [256] })).toEqual({
      status: 400,
      code: 'token_out_of_range',
      param: 'tokens',
    });
    expect((await errorOf('/detokenize', { tokens: [-1] })).code).toBe('invalid_request');
    expect((await errorOf('/detokenize', { model: 'nobody', tokens: [] })).status).toBe(404);
  });
});
