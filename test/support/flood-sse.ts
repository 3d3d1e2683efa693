/** One streamed completion of the flood. */
import http from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import { type Flood, RETRY_MS, Stream, stopReading } from './flood-stream.ts';

const agent = new http.Agent({ keepAlive: true, maxFreeSockets: 4096 });

/** The answer; 'idle' when the server had closed the idle connection that was used again, or 'cut'. */
function post(url: string, body: object): Promise<http.IncomingMessage | 'idle' | 'cut'> {
  return new Promise((resolve) => {
    const request = http.request(`${url}/v1/completions`, {
      method: 'POST',
      agent,
      headers: { 'content-type': 'application/json' },
    });
    request.once('response', resolve);
    request.on('error', () => resolve(request.reusedSocket ? 'idle' : 'cut'));
    request.end(JSON.stringify(body));
  });
}

async function textOf(response: http.IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += chunk;
  return text;
}

interface Chunk {
  readonly error?: { code: string };
  readonly choices: readonly { text: string; finish_reason: string | null }[];
}

/** One stream, asked again while the server is full. */
export async function sseStream(flood: Flood): Promise<void> {
  const { report, random, options } = flood;
  const reader = flood.reader();
  const question = flood.question(reader === 'stops');
  for (;;) {
    const stream = new Stream(flood, question);
    const response = await post(options.url, { ...question.body, stream: true });
    if (response === 'cut') {
      report.cut += 1;
      return;
    }
    if (response === 'idle') {
      report.started -= 1;
      report.idleClosed += 1;
      continue;
    }
    if (response.statusCode === 200) {
      await read(response, stream);
      return;
    }
    const { error } = JSON.parse(await textOf(response)) as { error: { code: string } };
    stream.failed(error.code);
    if (error.code !== 'queue_full') return;
    report.started -= 1;
    await pause(RETRY_MS * (1 + random.next()));
  }

  async function read(response: http.IncomingMessage, stream: Stream): Promise<void> {
    const leaveAt = reader === 'vanishes' ? random.int(1, options.tokens) : -1;
    let stopsAt = reader === 'stops' ? random.int(1, 20) : -1;
    let pending = '';
    let finished = false;
    let done = false;
    try {
      for await (const text of response.setEncoding('utf8')) {
        const parts = (pending + text).split('\n\n');
        pending = parts.pop()!;
        for (const part of parts) {
          if (!part.startsWith('data: ')) continue;
          if (part === 'data: [DONE]') {
            done = true;
            continue;
          }
          const { error, choices } = JSON.parse(part.slice('data: '.length)) as Chunk;
          if (error !== undefined) {
            finished = true;
            stream.failed(error.code);
            continue;
          }
          const [choice] = choices;
          if (choice!.finish_reason === null) stream.token(choice!.text, undefined);
          else {
            finished = true;
            stream.finished();
          }
        }
        if (leaveAt >= 0 && stream.count >= leaveAt && !finished) {
          report.vanished += 1;
          response.destroy();
          return;
        }
        if (reader === 'slow') await pause(random.int(1, 20));
        if (stopsAt >= 0 && stream.count >= stopsAt) {
          stopsAt = -1;
          await stopReading(flood);
        }
      }
    } catch {
      // The connection broke: told below.
    }
    if (!finished || !done) report.cut += 1;
  }
}
