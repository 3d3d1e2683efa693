/**
 * `npm run bench -- <scenario> [--json] [--plots DIR] [options]`. Benchmarks are not tests: they
 * print figures and ratios of one run and never fail for being slow. With --json the last line is
 * one JSON object (result.ts).
 */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { accuracyScenario } from './accuracy.ts';
import { adaptersScenario } from './adapters.ts';
import { barsScenario } from './bars.ts';
import { buildPrograms, ceilingScenario, measureCeiling } from './ceiling.ts';
import { checksScenario } from './checks.ts';
import { coldLoadScenario } from './cold-load.ts';
import { contextScenario } from './context.ts';
import { decodeScenario } from './decode.ts';
import { engineScenario } from './engine.ts';
import { fleetScenario } from './fleet.ts';
import { floodScenario } from './flood.ts';
import { grammarScenario } from './grammar.ts';
import { invarianceScenario } from './invariance.ts';
import { kernelsScenario } from './kernels.ts';
import { memoryScenario } from './memory.ts';
import { mixedScenario } from './mixed.ts';
import { overheadScenario } from './overhead.ts';
import { peersScenario } from './peers.ts';
import { prefillScenario } from './prefill.ts';
import type { Result } from './result.ts';
import { type Scenario, UsageError } from './scenario.ts';
import { serveScenario } from './serve.ts';
import { streamsScenario } from './streams.ts';
import { zipfScenario } from './zipf.ts';

const SCENARIOS: readonly Scenario[] = [
  ceilingScenario,
  prefillScenario,
  decodeScenario,
  mixedScenario,
  contextScenario,
  kernelsScenario,
  memoryScenario,
  serveScenario,
  peersScenario,
  accuracyScenario,
  invarianceScenario,
  checksScenario,
  barsScenario,
  adaptersScenario,
  streamsScenario,
  overheadScenario,
  floodScenario,
  grammarScenario,
  engineScenario,
  coldLoadScenario,
  fleetScenario,
  zipfScenario,
];

function usage(): string {
  const width = Math.max(...SCENARIOS.map(({ name }) => name.length)) + 2;
  const lines = SCENARIOS.map(({ name, summary }) => `  ${name.padEnd(width)}${summary}`);
  return `npm run bench -- <scenario> [--json] [--plots DIR] [options]\n\n${lines.join('\n')}`;
}

/** Takes `--json` and `--plots DIR` out of the arguments. */
function takeCommon(args: readonly string[]) {
  const rest = args.filter((arg) => arg !== '--json');
  const at = rest.indexOf('--plots');
  const plots = at < 0 ? undefined : rest[at + 1];
  if (at >= 0) rest.splice(at, 2);
  if (at >= 0 && plots === undefined) throw new UsageError('--plots needs a folder');
  return { json: args.includes('--json'), plots, rest };
}

async function runScenario(scenario: Scenario, args: readonly string[]): Promise<void> {
  const { json, plots, rest } = takeCommon(args);
  await buildPrograms();
  const done = await scenario.run(rest);
  for (const line of done.lines) console.log(line);
  if (plots !== undefined) {
    await mkdir(plots, { recursive: true });
    for (const [name, text] of Object.entries(done.plots ?? {})) {
      const file = path.join(plots, `${scenario.name}-${name}.svg`);
      await writeFile(file, text);
      console.log(`wrote ${file}`);
    }
  }
  if (!json) return;
  const result: Result = {
    scenario: scenario.name,
    machine: done.machine ?? (await measureCeiling()),
    results: [...done.results],
    ratios: { ...done.ratios },
  };
  console.log(JSON.stringify(result));
}

const [name, ...args] = process.argv.slice(2);
const scenario = SCENARIOS.find((candidate) => candidate.name === name);
if (scenario === undefined) {
  console.log(usage());
  if (name !== undefined) {
    console.error(`\nno scenario is called ${name}`);
    process.exitCode = 1;
  }
} else {
  try {
    await runScenario(scenario, args);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(error.message);
    process.exitCode = 2;
  }
}
