/**
 * The clients of `npm run bench -- overhead`, in a process of their own: streams that all decode at
 * once. Tells its parent when all have begun and when the first is about to end.
 */
import http from 'node:http';
import { setPriority } from 'node:os';

export interface OverheadLoad {
  readonly url: string;
  readonly model: string;
  readonly streams: number;
  readonly prompt: number;
  readonly tokens: number;
}

/** What the parent is told, in this order. */
export type OverheadNotice = 'decoding' | 'ending' | 'ended';

/** Tokens at either end of a stream that are not measured. */
const MARGIN = 4;

const load = JSON.parse(process.argv[2]!) as OverheadLoad;
// Clients run elsewhere in life; here they give way to the server they measure.
setPriority(10);

let begun = 0;
let ending = false;
const tell = (notice: OverheadNotice) => process.send!(notice);

function count(tokens: number): void {
  if (tokens === MARGIN && ++begun === load.streams) tell('decoding');
  if (tokens < load.tokens - MARGIN || ending) return;
  ending = true;
  tell('ending');
}

async function stream(index: number): Promise<void> {
  const request = http.request(`${load.url}/v1/completions`, {
    method: 'POST',
    agent: false,
    headers: { 'content-type': 'application/json' },
  });
  request.end(
    JSON.stringify({
      model: load.model,
      prompt: Array.from({ length: load.prompt }, (_, i) => 300 + index * 131 + i * 17),
      max_tokens: load.tokens,
      ignore_eos: true,
      temperature: 0,
      stream: true,
    }),
  );
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    request.once('response', resolve).once('error', reject);
  });
  if (response.statusCode !== 200) throw new Error(`status ${response.statusCode}`);
  let tokens = 0;
  for await (const chunk of response.setEncoding('utf8')) {
    for (let i = String(chunk).split('data: {').length - 1; i > 0; i--) count(++tokens);
  }
}

await Promise.all(Array.from({ length: load.streams }, (_, i) => stream(i)));
tell('ended');
process.disconnect();
