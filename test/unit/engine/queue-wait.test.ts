/** `onScheduled`: how long a request waited for the first step that computes it. */
import { describe, expect, it } from 'vitest';
import type { RequestListener } from '../../../src/engine/types.ts';
import {
  createHarness,
  engineRequest,
  generation,
  type RequestSpec,
} from '../../support/engine-harness.ts';

/** An engine on a clock that the test sets, with everything its requests hear, in order. */
function clocked(maxSequences: number, maxTokensPerStep = 32) {
  let ms = 0;
  const heard: string[] = [];
  const harness = createHarness({
    engine: { maxSequences, maxTokensPerStep, nowMs: () => ms },
  });
  const submit = (id: string, spec: Omit<RequestSpec, 'id'>) => {
    const hooks: Partial<RequestListener> = {
      onScheduled: (waitMs) => {
        heard.push(`${id} waited ${waitMs}`);
      },
      onToken: ({ index }) => {
        heard.push(`${id} token ${index}`);
        // Time passes from step to step.
        ms += 10;
      },
      onFinish: ({ reason }) => {
        heard.push(`${id} ${reason}`);
      },
    };
    return harness.submit({ id, ...spec }, hooks);
  };
  return { ...harness, submit, heard };
}

describe('onScheduled', () => {
  it('comes once, before the tokens, with the time from submit to the first plan', async () => {
    const { submit, engine, heard } = clocked(1);
    submit('a', { prompt: [1], sampling: { maxTokens: 2 } });
    submit('b', { prompt: [1], sampling: { maxTokens: 1 } });
    await engine.idle();
    expect(heard.slice(0, 2)).toEqual(['a waited 0', 'a token 0']);
    const waited = heard.filter((line) => line.startsWith('b waited'));
    expect(waited).toHaveLength(1);
    expect(Number(waited[0]!.split(' ')[2])).toBeGreaterThanOrEqual(10);
    expect(heard.at(-3)).toBe(waited[0]);
  });

  it('comes with the first part of a prompt, and once for all choices', async () => {
    const { submit, engine, heard } = clocked(4, 4);
    submit('a', { prompt: [1, 2, 3, 4, 5, 6, 7, 8, 9], n: 2, sampling: { maxTokens: 1 } });
    await engine.idle();
    expect(heard.filter((line) => line.includes('waited'))).toEqual(['a waited 0']);
    expect(heard[0]).toBe('a waited 0');
  });

  it('counts the time that the adapter took to load', async () => {
    let ms = 0;
    const waits = new Map<string, number>();
    // The clock counts how often it is read: at every submit and every plan.
    const { submit, engine } = createHarness({ engine: { nowMs: () => ms++ } });
    const hooks = (id: string) => ({ onScheduled: (waitMs: number) => void waits.set(id, waitMs) });
    const sampling = { maxTokens: 3 };
    submit({ prompt: [1], adapter: generation('cold'), sampling }, hooks('cold'));
    submit({ prompt: [1], sampling }, hooks('base'));
    await engine.idle();
    expect(waits.get('base')).toBe(1);
    expect(waits.get('cold')).toBeGreaterThan(2);
  });

  it('does not come for a request that ends before it runs', async () => {
    const { submit, engine, heard } = clocked(1);
    submit('a', { prompt: [1], sampling: { maxTokens: 1 } });
    submit('b', { prompt: [1], sampling: { maxTokens: 1 } }).handle.cancel();
    await engine.idle();
    expect(heard.filter((line) => line.startsWith('b'))).toEqual(['b cancelled']);
  });

  it('need not be listened to', async () => {
    const { engine } = createHarness();
    let finished = 0;
    engine.submit(engineRequest({ prompt: [1], sampling: { maxTokens: 1 } }, 'a'), {
      onToken() {},
      onFinish() {
        finished += 1;
      },
    });
    await engine.idle();
    expect(finished).toBe(1);
  });
});
