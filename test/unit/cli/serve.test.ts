/** A serving process: ready line, ports, signals, exit codes, and a WebSocket on the real engine. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import {
  answerOf,
  DEMO_ADAPTERS_DIR,
  DEMO_MODEL_DIR,
  loadTasks,
  promptOf,
} from '../../../examples/modular-arithmetic/tasks.ts';
import { type StartedServer, startServer } from '../../../scripts/process.ts';

let dataDir: string;
let server: StartedServer | undefined;
beforeEach(async () => {
  dataDir = await mkdtemp(path.join(tmpdir(), 'loramux-serve-'));
});
afterEach(async () => {
  server?.child.kill('SIGKILL');
  await server?.stop();
  server = undefined;
  await rm(dataDir, { recursive: true, force: true });
});

const ARGS = ['--model', DEMO_MODEL_DIR, '--log-level', 'warn'];

async function start(args: readonly string[] = []): Promise<string[]> {
  const lines: string[] = [];
  const all = [...ARGS, '--port', '0', '--data-dir', dataDir, ...args];
  server = await startServer(all, {
    onStdout: (line) => lines.push(line),
    env: { LORAMUX_FROM_SOURCE: '1' },
  });
  return lines;
}

describe('loramux serve', () => {
  it('prints one line on standard output and ends with 0 on SIGTERM and SIGINT', async () => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      const lines = await start(['--served-model-name', 'demo']);
      const exited = new Promise((resolve) => server!.child.once('exit', resolve));
      server!.child.kill(signal);
      expect(await exited).toBe(0);
      expect(lines).toHaveLength(1);
      expect(lines[0]).toMatch(
        /^loramux ready on http:\/\/127\.0\.0\.1:\d+ model=demo adapters=0 max_model_len=\d+ isa=\w+$/,
      );
    }
  });

  it('refuses a port in use and a data folder in use', async () => {
    await start();
    const { port } = new URL(server!.url);
    const other = path.join(dataDir, 'other');
    const same = ['--port', port, '--data-dir', other];
    await expect(startServer([...ARGS, ...same])).rejects.toThrow('ended with code 1');
    const shared = ['--port', '0', '--data-dir', dataDir];
    await expect(startServer([...ARGS, ...shared])).rejects.toThrow('ended with code 1');
    expect((await fetch(`${server!.url}/health`)).status).toBe(200);
  });

  it('ends at once on a second signal', async () => {
    await start(['--drain-ms', '60000']);
    // Thousands of steps of work, so that the drain does not end before the second signal.
    const socket = new WebSocket(`${server!.url.replace('http', 'ws')}/v1/stream`);
    await new Promise((resolve) => socket.once('open', resolve));
    const request = (id: number) => ({
      type: 'generate',
      id: `${id}`,
      model: 'model',
      prompt: '1 @ 2 =',
      max_tokens: 50,
      n: 64,
      ignore_eos: true,
    });
    for (let id = 0; id < 64; id++) socket.send(JSON.stringify(request(id)));
    await new Promise((resolve) => socket.once('message', resolve));
    const exited = new Promise((resolve) => server!.child.once('exit', resolve));
    server!.child.kill('SIGTERM');
    let health = 200;
    while (health === 200) health = (await fetch(`${server!.url}/health`)).status;
    expect(health).toBe(503);
    server!.child.kill('SIGTERM');
    expect(await exited).toBe(130);
    socket.terminate();
  });

  it('answers for several adapters on one WebSocket', async () => {
    const { modulus, tasks } = await loadTasks();
    const adapters = tasks.flatMap(({ adapter }) =>
      adapter === null ? [] : ['--adapter', `${adapter}=${path.join(DEMO_ADAPTERS_DIR, adapter)}`],
    );
    await start(adapters);
    const socket = new WebSocket(`${server!.url.replace('http', 'ws')}/v1/stream`);
    await new Promise((resolve) => socket.once('open', resolve));
    const texts = new Map<string, string>();
    let open = tasks.length;
    const done = new Promise<void>((resolve, reject) => {
      socket.on('message', (data) => {
        const frame = JSON.parse(String(data)) as { type: string; id: string; text: string };
        if (frame.type === 'error') reject(new Error(String(data)));
        if (frame.type === 'token') texts.set(frame.id, (texts.get(frame.id) ?? '') + frame.text);
        if (frame.type === 'done' && --open === 0) resolve();
      });
    });
    for (const { name, adapter } of tasks) {
      const fields = { model: adapter ?? 'model', prompt: promptOf(17, 5), max_tokens: 2 };
      socket.send(JSON.stringify({ type: 'generate', id: name, ...fields, temperature: 0 }));
    }
    await done;
    socket.close();
    const expected = tasks.map((task) => [task.name, String(answerOf(task, 17, 5, modulus))]);
    expect([...texts].map(([name, text]) => [name, text.trim()]).sort()).toEqual(expected.sort());
    expect(await server!.stop()).toBe(0);
  });
});
