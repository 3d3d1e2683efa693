/** What a run of Schemathesis asked and was answered, from its NDJSON report. */
import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Said } from './contract.ts';

export interface Answered extends Said {
  /** `POST /v1/adapters/{name}/load` */
  readonly operation: string;
  /** The request was made to be as its schema says. */
  readonly isValid: boolean;
}

interface Recorder {
  readonly cases?: Record<
    string,
    {
      value: {
        method: string;
        path: string;
        meta?: { generation: { mode: 'positive' | 'negative' } };
      };
    }
  >;
  readonly interactions: Record<
    string,
    {
      request: { method: string; uri: string };
      response: null | {
        status_code: number;
        headers: Record<string, string[]>;
        content: null | { $base64: string };
      };
    }
  >;
}

const answersOf = ({ cases = {}, interactions }: Recorder): Answered[] =>
  Object.entries(cases).flatMap(([id, { value }]) => {
    const { request, response = null } = interactions[id] ?? {};
    if (request === undefined || response === null) return [];
    const { pathname, search } = new URL(request.uri);
    return {
      operation: `${value.method} ${value.path}`,
      isValid: value.meta?.generation.mode === 'positive',
      method: request.method,
      path: pathname + search,
      status: response.status_code,
      headers: new Headers(
        Object.entries(response.headers).map(([name, [first]]) => [name, first!]),
      ),
      text: Buffer.from(response.content?.$base64 ?? '', 'base64').toString(),
    };
  });

export async function answeredIn(report: string): Promise<Answered[]> {
  const answers: Answered[] = [];
  for await (const line of createInterface({ input: createReadStream(report) })) {
    const { ScenarioFinished } = JSON.parse(line) as { ScenarioFinished?: { recorder: Recorder } };
    if (ScenarioFinished !== undefined) answers.push(...answersOf(ScenarioFinished.recorder));
  }
  return answers;
}
