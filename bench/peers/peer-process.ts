/**
 * A peer in a process of its own: one request as a line of JSON on its standard input, one line of
 * JSON back. Lines of its output that are no JSON are its own talk and go to stderr.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

/** Longest wait for an answer; loading a model from a cold disk is slow. */
const ANSWER_MS_MAX = 600_000;

export interface PeerAnswer {
  readonly error?: string;
  readonly [field: string]: unknown;
}

export class PeerProcess {
  readonly #child: ChildProcess;
  #waiting: ((answer: PeerAnswer) => void) | undefined;

  constructor(command: string, args: readonly string[], env: NodeJS.ProcessEnv) {
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 2], env });
    createInterface({ input: this.#child.stdout! }).on('line', (line) => {
      if (line.startsWith('{')) this.#answer(JSON.parse(line) as PeerAnswer);
      else console.error(line);
    });
    // What cannot be written to a process that has ended: its end is the answer.
    this.#child.stdin!.on('error', () => {});
    this.#child.once('error', (error) => this.#answer({ error: error.message }));
    this.#child.once('exit', (code, signal) => {
      this.#answer({ error: `the process ended with ${signal ?? code}` });
    });
  }

  #answer(answer: PeerAnswer): void {
    this.#waiting?.(answer);
    this.#waiting = undefined;
  }

  get #ended(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** @throws Error with the peer's own words */
  async ask(request: Readonly<Record<string, unknown>>): Promise<PeerAnswer> {
    if (this.#ended) throw new Error('the process has ended');
    const answer = new Promise<PeerAnswer>((resolve) => {
      this.#waiting = resolve;
    });
    const timer = setTimeout(
      () => this.#answer({ error: `no answer within ${ANSWER_MS_MAX} ms` }),
      ANSWER_MS_MAX,
    );
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    const result = await answer;
    clearTimeout(timer);
    if (result.error !== undefined) throw new Error(result.error);
    return result;
  }

  async close(): Promise<void> {
    if (this.#ended) return;
    const exited = once(this.#child, 'exit');
    this.#child.stdin!.end();
    await exited;
  }
}
