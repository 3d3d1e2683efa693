import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { LoramuxError } from '../../../src/errors.ts';
import type { AdapterImage, StepPacket } from '../../../src/native/index.ts';
import {
  ABANDONED_SESSIONS_MAX,
  CLOSE_MS_MAX,
  RESTART_PAUSE_MS,
  RESTART_PAUSE_MS_MAX,
  RESTART_WINDOW_MS,
  SupervisedSession,
  type SupervisorOptions,
} from '../../../src/native/supervised-session.ts';
import { FakeSessions } from '../../support/fake-sessions.ts';

const STEP_MS = 800;
const packet = {} as StepPacket;
const image = {} as AdapterImage;
const fault = new LoramuxError('engine_failed', 'The session is broken.');

async function start(options: Partial<SupervisorOptions> = {}) {
  const sessions = new FakeSessions();
  const warnings: string[] = [];
  const notices: string[] = [];
  const supervised = await SupervisedSession.start(sessions.open, {
    stepTimeoutMs: STEP_MS,
    maxRestarts: 3,
    onWarning: (message) => warnings.push(message),
    onNotice: (message) => notices.push(message),
    ...options,
  });
  return { sessions, supervised, warnings, notices };
}

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: unknown) => (error as LoramuxError).code,
  );

/** Lets an abandoned session be. */
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

describe('a session that is replaced', () => {
  it('is closed in a hurry before the next one is opened', async () => {
    const { sessions, supervised, warnings, notices } = await start();
    sessions.opened[0]!.stuck = true;
    const restarted = supervised.restart(fault);
    await pass(1);
    expect(sessions.opened[0]).toMatchObject({ closes: 1, hurried: true });
    expect(sessions.attempts).toBe(1);
    expect(supervised.report()).toMatchObject({ state: 'restarting', lastError: fault.message });
    sessions.opened[0]!.endClose();
    await restarted;
    expect(sessions.attempts).toBe(2);
    expect(supervised.report()).toMatchObject({ state: 'ok', restarts: 1 });
    expect(supervised.info.loadMs).toBe(1);
    expect(warnings).toEqual(['the native session is at fault']);
    expect(notices[0]).toMatch(/restarted in \d+ ms/);
    const step = supervised.step(packet);
    sessions.opened[1]!.endStep(undefined);
    await step;
    await supervised.close();
    expect(sessions.opened.map(({ closes }) => closes)).toEqual([1, 1]);
  });

  it('takes no step meanwhile; loads wait for the next one, frees have nothing to do', async () => {
    const { sessions, supervised } = await start();
    await supervised.loadAdapter(3, image);
    const restarted = supervised.restart(fault);
    expect(await codeOf(supervised.step(packet))).toBe('session_restarting');
    const load = supervised.loadAdapter(0, image);
    supervised.freeAdapter(3);
    await Promise.all([restarted, load]);
    expect(sessions.opened.map(({ loads }) => loads)).toEqual([[3], [0]]);
    supervised.freeAdapter(0);
    expect(sessions.opened.map(({ frees }) => frees)).toEqual([[], [0]]);
  });

  it('is opened again after failures, later each time, up to the limit', async () => {
    const { sessions, supervised } = await start({ maxRestarts: 3 });
    sessions.failures.push(new Error('no memory'), new Error('no memory'));
    const restarted = supervised.restart(fault);
    await pass(0);
    expect(sessions.attempts).toBe(2);
    await pass(RESTART_PAUSE_MS - 1);
    expect(sessions.attempts).toBe(2);
    await pass(1);
    expect(sessions.attempts).toBe(3);
    await pass(2 * RESTART_PAUSE_MS);
    await restarted;
    expect(supervised.report()).toMatchObject({ state: 'ok', restarts: 1 });

    const again = codeOf(supervised.restart(fault));
    const load = codeOf(supervised.loadAdapter(0, image));
    expect(await again).toBe('engine_failed');
    expect(await load).toBe('engine_failed');
    expect(supervised.report().state).toBe('failed');
    expect(supervised.report().lastError).toMatch(/after 3 restarts within 10 minutes/);
    expect(sessions.opened.map(({ closes }) => closes)).toEqual([1, 1]);
    await supervised.close();
  });

  it('may be restarted again when the window has passed', async () => {
    const { supervised } = await start({ maxRestarts: 1 });
    await supervised.restart(fault);
    await pass(RESTART_WINDOW_MS + 1);
    await supervised.restart(fault);
    expect(supervised.report()).toMatchObject({ state: 'ok', restarts: 2 });
  });

  it('never waits longer than the longest pause', async () => {
    const { sessions, supervised } = await start({ maxRestarts: 40 });
    sessions.failures.push(...Array.from({ length: 12 }, () => new Error('no memory')));
    const restarted = supervised.restart(fault);
    await pass(8 * RESTART_PAUSE_MS_MAX);
    const { attempts } = sessions;
    await pass(RESTART_PAUSE_MS_MAX);
    expect(sessions.attempts).toBe(attempts + 1);
    await pass(8 * RESTART_PAUSE_MS_MAX);
    await restarted;
  });
});

describe('a step that does not come back', () => {
  it('is given up, its session cancelled, and what comes late changes nothing', async () => {
    const { sessions, supervised } = await start();
    const step = supervised.step(packet).catch((error: unknown) => error);
    await pass(STEP_MS);
    await pass(STEP_MS / 4);
    const error = (await step) as LoramuxError;
    expect(error.message).toMatch(/within 800 ms/);
    expect(supervised.isAtFault(error)).toBe(true);
    await supervised.restart(error);
    expect(sessions.opened[0]!.hurried).toBe(true);
    sessions.opened[0]!.endStep(undefined);
    const next = supervised.step(packet);
    await pass(STEP_MS / 2);
    sessions.opened[1]!.endStep(undefined);
    await next;
    expect(supervised.abandoned).toBe(0);
  });

  it('does not count the time of steps before it', async () => {
    const { sessions, supervised } = await start();
    for (let i = 0; i < 20; i++) {
      const step = supervised.step(packet);
      await pass(STEP_MS / 4);
      sessions.opened[0]!.endStep(undefined);
      await step;
    }
    expect(vi.getTimerCount()).toBe(1);
    await pass(STEP_MS);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('is abandoned when it cannot be cancelled, until it comes back after all', async () => {
    const { sessions, supervised, warnings } = await start();
    sessions.opened[0]!.stuck = true;
    const restarted = supervised.restart(fault);
    await pass(Math.min(CLOSE_MS_MAX, STEP_MS));
    await restarted;
    expect(supervised.abandoned).toBe(1);
    expect(warnings[1]).toMatch(/abandoned/);
    sessions.opened[0]!.endClose();
    await pass(0);
    expect(supervised.abandoned).toBe(0);
  });

  it('ends the server when too many were abandoned', async () => {
    const { sessions, supervised } = await start({ maxRestarts: 100 });
    for (let i = 0; i <= ABANDONED_SESSIONS_MAX; i++) {
      sessions.opened[i]!.stuck = true;
      const restarted = codeOf(supervised.restart(fault));
      await pass(STEP_MS + RESTART_PAUSE_MS);
      expect(await restarted).toBe(i < ABANDONED_SESSIONS_MAX ? undefined : 'engine_failed');
    }
    expect((await supervised.hopeless).message).toMatch(/2 native sessions do not come back/);
    await supervised.close();
    expect(supervised.abandoned).toBe(2);
  });

  it('is left behind by a close', async () => {
    const { sessions, supervised } = await start();
    sessions.opened[0]!.stuck = true;
    const step = codeOf(supervised.step(packet));
    await pass(2 * STEP_MS);
    expect(await step).toBe('engine_failed');
    const closed = supervised.close();
    await pass(STEP_MS);
    await closed;
    expect(supervised.abandoned).toBe(1);
  });
});

describe('what puts a session at fault', () => {
  it('is a lack of memory or a closed session, not one failed step or a bad packet', async () => {
    const { supervised } = await start();
    const native = (code: string) =>
      new LoramuxError('engine_failed', 'x', { cause: Object.assign(new Error('x'), { code }) });
    expect(supervised.isAtFault(native('native_out_of_memory'))).toBe(true);
    expect(supervised.isAtFault(native('native_session_closed'))).toBe(true);
    expect(supervised.isAtFault(native('native_step_failed'))).toBe(false);
    expect(supervised.isAtFault(native('native_invalid_argument'))).toBe(false);
    expect(supervised.isAtFault(new Error('x'))).toBe(false);
  });
});

describe('a close during a restart', () => {
  it('cuts the pause short and tells who waits', async () => {
    const { sessions, supervised } = await start();
    sessions.failures.push(new Error('no memory'));
    const restarted = codeOf(supervised.restart(fault));
    const load = codeOf(supervised.loadAdapter(0, image));
    await pass(0);
    supervised.stop();
    expect(await load).toBe('shutting_down');
    expect(await restarted).toBe('shutting_down');
    await supervised.close();
    expect(sessions.opened).toHaveLength(1);
  });

  it('closes a session that was just being opened', async () => {
    const { sessions, supervised } = await start();
    let open: () => void = () => {};
    sessions.gate = new Promise((resolve) => {
      open = resolve;
    });
    const restarted = supervised.restart(fault);
    await pass(0);
    const closed = supervised.close();
    open();
    await Promise.all([closed, restarted]);
    expect(sessions.opened.map(({ closes }) => closes)).toEqual([1, 1]);
  });

  it('may come twice', async () => {
    const { sessions, supervised } = await start();
    await Promise.all([supervised.close(), supervised.close()]);
    expect(sessions.opened[0]!.closes).toBe(1);
  });
});
