/**
 * Streams by the hundred at once, server-sent events and WebSockets, a tenth of the readers slow and a
 * tenth gone: no token lost or doubled, and nothing left over. `npm run bench -- flood` is the long run.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { floodModel, runFlood } from '../support/flood.ts';
import { startTestServer, type TestServer } from '../support/server.ts';
import { until } from '../support/until.ts';

const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 2000);

describe(`a flood of streams (seed ${SEED})`, () => {
  let folder: string;
  let server: TestServer;
  let models: string[];

  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'loramux-flood-'));
    const { modelDir, adapters } = await floodModel(folder, 4);
    server = await startTestServer([
      ...['--model', modelDir, '--max-loras', '4', '--stream-buffer-kb', '32'],
      // Fewer may wait than come at once: some are refused and ask again.
      ...['--max-sequences', '64', '--max-queued-requests', '40'],
      ...adapters.flatMap(({ name, dir }) => ['--adapter', `${name}=${dir}`]),
    ]);
    models = ['flood', ...adapters.map(({ name }) => name)];
  });
  afterAll(async () => {
    expect(await server?.end()).toBe(0);
    await rm(folder, { recursive: true, force: true });
  });

  it('loses and doubles no token', async () => {
    const report = await runFlood({
      url: server.url,
      models,
      sse: 100,
      sockets: 10,
      perSocket: 10,
      tokens: 24,
      slowTokens: 60,
      stopMs: 300,
      questions: 10,
      seconds: Number.POSITIVE_INFINITY,
      rounds: 4,
      seed: SEED,
    });
    const { started, finished, vanished, slowReader } = report;
    const line = JSON.stringify(report);
    expect({ ...report.errors, lost: report.lost, doubled: report.doubled }, line).toEqual({
      lost: 0,
      doubled: 0,
    });
    expect([report.wrong, report.cut], line).toEqual([0, 0]);
    expect(finished + vanished + slowReader, line).toBe(started);
    expect(started).toBe(800);
    expect(report.openMax).toBe(200);
    // The flood must have what it is there for.
    expect(Math.min(vanished, slowReader, report.queueFull), line).toBeGreaterThan(0);
    const { engine } = await until(
      'nothing runs',
      async () => (await server.call('GET', '/health')).body,
      ({ engine: { running, waiting } }) => running + waiting === 0,
    );
    expect(engine.kv_blocks_used).toBe(0);
    const { data } = (await server.call('GET', '/v1/adapters')).body;
    for (const { residency } of data) expect(residency.references).toBe(0);
  });
});
