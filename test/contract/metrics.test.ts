/** The metrics that docs/http.md names are the ones the server exports, and the other way round. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { testServer } from '../unit/http/support.ts';

const text = readFileSync(fileURLToPath(new URL('../../docs/http.md', import.meta.url)), 'utf8');
const section = text.slice(text.indexOf('## Metrics'));
const documented = [...section.matchAll(/^\| (`.*?`) +\| /gm)].flatMap(([, cell]) =>
  [...cell!.matchAll(/`([a-z0-9_]+)[^`]*`/g)].map(([, name]) => name!),
);

describe('metrics', () => {
  it('are documented', async () => {
    const server = await testServer();
    const exported = [...(await server.metrics.scrape()).matchAll(/^# TYPE loramux_(\w+) /gm)]
      .map(([, name]) => name!)
      .filter((name) => !/^(process|nodejs)_/.test(name));
    await server.close();
    const own = documented.filter((name) => !/^(process|nodejs)_/.test(name));
    expect(exported.sort()).toEqual(own.sort());
  });
});
