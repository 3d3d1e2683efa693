#!/usr/bin/env node
// Runs the compiled CLI where `npm run build` made one, in production or where there are no sources;
// else the TypeScript sources through tsx, so that a checkout never runs a stale build.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const compiled = new URL('../dist/cli/main.js', import.meta.url);
const source = new URL('../src/cli/main.ts', import.meta.url);
const exists = (url) => existsSync(fileURLToPath(url));

if (exists(compiled) && (process.env.NODE_ENV === 'production' || !exists(source))) {
  await import(compiled.href);
} else {
  const { register } = await import('tsx/esm/api');
  register();
  await import(source.href);
}
