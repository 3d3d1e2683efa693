/** A real server process whose requests name adapters in every way there is, several at once too. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Json, startTestServer, type TestServer } from '../support/server.ts';
import { FIXTURES } from '../support/stack.ts';

const MODEL = 'llama3';
const LENT = ['qv-r4', 'all-r8-rslora', 'pattern-r16'];
const NAMES = [...LENT, 'kg-r5'];

interface SumCase {
  readonly adapters: { readonly name: string; readonly weight: number }[];
  readonly promptIds: number[];
  readonly greedyIds: number[];
}

const sums = (
  JSON.parse(readFileSync(path.join(FIXTURES, 'goldens', 'sums.json'), 'utf8')).cases as SumCase[]
).filter(({ adapters }) => adapters.every(({ name }) => NAMES.includes(name)));

const folderOf = (name: string) =>
  path.join(FIXTURES, LENT.includes(name) ? 'adapters' : 'sums', MODEL, name);

describe('adapters of a request', () => {
  let server: TestServer;
  const generations = new Map<string, string>();
  beforeAll(async () => {
    const modelDir = path.join(FIXTURES, 'models', MODEL);
    server = await startTestServer(['--model', modelDir, '--max-loras', '3']);
    for (const name of NAMES) {
      const { status, body } = await server.upload(name, folderOf(name));
      expect(status).toBe(201);
      generations.set(name, body.generation);
    }
  });
  afterAll(async () => {
    expect(await server?.end()).toBe(0);
  });

  const ask = async (body: object): Promise<{ status: number; body: Json }> =>
    server.call('POST', '/v1/completions', {
      model: MODEL,
      temperature: 0,
      ignore_eos: true,
      max_tokens: 8,
      prompt: [5, 6, 7],
      ...body,
    });
  const idsOf = ({ body }: { body: Json }): number[] => body.choices[0].token_ids;

  it('are summed as PEFT does, evicted and loaded again between, beside all others', async () => {
    expect(sums.map(({ adapters }) => adapters.length)).toEqual([2, 3]);
    for (let round = 0; round < 3; round++) {
      // Four adapters, the base and two sums take turns in three slots.
      const others = NAMES.map((name) => ask({ adapter: name }));
      const answers = await Promise.all(
        sums.map(({ adapters, promptIds, greedyIds }) =>
          ask({
            adapters: round === 1 ? [...adapters].reverse() : adapters,
            prompt: promptIds,
            max_tokens: greedyIds.length,
            return_token_ids: true,
          }),
        ),
      );
      for (const { status } of await Promise.all([...others, ask({})])) expect(status).toBe(200);
      for (const [i, { adapters, greedyIds }] of sums.entries()) {
        expect(answers[i]!.status, JSON.stringify(answers[i]!.body)).toBe(200);
        expect(idsOf(answers[i]!)).toEqual(greedyIds);
        const listed = round === 1 ? [...adapters].reverse() : adapters;
        expect(answers[i]!.body.adapter_generations).toEqual(
          listed.map(({ name, weight }) => ({ name, generation: generations.get(name), weight })),
        );
      }
    }
    expect(await server.metric('loramux_adapter_requests_total{adapter="several"}')).toBe(6);
  });

  it.each([
    [{ adapters: [{ name: 'qv-r4' }, { name: 'nobody' }] }, 404, 'adapter_not_found'],
    [{ adapters: [{ name: 'qv-r4', weight: 1e3 }] }, 400, 'invalid_request'],
    [{ adapters: [{ name: 'qv-r4', weight: null }] }, 400, 'invalid_request'],
    [{ adapters: Array(9).fill({ name: 'qv-r4' }) }, 400, 'invalid_request'],
    [{ adapter: 'qv-r4', adapters: [{ name: 'kg-r5' }] }, 400, 'invalid_request'],
    [{ adapters: NAMES.map((name) => ({ name })) }, 422, 'adapter_never_fits'],
  ])('are refused: %j', async (body, status, code) => {
    const answer = await ask(body);
    expect([answer.status, answer.body.error?.code]).toEqual([status, code]);
  });

  it('answer by digest after the name has moved on, and split names take a side', async () => {
    const first = generations.get('qv-r4')!;
    const one = await ask({ adapter: 'qv-r4', return_token_ids: true });
    await server.upload('moved', folderOf('qv-r4'));
    const { body: next } = await server.upload('moved', folderOf('kg-r5'));
    const kept = await ask({
      model: `${MODEL}:moved`,
      adapter: { generation: first },
      return_token_ids: true,
    });
    expect(kept.body.adapter_generation).toBe(first);
    expect(idsOf(kept)).toEqual(idsOf(one));
    const split = { generation: first, weight: 0.5 };
    expect((await server.call('PUT', '/v1/adapters/moved/split', split)).status).toBe(200);
    const sides = new Set<string>();
    for (let i = 0; i < 16; i++) {
      const body = { adapters: [{ name: 'all-r8-rslora' }, { name: 'moved', weight: 0.5 }] };
      const { status, body: answer } = await ask({ ...body, split_key: `key ${i}` });
      expect(status).toBe(200);
      sides.add(answer.adapter_generations[1].generation);
    }
    expect(sides).toEqual(new Set([first, next.generation]));
  });
});
