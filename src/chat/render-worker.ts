/** Entry of a rendering thread: one chat at a time, in the order of the messages. */
import { parentPort, workerData } from 'node:worker_threads';
import { OutOfWork } from '../jinja/run.ts';
import { COMPUTE_NICENESS, giveWay } from '../threads/give-way.ts';
import { type PackedError, packError } from '../threads/packed-error.ts';
import { type Rendering, type RenderSetup, render, tooMuch } from './rendering.ts';
import { type CompiledTemplate, compileTemplate } from './template.ts';

/** What the thread says. */
export type FromRenderer =
  | { readonly kind: 'ready' }
  | { readonly kind: 'rendered'; readonly text: string }
  | { readonly kind: 'refused'; readonly error: PackedError };

/** Compiled templates that are remembered: characters of all of them. */
const REMEMBERED_LENGTH_MAX = 1_048_576;

if (parentPort === null) throw new Error('render-worker.ts runs in a worker thread only');
const port = parentPort;
const setup = workerData as RenderSetup;
const tell = (message: FromRenderer) => port.postMessage(message);

/** By their sources, least recently used first. */
const compiled = new Map<string, CompiledTemplate>();
let numCharacters = 0;

function templateOf(source: string): CompiledTemplate {
  const known = compiled.get(source);
  const template = known ?? compileTemplate(source);
  compiled.delete(source);
  compiled.set(source, template);
  if (known === undefined) numCharacters += source.length;
  for (const [oldest] of compiled) {
    if (numCharacters <= REMEMBERED_LENGTH_MAX) break;
    compiled.delete(oldest);
    numCharacters -= oldest.length;
  }
  return template;
}

giveWay(COMPUTE_NICENESS);
port.on('message', (rendering: Rendering) => {
  try {
    tell({ kind: 'rendered', text: render(templateOf(rendering.source), rendering, setup) });
  } catch (error) {
    const refusal = error instanceof OutOfWork ? tooMuch(error.message, error) : error;
    tell({ kind: 'refused', error: packError(refusal) });
  }
});
tell({ kind: 'ready' });
