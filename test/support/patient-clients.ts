/**
 * Requests to servers that give Redis little time: on a busy machine it is missed now and then. Such a
 * server says so, and is asked again; what it says otherwise counts.
 */
import { expect } from 'vitest';
import { type Answer, complete } from './clients.ts';
import { answerOf, type Content, type Contents } from './contents.ts';
import type { TestServer } from './server.ts';
import { until } from './until.ts';

/** Answers to a change that was not made, and to one of which that is not known. */
export const REFUSED = ['registry_unavailable', 'blob_unavailable'];
export const UNKNOWN = 'registry_outcome_unknown';
/** Answers to a request for an adapter whose name or file nobody could be asked about in time. */
const AWAY = ['registry_unavailable', 'blob_unavailable', 'blob_missing'];

export type Made = Pick<Answer, 'status' | 'body'>;

/** Makes a change until it is made, or refused for good. */
export const made = (what: string, make: () => Promise<Made>): Promise<Made> =>
  until(what, make, ({ status, body }) => {
    if (status !== 503) return true;
    expect([...REFUSED, UNKNOWN], JSON.stringify(body)).toContain(body.error.code);
    return false;
  });

/** Uploads a PEFT folder until the server has it. */
export async function uploaded(server: TestServer, name: string, dir: string): Promise<Made> {
  const answer = await made(`${name} is uploaded`, () => server.upload(name, dir));
  expect([200, 201], JSON.stringify(answer.body)).toContain(answer.status);
  return answer;
}

/** Removes a name that is there until it is removed. */
export async function removed(server: TestServer, name: string): Promise<void> {
  // After an unknown outcome it may be gone already.
  const good = new Set([200]);
  const answer = await made(`${name} is removed`, async () => {
    const each = await server.call('DELETE', `/v1/adapters/${name}`);
    if (each.body?.error?.code === UNKNOWN) good.add(404);
    return each;
  });
  expect([...good], JSON.stringify(answer.body)).toContain(answer.status);
}

/** The generation that a name has on a server, with its right answer; undefined for none. */
export async function generationOf(
  server: TestServer,
  name: string,
  contents: Contents,
): Promise<string | undefined> {
  const { status, body } = await until(
    `${name} can be asked for`,
    () => complete(server, name),
    (answer) => {
      if (answer.status !== 503) return true;
      expect(AWAY, JSON.stringify(answer.body)).toContain(answer.body.error.code);
      return false;
    },
  );
  if (status === 404) return undefined;
  expect(status, JSON.stringify(body)).toBe(200);
  expect(answerOf(body)).toBe(contents.byGeneration(body.adapter_generation).answer);
  return body.adapter_generation;
}

/** Asks until `content` answers, or, without one, until the name is gone. */
export const untilGeneration = (
  server: TestServer,
  name: string,
  content: Content | undefined,
  contents: Contents,
): Promise<string | undefined> =>
  until(
    `${name} is ${content?.generation ?? 'gone'}`,
    () => generationOf(server, name, contents),
    (generation) => generation === content?.generation,
  );
