/**
 * Constrained answers of a real server: every one of 200 JSON schemas, 16 requests in flight, with the
 * base of the demo and with a random base and its adapters, judged by another validator; patterns,
 * lists, grammars; what is refused; and that nothing of it harms or changes the requests beside it.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import Ajv2020 from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as z from 'zod';
import { synthesizeAdapters } from '../../src/importer/index.ts';
import { DEMO_NAME, startDemoServer } from '../support/demo-server.ts';
import { type Json, startTestServer, type TestServer } from '../support/server.ts';
import { makeSmallBase } from '../support/small-base.ts';
import { FIXTURES } from '../support/stack.ts';

const IN_FLIGHT = 16;
const MAX_TOKENS = 3000;
const schemas: Json[] = JSON.parse(
  await readFile(path.join(FIXTURES, 'json-schemas.json'), 'utf8'),
);

/** Whether `text` is JSON that `schema` accepts; else why not. */
function judge(schema: Json, text: string): string | undefined {
  const ajv = new Ajv2020.default({ strict: false });
  addFormats.default(ajv);
  const validate = ajv.compile(schema);
  try {
    return validate(JSON.parse(text)) ? undefined : ajv.errorsText(validate.errors);
  } catch (error) {
    return String(error);
  }
}

/** Runs `work` for all items, some at once. */
async function inFlight<T>(items: readonly T[], work: (item: T, i: number) => Promise<void>) {
  let next = 0;
  const lane = async () => {
    for (let i = next++; i < items.length; i = next++) await work(items[i]!, i);
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, lane));
}

/** Greedy choices of random weights may go deeper and deeper for ever. */
const isRecursive = (schema: Json) => JSON.stringify(schema).includes('$ref');

type Ask = (fields: object, i: number) => ReturnType<TestServer['call']>;

/** Answers to the schemas that are not valid, and why. */
async function wrongAnswers(ask: Ask): Promise<string[]> {
  const wrong: string[] = [];
  await inFlight(schemas, async (schema, i) => {
    const temperature = i % 2 === 1 || isRecursive(schema) ? 1 : 0;
    const format = { type: 'json_schema', json_schema: { name: 'x', schema } };
    const { status, body } = await ask({ response_format: format, temperature }, i);
    const choice = body.choices?.[0];
    const why =
      status !== 200
        ? JSON.stringify(body)
        : choice.finish_reason === 'stop'
          ? judge(schema, choice.text)
          : choice.finish_reason;
    if (why !== undefined) wrong.push(`${i} ${JSON.stringify(schema)}: ${why}: ${choice?.text}`);
  });
  return wrong;
}

describe('the base of the demo', () => {
  it('answers every one of 200 JSON schemas with what it accepts', async () => {
    expect(schemas).toHaveLength(200);
    const server = await startDemoServer();
    const ask: Ask = (fields, i) =>
      server.call('POST', '/v1/completions', {
        model: DEMO_NAME,
        prompt: '17 @ 5 =',
        max_tokens: MAX_TOKENS,
        seed: i,
        ...fields,
      });
    try {
      expect(await wrongAnswers(ask)).toEqual([]);
    } finally {
      expect(await server.end()).toBe(0);
    }
  });
});

describe('with random weights', () => {
  let server: TestServer;
  let models: string[];
  let end = async () => {};

  const ask = (fields: object, i = 0) =>
    server.call('POST', '/v1/completions', {
      model: models[i % models.length],
      prompt: '1 + 2 = ',
      max_tokens: MAX_TOKENS,
      seed: i,
      ...fields,
    });
  const textOf = async (fields: object): Promise<string> => {
    const { status, body } = await ask(fields);
    expect(status, JSON.stringify(body)).toBe(200);
    expect(body.choices[0].finish_reason).toBe('stop');
    return body.choices[0].text;
  };

  beforeAll(async () => {
    const base = await makeSmallBase();
    end = base.end;
    const adapters = await synthesizeAdapters(base.dir, path.join(base.dir, 'adapters'), {
      count: 3,
      ranks: [4, 8, 16],
    });
    server = await startTestServer(['--model', base.dir]);
    models = [path.basename(base.dir), ...adapters.map(({ name }) => name)];
    for (const { name, dir } of adapters) await server.upload(name, dir);
  });
  afterAll(async () => {
    expect(await server?.end()).toBe(0);
    await end();
  });

  it('answers every one of 200 JSON schemas with what it accepts', async () => {
    expect(await wrongAnswers(ask)).toEqual([]);
  });

  it('answers with what a pattern matches, with one of a list, and by a grammar', async () => {
    expect(await textOf({ guided_regex: '[a-f]{2,4}-(x|é)+\\d?' })).toMatch(
      /^[a-f]{2,4}-(x|é)+\d?$/,
    );
    const choices = ['yes', 'no', 'maybe é'];
    expect(choices).toContain(await textOf({ guided_choice: choices }));
    expect(choices).toContain(await textOf({ structured_outputs: { choice: choices } }));
    const guided = {
      guided_grammar: 'root ::= "<" item ("," item){0,3} ">"\nitem ::= [0-9] | "é"',
    };
    expect(await textOf(guided)).toMatch(/^<[0-9é](,[0-9é]){0,3}>$/);
    expect(await textOf({ guided_json: '{"type":"boolean"}', n: 3 })).toMatch(/^(true|false)$/);
  });

  it('answers with what Zod accepts, whose formats have patterns beside them', async () => {
    const forms: Record<string, z.ZodType> = {
      email: z.email(),
      shortEmail: z.email().min(8).max(30),
      longEmail: z.email().max(255),
      uuid: z.uuid(),
      ipv4: z.ipv4(),
      ipv6: z.ipv6(),
      date: z.iso.date(),
      dateTime: z.iso.datetime({ offset: true }),
      url: z.url().max(40),
      nanoid: z.nanoid(),
      phone: z.e164(),
      pattern: z
        .string()
        .regex(/^[a-z]+( [^"]+)*$/)
        .min(3)
        .max(20),
      prefix: z.string().startsWith('ab').max(12),
      record: z.record(z.enum(['a', 'b']), z.int()),
      partial: z.partialRecord(z.enum(['a', 'b']), z.boolean()),
      tuple: z.tuple([z.literal('x'), z.int()]),
    };
    for (const [i, [name, form]] of Object.entries(forms).entries()) {
      const schema = z.toJSONSchema(form);
      const texts = [
        await textOf({ guided_json: schema, seed: i, temperature: 1 }),
        await textOf({ guided_json: schema, temperature: 0 }),
      ];
      for (const text of texts) {
        expect([name, text, form.safeParse(JSON.parse(text)).success]).toEqual([name, text, true]);
      }
    }
  });

  it('gives the same tokens alone and among others', async () => {
    const fields = { guided_json: { type: 'array', items: { type: 'string', maxLength: 9 } } };
    const bounded = { guided_json: { ...fields.guided_json, maxItems: 5 } };
    const alone = await textOf({ ...bounded, temperature: 1 });
    const others = Array.from({ length: IN_FLIGHT }, (_, i) =>
      i % 3 === 0
        ? ask({ max_tokens: 200 }, i)
        : ask({ guided_json: { type: 'string', minLength: i, maxLength: 40 } }, i),
    );
    expect(await textOf({ ...bounded, temperature: 1 })).toBe(alone);
    for (const { status } of await Promise.all(others)) expect(status).toBe(200);
  });

  it.each([
    [{ guided_json: { not: {} } }, 'grammar_unsupported', 'guided_json'],
    [{ guided_json: { type: 'string', pattern: '(?=x)' } }, 'grammar_unsupported', 'guided_json'],
    [{ guided_regex: '(' }, 'grammar_invalid', 'guided_regex'],
    [{ guided_grammar: 'root ::= missing' }, 'grammar_invalid', 'guided_grammar'],
    [{ guided_grammar: 'root ::= [à-ÿ]' }, 'grammar_unsupported', 'guided_grammar'],
    [{ guided_json: {}, guided_regex: 'a' }, 'invalid_request', 'guided_regex'],
    [{ guided_regex: 'a', ignore_eos: true }, 'unsupported_field', 'ignore_eos'],
    [{ guided_regex: 'a', min_tokens: 3 }, 'unsupported_field', 'min_tokens'],
  ])('refuses %j', async (fields, code, param) => {
    const { status, body } = await ask(fields);
    expect(status).toBe(400);
    expect(body.error).toMatchObject({ code, param });
  });
});

describe('a grammar that takes for ever', () => {
  it('is given up, and the requests beside it are answered', async () => {
    const base = await makeSmallBase();
    const server = await startTestServer(['--model', base.dir, '--grammar-compile-ms', '3000']);
    try {
      const call = (fields: object) =>
        server.call('POST', '/v1/completions', { model: 'small', prompt: 'x', ...fields });
      const warm = await call({ guided_regex: '[0-9]{3}' });
      expect(warm.status).toBe(200);
      const parts = Array.from({ length: 200 }, (_, i) => {
        const text = 'ab'.repeat((i % 7) + 1);
        return `([a-z] | "${text}"){0,${1000 + i}}`;
      });
      const hostile = `root ::= ${parts.join(' "x" ')}`;
      const [bad, ...good] = await Promise.all([
        call({ guided_grammar: hostile }),
        ...Array.from({ length: 8 }, (_, i) => call({ guided_regex: '[0-9]{3}', seed: i })),
      ]);
      expect(bad.body.error).toMatchObject({
        code: 'grammar_too_complex',
        param: 'guided_grammar',
      });
      for (const { body } of good) expect(body.choices[0].text).toMatch(/^\d{3}$/);
      expect((await call({ guided_json: { enum: [1] } })).body.choices[0].text).toBe('1');
    } finally {
      expect(await server.end()).toBe(0);
      await base.end();
    }
  });
});
