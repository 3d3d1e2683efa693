/** The transcripts of docs/websocket.md, replayed: the server answers every frame as it stands there. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import Schema from 'typebox/schema';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type WebSocket from 'ws';
import { CLOSE_CODES } from '../../src/http/wire/socket-session.ts';
import { type Json, type JsonObject, readOpenApi } from '../support/openapi.ts';
import { connectTo } from '../unit/http/socket-client.ts';
import { type TestServer, testServer, until } from '../unit/http/support.ts';

const FILE = fileURLToPath(new URL('../../docs/websocket.md', import.meta.url));
const text = readFileSync(FILE, 'utf8');
const transcripts = [...text.matchAll(/^```text\n([\s\S]*?)^```$/gm)].map(([, block]) =>
  block!.trimEnd().split('\n'),
);
const { document } = readOpenApi();
const frames = document.paths['/v1/stream']!.get!['x-websocket']!;

/** Turns of the event loop in which all that a frame causes has happened. */
const QUIET_TURNS = 50;

let server: TestServer;
let url: string;
const sockets: WebSocket[] = [];
beforeEach(async () => {
  server = await testServer();
  url = `${(await server.listen()).replace('http', 'ws')}/v1/stream`;
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.terminate();
  await server.close();
});

const quiet = async () => {
  for (let turn = 0; turn < QUIET_TURNS; turn++) await new Promise(setImmediate);
};

/** Names of the page as the test server has them. */
const named = (line: string) =>
  line
    .replace('"demo"', '"base"')
    .replace('"subtract"', '"sub"')
    .replace('<digest>', server.adapters.resolve('sub').generation.digest);

const fits = (schemas: readonly JsonObject[], frame: Json) =>
  schemas.some((schema) => Schema.Errors(schema, frame)[0]);

describe('docs/websocket.md', () => {
  it('has transcripts of every frame', () => {
    const types = new Set(
      transcripts.flat().map((line) => /^[<>] \{"type": "(\w+)"/.exec(line)?.[1]),
    );
    for (const schema of [...frames.client, ...frames.server]) {
      const { type } = schema.properties as { type: { const: string } };
      expect(types).toContain(type.const);
    }
  });

  it('lists the close codes', () => {
    for (const code of Object.values(CLOSE_CODES)) expect(text).toMatch(`| ${code} `);
  });

  it.each(transcripts.map((lines) => [lines[0], lines] as const))('%s ...', async (_, lines) => {
    const client = await connectTo(url, sockets);
    let seen = 0;
    for (const line of lines) {
      const frame = JSON.parse(named(line.slice(2))) as Json;
      if (line.startsWith('> ')) {
        await quiet();
        expect(client.frames.length, `before ${line}`).toBe(seen);
        client.send(frame);
        continue;
      }
      expect(fits(frames.server, frame), line).toBe(true);
      await until(() => client.frames.length > seen);
      expect(client.frames[seen]).toEqual(frame);
      seen += 1;
    }
    await quiet();
    expect(client.frames.length).toBe(seen);
  });
});
