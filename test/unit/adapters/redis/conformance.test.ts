/** The Redis registry does what every registry must, with and without shared blobs. */
import { afterAll, beforeAll } from 'vitest';
import { startRedis, type TestRedis } from '../../../support/redis.ts';
import { provideBlobs, registryFleet } from '../../../support/redis-registry.ts';
import { registryConformance } from '../../../support/registry-conformance.ts';

let redis: TestRedis;

beforeAll(async () => {
  redis = await startRedis();
});
afterAll(() => redis.stop());

for (const sharesBlobs of [false, true]) {
  registryConformance(`redis registry${sharesBlobs ? ' with shared blobs' : ''}`, {
    shared: true,
    checksBlobs: sharesBlobs,
    async openWorld({ maxNames }) {
      const fleet = await registryFleet(redis.url, { maxNames, sharesBlobs });
      const { registry: helper } = await fleet.open();
      return {
        backend: () => fleet.create().registry,
        ...(sharesBlobs ? { provide: (digests) => provideBlobs(helper, digests) } : {}),
        async damage(name) {
          await redis.command('HSET', `${helper.keyRoot}:name:${name}`, 'entry', '{"torn": tru');
        },
        dispose: () => fleet.close(),
      };
    },
  });
}
