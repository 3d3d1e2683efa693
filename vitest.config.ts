import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Two cores are the reference machine: more workers would only fight over them.
    maxWorkers: 2,
    // What ends a test that hangs, not what judges how long one takes: a machine that does other
    // work besides may be ten times slower.
    testTimeout: 900_000,
    hookTimeout: 900_000,
    teardownTimeout: 120_000,
    expect: { poll: { timeout: 180_000 } },
    passWithNoTests: false,
    pool: 'forks',
  },
});
