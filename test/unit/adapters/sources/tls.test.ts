/** Certificates: checked against the host's name whatever the environment says. */
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TempDir } from '../../../support/adapter-files.ts';
import { hasTool, ZIP_PAIR } from '../../../support/archive-trial.ts';
import { zip } from '../../../support/archives.ts';

const OPENER = fileURLToPath(
  new URL('../../../../src/adapters/sources/opener.ts', import.meta.url),
);

describe.runIf(hasTool('openssl'))('an https source', () => {
  const temp = new TempDir();
  let server: Server;
  let port: number;
  beforeAll(async () => {
    mkdirSync(temp.join('work'));
    const [key, cert] = [temp.join('key.pem'), temp.join('cert.pem')];
    const subject = ['-subj', '/CN=files.test', '-addext', 'subjectAltName=DNS:files.test'];
    const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
    const args = ['req', '-x509', ...kind, '-keyout', key, '-out', cert, '-days', '2', ...subject];
    execFileSync('openssl', args, { stdio: 'pipe' });
    server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (_, response) => {
      response.end(zip(ZIP_PAIR));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    port = (server.address() as AddressInfo).port;
  });
  afterAll(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    temp.remove();
  });

  /** In a process of its own: Node reads extra authorities at its start only. */
  async function open(host: string, env: Record<string, string>): Promise<string> {
    const script = `
      const { createSourceOpener } = await import(process.argv[1]);
      const opener = createSourceOpener({
        workDir: process.argv[2],
        adapterRoot: undefined,
        limits: { maxAdapterBytes: 1e6, maxConfigBytes: 1e6, maxArchiveEntries: 9 },
        hub: { endpoint: 'https://hub.invalid' },
        remote: true,
        allowPrivate: true,
        timeoutMs: 120000,
        onWarning: console.log,
        resolve: async () => [{ address: '127.0.0.1', family: 4 }],
      });
      const source = { kind: 'url', url: process.argv[3] };
      const opened = await opener.open(source, new AbortController().signal).catch((e) => e);
      console.log(opened.label ?? opened.code + ': ' + opened.message);
      await opened.cleanup?.();
    `;
    const args = ['--import', 'tsx', '--input-type=module', '-e', script];
    const url = `https://${host}:${port}/x`;
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [...args, OPENER, temp.join('work'), url],
      { env: { ...process.env, ...env } },
    );
    return stdout.trim();
  }

  it('is fetched when an authority that Node knows vouches for the name', async () => {
    const env = { NODE_EXTRA_CA_CERTS: temp.join('cert.pem') };
    expect(await open('files.test', env)).toBe(`https://files.test:${port}/x`);
    expect(await open('other.test', env)).toMatch(/source_unavailable.*ALTNAME/);
  });

  it('is refused otherwise, also where checks are turned off for the process', async () => {
    const env = {
      NODE_EXTRA_CA_CERTS: '',
      NODE_TLS_REJECT_UNAUTHORIZED: '0',
      NODE_NO_WARNINGS: '1',
    };
    expect(await open('files.test', env)).toMatch(/source_unavailable.*SELF_SIGNED/);
  });
});
