import { describe, expect, it, vi } from 'vitest';
import { LoramuxError } from '../../../src/errors.ts';
import type { GenerationRequest, Prompt } from '../../../src/generation/types.ts';
import { FakeEngine, repeating, type Script } from '../../support/fake-engine.ts';
import { codes, drain, EOS, harness, record, textOf } from './support.ts';

const sampling = (partial: Partial<GenerationRequest['sampling']>) =>
  partial as GenerationRequest['sampling'];
const byName = (name: string) => ({ kind: 'one', ref: { by: 'name', name }, weight: 1 }) as const;
const saying = (text: string): Script => repeating([...codes(text), EOS]);

describe('generation', () => {
  it('ends with stop at the end-of-sequence token, which has no text but is counted', async () => {
    const h = harness(new FakeEngine({ script: saying('hello') }));
    const generation = await h.start({});
    const events = await drain(generation);
    expect(textOf(events)).toBe('hello');
    expect(events.at(-1)).toEqual({
      type: 'finish',
      index: 0,
      text: '',
      reason: 'stop',
      stopReason: EOS,
    });
    expect(generation.usage()).toEqual({ promptTokens: 1, completionTokens: 6, cachedTokens: 0 });
    expect(h.outcomes).toEqual(['stop']);
  });

  it('renders a chat for the generation that answers', async () => {
    let moves = 0;
    const recordOf = (name: string) => {
      const generation = { digest: `g${Math.min(moves++, 2)}`, rank: 8, residentBytes: 1 };
      return { ...record(name), generation };
    };
    const h = harness(new FakeEngine({ script: saying('x') }), {}, recordOf);
    const chat: Prompt = {
      kind: 'chat',
      render: async (adapter) => `${adapter?.generation.digest}:`,
      addSpecialTokens: false,
    };
    const generation = await h.start({ model: 'adapter-a', prompts: [chat], echo: true });
    expect(generation.adapters[0]?.record.generation.digest).toBe('g2');
    expect(textOf(await drain(generation))).toBe('g2:x');
    expect(h.held.count).toBe(0);
  });

  it('gives up a chat whose adapter never stands still', async () => {
    let moves = 0;
    const recordOf = (name: string) => ({
      ...record(name),
      generation: { digest: `g${moves++}`, rank: 8, residentBytes: 1 },
    });
    const h = harness(new FakeEngine({ script: saying('x') }), {}, recordOf);
    const chat: Prompt = { kind: 'chat', render: async () => 'a', addSpecialTokens: false };
    await expect(h.start({ model: 'adapter-a', prompts: [chat] })).rejects.toMatchObject({
      code: 'registry_conflict',
    });
    expect(h.held.count).toBe(0);
  });

  it('ends with length at max_tokens', async () => {
    const h = harness(new FakeEngine({ script: saying('hello') }));
    const events = await h.run({ sampling: sampling({ maxTokens: 3 }) });
    expect(textOf(events)).toBe('hel');
    expect(events.at(-1)).toMatchObject({ type: 'finish', reason: 'length' });
  });

  it('stops at a stop string across tokens and tells the engine', async () => {
    const h = harness(new FakeEngine({ script: repeating(codes('one two ')) }));
    const events = await h.run({ stop: ['e t'], sampling: sampling({ maxTokens: 100 }) });
    expect(textOf(events)).toBe('on');
    expect(events.at(-1)).toMatchObject({ type: 'finish', reason: 'stop', stopReason: 'e t' });
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    expect(h.engine.numLive).toBe(0);
  });

  it('keeps the stop string when asked', async () => {
    const h = harness(new FakeEngine({ script: repeating(codes('one two ')) }));
    const events = await h.run({ stop: ['e t'], includeStopInOutput: true });
    expect(textOf(events)).toBe('one t');
  });

  it('does not honour stop strings before min_tokens', async () => {
    const h = harness(new FakeEngine({ script: repeating(codes('ab')) }));
    const events = await h.run({
      stop: ['b'],
      sampling: sampling({ minTokens: 3, maxTokens: 9 }),
    });
    expect(textOf(events)).toBe('aba');
  });

  it('gives back held text when the length ends it', async () => {
    const h = harness(new FakeEngine({ script: repeating(codes('ab')) }));
    const events = await h.run({ stop: ['abX'], sampling: sampling({ maxTokens: 4 }) });
    expect(textOf(events)).toBe('abab');
  });

  it('leaves a stop token out of the text unless asked for it', async () => {
    const h = harness(new FakeEngine({ script: repeating(codes('abc')) }));
    const stopTokenIds = codes('c');
    expect(textOf(await h.run({ stopTokenIds }))).toBe('ab');
    expect(textOf(await h.run({ stopTokenIds, includeStopInOutput: true }))).toBe('abc');
  });

  it('lets ignore_eos pass the end-of-sequence token', async () => {
    const h = harness(new FakeEngine({ script: saying('hi') }));
    const events = await h.run({ ignoreEos: true, sampling: sampling({ maxTokens: 5 }) });
    expect(textOf(events)).toBe('hihi');
    expect(events.filter((e) => e.type === 'token')).toHaveLength(5);
  });

  it('numbers the choices of several prompts', async () => {
    const script: Script = (r, index, position) =>
      position === 0 ? r.promptTokenIds[0]! + index : EOS;
    const h = harness(new FakeEngine({ script }));
    const prompts = [
      { kind: 'text', text: 'A' },
      { kind: 'tokens', tokenIds: Int32Array.of(70) },
    ] as const;
    const generation = await h.start({ prompts, n: 2 });
    const events = await drain(generation);
    expect([0, 1, 2, 3].map((i) => textOf(events, i))).toEqual(['A', 'B', 'F', 'G']);
    expect(generation.usage().promptTokens).toBe(2);
  });

  it('echoes the prompt with its log-probabilities and offsets', async () => {
    const h = harness(new FakeEngine({ script: saying('xy') }));
    const events = await h.run({
      prompts: [{ kind: 'text', text: 'ab' }],
      echo: true,
      sampling: sampling({ logprobs: 2 }),
    });
    const [echo, first] = events;
    expect(echo).toMatchObject({ type: 'echo', text: 'ab' });
    if (echo?.type !== 'echo' || first?.type !== 'token') throw new Error('unexpected order');
    expect(echo.logprobs?.map((l) => [l.token, l.logprob, l.textOffset])).toEqual([
      ['a', null, 0],
      ['b', -0.5, 1],
    ]);
    expect(first.logprobs).toMatchObject({ token: 'x', textOffset: 2 });
    expect(first.logprobs?.top).toHaveLength(2);
    expect(textOf(events)).toBe('abxy');
  });

  it.each([undefined, 5])(
    'does not take long echoed prompts for a slow reader (logprobs %s)',
    async (logprobs) => {
      const h = harness(new FakeEngine({ script: saying('xy') }), { streamBufferBytes: 4096 });
      const text = 'a long prompt '.repeat(100);
      const generation = await h.start({
        model: 'adapter-a',
        prompts: [
          { kind: 'text', text },
          { kind: 'text', text },
        ],
        n: 2,
        echo: true,
        sampling: sampling({ logprobs }),
      });
      const events = await drain(generation);
      for (let i = 0; i < 4; i++) expect(textOf(events, i)).toBe(`${text}xy`);
      expect(h.outcomes).toEqual(['stop']);
      expect(h.held.count).toBe(0);
    },
  );

  it('submits nothing more once its buffer is full', async () => {
    const h = harness(new FakeEngine({ script: saying('xy') }), { streamBufferBytes: 100 });
    const generation = await h.start({ model: 'adapter-a', n: 3, echo: true });
    const events = await drain(generation);
    expect(events).toMatchObject([{ type: 'error', error: { code: 'slow_reader' } }]);
    expect(h.engine.submitted).toEqual([]);
    expect(h.held.count).toBe(0);
  });

  it('scores a prompt without generating when max_tokens is 0', async () => {
    const h = harness(new FakeEngine({ script: saying('xy') }));
    const generation = await h.start({
      echo: true,
      sampling: sampling({ logprobs: 1, maxTokens: 0 }),
    });
    const events = await drain(generation);
    expect(textOf(events)).toBe('Q');
    expect(events.at(-1)).toMatchObject({ type: 'finish', reason: 'length' });
    expect(generation.usage().completionTokens).toBe(0);
  });

  it('draws a seed when none is given and passes a given one', async () => {
    const h = harness(new FakeEngine({ script: saying('x') }));
    await h.run({});
    await h.run({});
    await h.run({ sampling: sampling({ seed: 7n }) });
    const seeds = h.engine.submitted.map((r) => r.sampling.seed);
    expect(seeds[0]).not.toBe(seeds[1]);
    expect(seeds[2]).toBe(7n);
  });
});

describe('generation: refusals', () => {
  const engine = () => new FakeEngine({ script: saying('x'), maxModelLen: 20 });

  it.each([
    ['an unknown model', { model: 'nobody' }, 'model_not_found', 'model'],
    ['an unknown adapter', { adapter: byName('nobody') }, 'adapter_not_found', 'adapter'],
    [
      'a model beside an adapter',
      { model: 'x', adapter: byName('adapter-a') },
      'model_not_found',
      'model',
    ],
    ['an empty prompt', { prompts: [{ kind: 'text', text: '' }] }, 'prompt_empty', 'prompt'],
    [
      'a token id outside the vocabulary',
      { prompts: [{ kind: 'tokens', tokenIds: Int32Array.of(256) }] },
      'token_out_of_range',
      'prompt',
    ],
    [
      'a text beyond the vocabulary of the model',
      { prompts: [{ kind: 'text', text: '你' }] },
      'token_out_of_range',
      'prompt',
    ],
    ['stop tokens out of range', { stopTokenIds: [-1] }, 'token_out_of_range', 'stop_token_ids'],
    [
      'a biased token out of range',
      { sampling: sampling({ logitBias: new Map([[300, 1]]) }) },
      'token_out_of_range',
      'logit_bias',
    ],
    [
      'a prompt and output longer than the context',
      { prompts: [{ kind: 'text', text: 'hello' }] },
      'context_length_exceeded',
      'prompt',
    ],
    ['too many choices', { n: 9 }, 'invalid_request', 'n'],
  ] as const)('%s', async (_what, partial, code, param) => {
    const h = harness(engine());
    await expect(h.start(partial as Partial<GenerationRequest>)).rejects.toMatchObject({
      code,
      param,
    });
    expect(h.engine.submitted).toHaveLength(0);
    expect(h.held.count).toBe(0);
  });

  it('withdraws the prompts before the one the engine refuses', async () => {
    const fake = new FakeEngine({ script: () => undefined, maxQueuedRequests: 1 });
    const h = harness(fake);
    const prompts = [
      { kind: 'text', text: 'a' },
      { kind: 'text', text: 'b' },
    ] as const;
    await expect(h.start({ model: 'adapter-a', prompts })).rejects.toMatchObject({
      code: 'queue_full',
    });
    await new Promise(setImmediate);
    expect(fake.numLive).toBe(0);
    expect(h.held.count).toBe(0);
    expect(h.outcomes).toEqual(['error']);
  });
});

describe('generation: ends', () => {
  it('prefetches the adapter that a request names before its prompt is encoded', async () => {
    const h = harness(new FakeEngine({ script: repeating(codes('a')), manual: true }));
    const starting = h.start({ model: 'adapter-a' });
    expect(h.prefetched).toHaveLength(1);
    expect(h.engine.submitted).toEqual([]);
    const generation = await starting;
    expect(h.prefetched).toEqual([generation.adapters[0]?.record.generation.digest]);
    await h.start({});
    expect(h.prefetched).toHaveLength(1);
    generation.cancel();
    h.engine.step();
  });

  it('holds the adapter until the engine is done with it', async () => {
    const h = harness(new FakeEngine({ script: repeating(codes('a')), manual: true }));
    const generation = await h.start({ model: 'adapter-a' });
    expect(generation.adapters[0]?.record.name).toBe('adapter-a');
    expect(h.engine.submitted[0]?.adapters[0]?.generation.digest).toBe(
      generation.adapters[0]?.record.generation.digest,
    );
    generation.cancel();
    expect(h.held.count).toBe(1);
    h.engine.step();
    expect(h.held.count).toBe(0);
  });

  it('cancels by signal, also one that fired during encoding', async () => {
    const h = harness(new FakeEngine({ script: () => undefined }));
    const controller = new AbortController();
    const generation = await h.start({}, controller.signal);
    const pending = generation.next();
    controller.abort();
    expect(await pending).toBeUndefined();
    await new Promise(setImmediate);
    expect(h.engine.numLive).toBe(0);

    const aborted = AbortSignal.abort();
    expect(await drain(await h.start({}, aborted))).toEqual([]);
    expect(h.engine.submitted).toHaveLength(1);
    expect(h.outcomes).toEqual(['cancelled', 'cancelled']);
    expect(h.held.count).toBe(0);
  });

  it('gives up a chat that waits to be rendered, and renders none for nobody', async () => {
    const h = harness(new FakeEngine({ script: () => undefined }));
    const controller = new AbortController();
    const render = vi.fn(async (_adapter: unknown, signal?: AbortSignal) => {
      controller.abort('gone');
      signal?.throwIfAborted();
      return 'Q';
    });
    const prompts = [{ kind: 'chat', render, addSpecialTokens: false }] as const;
    const lateConstraint = vi.fn();
    for (let i = 0; i < 2; i++) {
      const generation = await h.start({ prompts, lateConstraint }, controller.signal);
      expect(await drain(generation)).toEqual([]);
    }
    expect(render).toHaveBeenCalledTimes(1);
    expect(lateConstraint).not.toHaveBeenCalled();
    expect(h.outcomes).toEqual(['cancelled', 'cancelled']);
    expect(h.held.count).toBe(0);
  });

  it('cancels a request whose reader is too slow, with an error event', async () => {
    const h = harness(new FakeEngine({ script: repeating(codes('a')), manual: true }), {
      streamBufferBytes: 500,
    });
    const generation = await h.start({ sampling: sampling({ maxTokens: 100 }) });
    for (let i = 0; i < 20; i++) h.engine.step();
    const events = await drain(generation);
    expect(events).toHaveLength(1);
    expect(events[0]).toMatchObject({ type: 'error', error: { code: 'slow_reader' } });
    expect(h.engine.numLive).toBe(0);
    expect(h.outcomes).toEqual(['error']);
  });

  it('passes an engine failure on and ends the other choices', async () => {
    const h = harness(new FakeEngine({ script: repeating(codes('a')), manual: true }));
    const generation = await h.start({ n: 3 });
    h.engine.step();
    h.engine.fail(new LoramuxError('engine_failed', 'the step failed; retry'));
    h.engine.step();
    const events = await drain(generation);
    expect(events.at(-1)).toMatchObject({ type: 'error', error: { code: 'engine_failed' } });
    expect(h.outcomes).toEqual(['error']);
  });

  it('reports a server that stops as shutting_down', async () => {
    const h = harness(new FakeEngine({ script: repeating(codes('a')), manual: true }));
    const generation = await h.start({});
    await h.engine.close();
    const events = await drain(generation);
    expect(events).toMatchObject([{ type: 'error', error: { code: 'shutting_down' } }]);
  });
});
