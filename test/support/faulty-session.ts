/** A real native session that fails when a test wants it to. */

import { fromNativeError } from '../../src/native/errors.ts';
import {
  type AdapterImage,
  createNativeSession,
  type NativeSession,
  type StepPacket,
  type StepResult,
} from '../../src/native/index.ts';

export class Faults {
  /** What the next step does instead of its work; it is asked at each step. */
  next: () => 'work' | 'fail' | 'memory' | 'hang' = () => 'work';
  /** Sessions opened so far, and those of them that are closed. */
  opened = 0;
  closed = 0;
  /** The next session is opened when it resolves. */
  gate: Promise<void> = Promise.resolve();

  /** For the `openSession` of `createServer`. */
  readonly open: typeof createNativeSession = async (options) => {
    await this.gate;
    const session = await createNativeSession(options);
    this.opened += 1;
    return new FaultySession(session, this);
  };
}

class FaultySession implements NativeSession {
  readonly #session: NativeSession;
  readonly #faults: Faults;

  constructor(session: NativeSession, faults: Faults) {
    this.#session = session;
    this.#faults = faults;
  }

  get info() {
    return this.#session.info;
  }

  async step(packet: StepPacket, wantLogits?: boolean): Promise<StepResult> {
    const what = this.#faults.next();
    if (what === 'hang') return new Promise(() => {});
    const result = await this.#session.step(packet, wantLogits);
    if (what === 'work') return result;
    const code = what === 'memory' ? 'native_out_of_memory' : 'native_step_failed';
    throw fromNativeError(Object.assign(new Error(`made to ${what}`), { code }), 'The step');
  }

  loadAdapter(slot: number, image: AdapterImage) {
    return this.#session.loadAdapter(slot, image);
  }

  freeAdapter(slot: number): void {
    this.#session.freeAdapter(slot);
  }

  async close(hurried?: boolean): Promise<void> {
    await this.#session.close(hurried);
    this.#faults.closed += 1;
  }
}
