/**
 * `npm start`: builds what must be built and serves the demo model with all its adapters, or the
 * model given by --model. Every other argument goes to `loramux serve`; see `loramux serve --help`.
 */
import path from 'node:path';
import {
  DEMO_ADAPTERS_DIR,
  DEMO_MODEL_DIR,
  loadTasks,
} from '../examples/modular-arithmetic/tasks.ts';
import { buildNative, startServer } from './process.ts';

const given = process.argv.slice(2);
const has = (flag: string) => given.some((arg) => arg === flag || arg.startsWith(`${flag}=`));

await buildNative();
const args = [...given];
let adapter: string | undefined;
if (!has('--model')) {
  args.push('--model', DEMO_MODEL_DIR);
  if (!has('--served-model-name')) args.push('--served-model-name', 'demo');
  const { tasks } = await loadTasks();
  for (const task of tasks) {
    if (task.adapter === null) continue;
    adapter ??= task.adapter;
    args.push('--adapter', `${task.adapter}=${path.join(DEMO_ADAPTERS_DIR, task.adapter)}`);
  }
}
if (!has('--data-dir')) args.push('--data-dir', '.data');

const server = await startServer(args, {
  onStdout: (line) => console.log(line),
  onSpawn: (child) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.on(signal, () => child.kill(signal));
    }
  },
});
server.child.once('exit', (code, signal) => {
  process.exitCode = code ?? (signal === null ? 1 : 128);
});
if (adapter !== undefined) {
  const body = JSON.stringify({
    model: adapter,
    prompt: '17 @ 5 =',
    max_tokens: 2,
    temperature: 0,
  });
  console.log(
    `try:\n  curl -s ${server.url}/v1/completions -H 'content-type: application/json' -d '${body}'`,
  );
}
