/**
 * `npm run bench -- <scenario> [--json] [options]`. Benchmarks are not tests: they print figures and
 * ratios of one run and never fail for being slow. With --json the last line is one JSON object.
 */
import { buildNative } from '../scripts/process.ts';
import { adaptersScenario } from './adapters.ts';
import { coldLoadScenario } from './cold-load.ts';
import { engineScenario } from './engine.ts';
import { fleetScenario } from './fleet.ts';
import type { Scenario } from './scenario.ts';
import { streamsScenario } from './streams.ts';
import { zipfScenario } from './zipf.ts';

const SCENARIOS: readonly Scenario[] = [
  adaptersScenario,
  streamsScenario,
  engineScenario,
  coldLoadScenario,
  fleetScenario,
  zipfScenario,
];

function usage(): string {
  const width = Math.max(...SCENARIOS.map(({ name }) => name.length)) + 2;
  const lines = SCENARIOS.map(({ name, summary }) => `  ${name.padEnd(width)}${summary}`);
  return `npm run bench -- <scenario> [--json] [options]\n\n${lines.join('\n')}`;
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
  const json = args.includes('--json');
  await buildNative();
  const result = await scenario.run(args.filter((arg) => arg !== '--json'));
  for (const line of result.lines) console.log(line);
  if (json) {
    console.log(
      JSON.stringify({ scenario: scenario.name, results: result.results, ratios: result.ratios }),
    );
  }
}
