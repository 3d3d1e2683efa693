/** The client against openapi.yaml, and as a package: compiled, and in a browser. */
import { readFileSync } from 'node:fs';
import vm from 'node:vm';
import { build } from 'esbuild';
import { describe, expect, it } from 'vitest';
import { CLIENT_TYPES_FILE, clientTypes, readOpenApiText } from '../../scripts/client-types.ts';
import { ROOT } from '../../scripts/process.ts';
import { fakeFetch, json } from '../support/fake-fetch.ts';

describe('src/client/openapi.ts', () => {
  it('is what `npm run client:types` writes', () => {
    expect(readFileSync(CLIENT_TYPES_FILE, 'utf8')).toBe(clientTypes(readOpenApiText()));
  });

  it('is not written from words without a rule', () => {
    const spec = (schema: string) => `{"paths": {}, "components": {"schemas": {"A": ${schema}}}}`;
    expect(() => clientTypes(spec('{"if": {}}'))).toThrow('if: a word without a rule');
    expect(() => clientTypes(spec('{"type": "strange"}'))).toThrow('no type for');
  });
});

describe('the client in a browser', () => {
  /** What every browser has, and nothing of Node. */
  const WEB = [
    ...['fetch', 'Request', 'Response', 'Headers', 'FormData', 'Blob', 'URL', 'URLSearchParams'],
    ...['AbortController', 'AbortSignal', 'ReadableStream', 'TextDecoder', 'TextEncoder'],
    ...['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'],
  ] as const;

  it('needs web globals only', async () => {
    const { outputFiles } = await build({
      entryPoints: [`${ROOT}src/client/index.ts`],
      bundle: true,
      write: false,
      platform: 'browser',
      format: 'iife',
      globalName: 'loramux',
    });
    const { fetch, asked } = fakeFetch([json({ object: 'list', data: [] })]);
    const page: Record<string, unknown> = { answer: undefined, fetch };
    for (const name of WEB) if (name !== 'fetch') page[name] = globalThis[name];
    const code = `${outputFiles[0]!.text};
      answer = new loramux.LoramuxClient({ baseUrl: 'http://server' }).models.list();`;
    vm.runInNewContext(code, page);
    expect(await page.answer).toEqual({ object: 'list', data: [] });
    expect(asked[0]!.url).toBe('http://server/v1/models');
  });
});
