/** The kernel tests as a figure: every instruction set against the references, sizes odd and even. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { ROOT, run as runCommand } from '../scripts/process.ts';
import { parse, type Scenario, type ScenarioResult } from './scenario.ts';

const PROGRAM = path.join(ROOT, 'build', 'loramux_kernel_tests');

/** The counts of a line `N passed, N failed`. */
export function countsOf(text: string): { passed: number; failed: number } {
  const found = /^(\d+) passed, (\d+) failed/m.exec(text);
  if (found === null) throw new Error('the kernel tests printed no counts');
  return { passed: Number(found[1]), failed: Number(found[2]) };
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  parse(args, {});
  await runCommand(process.execPath, ['scripts/build-native.mjs', '--tests', '--bench']);
  const child = spawn(PROGRAM, { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  await once(child, 'close');
  const { passed, failed } = countsOf(text);
  return {
    lines: [`kernel tests: ${passed} passed, ${failed} failed`],
    results: [{ name: 'kernel tests', passed, failed }],
    ratios: { kernelTestsPassed: passed / (passed + failed) },
  };
}

export const checksScenario: Scenario = {
  name: 'checks',
  summary: 'the kernel tests as a figure: every instruction set against the references',
  run,
};
