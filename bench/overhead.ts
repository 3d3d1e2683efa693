/**
 * What HTTP, tokenizer and scheduler cost beside the model: decode steps of the whole server with
 * streams over server-sent events, against the same steps of the native session alone, in turn.
 */
import { fork } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { type StartedServer, startServer } from '../scripts/process.ts';
import { BenchModel, formatOf, MODEL_OPTIONS } from './model.ts';
import type { OverheadLoad, OverheadNotice } from './overhead-load.ts';
import { decodePacket } from './packet.ts';
import { median, numberOption, parse, type Scenario, type ScenarioResult } from './scenario.ts';
import { spread } from './statistics.ts';
import { type Step, type StepTotals, stepBetween, stepTotals } from './step-time.ts';
import { otherThreadsMs } from './thread-time.ts';

const OPTIONS = {
  ...MODEL_OPTIONS,
  streams: numberOption(32),
  prompt: numberOption(16),
  tokens: numberOption(48),
  rounds: numberOption(5),
} as const;

type Values = ReturnType<typeof parse<typeof OPTIONS>>;

const BLOCK_SIZE = 16;
/** Native steps of one turn. */
const STEPS = 12;

interface ServedStep extends Step {
  /** That threads other than the session's computed; undefined where the kernel does not tell. */
  readonly otherMs: number | undefined;
}

type Mark = readonly [StepTotals, otherMs: number | undefined];

/** One turn of the server: the mean step while all streams decode. */
async function served(server: StartedServer, load: OverheadLoad): Promise<ServedStep> {
  const script = fileURLToPath(new URL('overhead-load.ts', import.meta.url));
  const child = fork(script, [JSON.stringify(load)], { execArgv: ['--import', 'tsx'] });
  const marks: Promise<Mark>[] = [];
  const mark = () => Promise.all([stepTotals(server), otherThreadsMs(server.child.pid!)]);
  child.on('message', (notice: OverheadNotice) => {
    if (notice !== 'ended') marks.push(mark());
  });
  const code = await new Promise<number | null>((resolve) => child.once('exit', resolve));
  if (code !== 0 || marks.length !== 2) throw new Error(`the clients ended with ${code}`);
  const [[before, otherBefore], [after, otherAfter]] = (await Promise.all(marks)) as [Mark, Mark];
  const steps = after.steps - before.steps;
  const otherMs =
    otherBefore === undefined || otherAfter === undefined
      ? undefined
      : (otherAfter - otherBefore) / steps;
  return { ...stepBetween(before, after), otherMs };
}

/** One turn of the session alone: the median step at the contexts that the streams have midway. */
async function alone(model: BenchModel, values: Values): Promise<number> {
  const context = values.prompt + Math.floor(values.tokens / 2);
  const packet = decodePacket(new Array<number>(values.streams).fill(context), BLOCK_SIZE);
  const times: number[] = [];
  for (let step = 0; step < STEPS; step++) {
    const { nativeMs } = await model.stack.session.step(packet);
    times.push(nativeMs);
  }
  return median(times);
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const format = formatOf(values.weights);
  const length = values.prompt + values.tokens + BLOCK_SIZE;
  const model = await BenchModel.open(values, format, {
    slots: 1,
    tokens: length * values.streams,
    length,
  });
  const folder = await mkdtemp(path.join(values.dir, 'overhead-'));
  const server = await startServer([
    ...['--model', model.openedDir, '--served-model-name', 'base', '--port', '0'],
    ...['--data-dir', folder, '--log-level', 'error', '--threads', String(values.threads)],
    ...['--max-model-len', String(length), '--max-sequences', String(values.streams)],
    // Every turn computes its prompts, as the first one does.
    ...['--prefix-caching', 'false'],
  ]);
  try {
    const { streams, prompt, tokens } = values;
    const load: OverheadLoad = { url: server.url, model: 'base', streams, prompt, tokens };
    await served(server, load);
    await alone(model, values);
    const nativeMs: number[] = [];
    const steps: ServedStep[] = [];
    for (let round = 0; round < values.rounds; round++) {
      const turns = [
        async () => nativeMs.push(await alone(model, values)),
        async () => steps.push(await served(server, load)),
      ];
      for (const turn of round % 2 === 0 ? turns : turns.reverse()) await turn();
      const { ms, gapMs, otherMs } = steps[round]!;
      console.error(
        `round ${round + 1}: alone ${nativeMs[round]!.toFixed(2)} ms, served ${ms.toFixed(2)} ms, ` +
          `of which ${gapMs.toFixed(2)} ms between steps; other threads ` +
          `${otherMs?.toFixed(2) ?? '?'} ms`,
      );
    }
    const over = steps.map(({ ms }, i) => ms / nativeMs[i]! - 1);
    const gaps = steps.map(({ gapMs }, i) => gapMs / nativeMs[i]!);
    // While the session's threads have every core, what others compute is taken from them.
    const taken = steps.flatMap(({ ms, gapMs, otherMs }) =>
      otherMs === undefined ? [] : [(gapMs + otherMs / values.threads) / (ms - gapMs)],
    );
    const atMost = taken.length === 0 ? {} : { atMostOfStep: median(taken) };
    const figures = {
      aloneMs: median(nativeMs),
      servedMs: median(steps.map(({ ms }) => ms)),
      servedNativeMs: median(steps.map(({ nativeMs: ms }) => ms)),
      gapMs: median(steps.map(({ gapMs }) => gapMs)),
    };
    return {
      lines: [
        `${values.model} ${format}, ${streams} streams, decode step in milliseconds`,
        ...Object.entries(figures).map(([name, ms]) => `${name.padEnd(18)}${ms.toFixed(2)}`),
        `overhead of a step ${(median(over) * 100).toFixed(1)} %, between steps alone ` +
          `${(median(gaps) * 100).toFixed(1)} %`,
        atMost.atMostOfStep === undefined
          ? 'what other threads computed is not told here'
          : `with all that other threads computed ${(atMost.atMostOfStep * 100).toFixed(1)} %`,
      ],
      results: [{ name: 'overhead', ...figures, spread: spread(nativeMs), rounds: values.rounds }],
      ratios: { overheadOfStep: median(over), gapOfStep: median(gaps), ...atMost },
    };
  } finally {
    await server.stop();
    await model.close();
    await rm(folder, { recursive: true, force: true });
  }
}

export const overheadScenario: Scenario = {
  name: 'overhead',
  summary: 'a decode step of the whole server against the native session alone (--streams, ...)',
  run,
};
