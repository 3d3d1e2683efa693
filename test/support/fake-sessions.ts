/** Native sessions that do what a test says, and what opens them. */
import type {
  AdapterImage,
  NativeSession,
  NativeSessionInfo,
  StepPacket,
  StepResult,
} from '../../src/native/index.ts';

export class FakeSession implements NativeSession {
  readonly info: NativeSessionInfo;
  readonly loads: number[] = [];
  readonly frees: number[] = [];
  closes = 0;
  hurried = false;
  /** Ends the step in flight. */
  endStep: (outcome: Error | undefined) => void = () => {};
  /** Ends the close. */
  endClose: () => void = () => {};
  /** `close` waits for `endClose`. */
  stuck = false;

  constructor(loadMs: number) {
    this.info = { ortVersion: '1', isa: 'scalar', kvBytes: 1, loadMs };
  }

  step(_packet: StepPacket): Promise<StepResult> {
    return new Promise((resolve, reject) => {
      this.endStep = (error) => {
        if (error === undefined) resolve({} as StepResult);
        else reject(error);
      };
    });
  }

  async loadAdapter(slot: number, _image: AdapterImage) {
    this.loads.push(slot);
    return { bytes: 1, loadMs: 1 };
  }

  freeAdapter(slot: number): void {
    this.frees.push(slot);
  }

  close(hurried = false): Promise<void> {
    this.closes += 1;
    this.hurried = hurried;
    if (!this.stuck) return Promise.resolve();
    return new Promise((resolve) => {
      this.endClose = resolve;
    });
  }
}

/** Opens sessions one after the other; `failures` come first. */
export class FakeSessions {
  readonly opened: FakeSession[] = [];
  readonly failures: Error[] = [];
  attempts = 0;
  /** An open waits for it. */
  gate: Promise<void> = Promise.resolve();

  readonly open = async (): Promise<FakeSession> => {
    this.attempts += 1;
    await this.gate;
    const failure = this.failures.shift();
    if (failure !== undefined) throw failure;
    const session = new FakeSession(this.opened.length);
    this.opened.push(session);
    return session;
  };
}
