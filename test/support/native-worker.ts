/** A worker thread with a native session of its own; see lifecycle.test.ts. */
import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { fixtureImage, fixtureSession, goldenCases } from './native-fixtures.ts';
import { generate } from './native-generate.ts';
import { packStep } from './step-packets.ts';

const { model, forever } = workerData as { model: string; forever: boolean };
const session = await fixtureSession(model, { intraOpThreads: 1 });
const blocks = [...Array(32).keys()];

/** So that the end of the thread also meets a load that reads memory of this thread. */
async function loadForever(): Promise<void> {
  const image = fixtureImage(model, 'all-r8-rslora');
  const bytes = readFileSync(image.path);
  for (;;) {
    await session.loadAdapter(0, { ...image, bytes });
    session.freeAdapter(0);
  }
}

if (forever) {
  void loadForever();
  const tokens = Array.from({ length: 500 }, (_, i) => i % 300);
  for (let i = 0; ; i += 1) {
    const step = session.step(packStep([{ tokens, cached: 0, blocks }]));
    if (i === 2) parentPort?.postMessage('running');
    await step;
  }
}
const { promptIds } = goldenCases(model).find((golden) => golden.adapter === null)!;
const [generated] = await generate(session, [{ prompt: promptIds, blocks }], 32);
parentPort?.postMessage(generated!.tokenIds);
await session.close();
