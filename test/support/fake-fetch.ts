/** A fetch that answers from a list and remembers what it was asked. */

export interface Asked {
  readonly method: string;
  readonly url: string;
  readonly headers: Headers;
  readonly body: unknown;
}

export type Answer = Response | Error | ((signal: AbortSignal | null) => Promise<Response>);

/** Each call takes the next answer; one call more is an error of the test. */
export function fakeFetch(answers: Answer[]): { fetch: typeof fetch; asked: Asked[] } {
  const asked: Asked[] = [];
  return {
    asked,
    fetch: async (url, init = {}) => {
      asked.push({
        method: init.method ?? 'GET',
        url: String(url),
        headers: new Headers(init.headers),
        body: init.body,
      });
      const answer = answers.shift();
      if (answer === undefined) throw new Error('no answer is left');
      if (answer instanceof Error) throw answer;
      return typeof answer === 'function' ? answer(init.signal ?? null) : answer;
    },
  };
}

export const json = (value: unknown, status = 200, headers: Record<string, string> = {}) =>
  new Response(JSON.stringify(value), {
    status,
    headers: { 'content-type': 'application/json; charset=utf-8', ...headers },
  });

export const refusal = (status: number, code: string, headers: Record<string, string> = {}) =>
  json(
    { error: { message: `it is ${code}`, type: 'server_error', param: null, code } },
    status,
    headers,
  );

/** An event stream in the pieces given; it ends after the last one, or breaks with `error`. */
export function events(pieces: readonly string[], error?: Error): Response {
  const encoder = new TextEncoder();
  const waiting = [...pieces];
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const piece = waiting.shift();
      if (piece !== undefined) controller.enqueue(encoder.encode(piece));
      else if (error !== undefined) controller.error(error);
      else controller.close();
    },
  });
  return new Response(body, { headers: { 'content-type': 'text/event-stream; charset=utf-8' } });
}
