/** Which addresses are public, and that a connection goes to the addresses that were checked. */
import { type AddressInfo, createServer, type Server } from 'node:net';
import { afterAll, describe, expect, it } from 'vitest';
import { isPublicAddress } from '../../../../src/adapters/sources/address.ts';
import { GuardedHttp } from '../../../../src/adapters/sources/guarded-http.ts';

const PUBLIC = [
  '1.1.1.1',
  '8.8.8.8',
  '93.184.216.34',
  '172.15.255.255',
  '172.32.0.1',
  '100.63.255.255',
  '100.128.0.1',
  '2606:4700:4700::1111',
  '2a00:1450:4001:81b::200e',
  '::ffff:8.8.8.8',
  '64:ff9b::8.8.8.8',
  '2002:808:808::1',
  // Teredo: server 65.54.227.120, client 192.0.2.45 is no public one, so another is taken.
  '2001:0:4136:e378:8000:63bf:f7f7:f7f7',
];

const NOT_PUBLIC = [
  '0.0.0.0',
  '0.1.2.3',
  '10.0.0.1',
  '100.64.0.1',
  '127.0.0.1',
  '127.255.255.254',
  '169.254.169.254',
  '172.16.0.1',
  '172.31.255.255',
  '192.0.0.1',
  '192.0.2.1',
  '192.88.99.1',
  '192.168.1.1',
  '198.18.0.1',
  '198.51.100.1',
  '203.0.113.1',
  '224.0.0.1',
  '239.255.255.255',
  '240.0.0.1',
  '255.255.255.255',
  '::',
  '::1',
  '::2',
  '::7f00:1',
  '::127.0.0.1',
  '::ffff:127.0.0.1',
  '::ffff:7f00:1',
  '::ffff:10.0.0.1',
  '::ffff:0:8.8.8.8',
  '64:ff9b::10.0.0.1',
  '64:ff9b::7f00:1',
  '64:ff9b:1::8.8.8.8',
  '100::1',
  '2001::1',
  '2001:0:4136:e378:8000:63bf:80ff:fffe',
  '2001:0:7f00:1:8000:63bf:f7f7:f7f7',
  '2001:2::1',
  '2001:db8::1',
  '2002:7f00:1::',
  '2002:a9fe:a9fe::1',
  '3fff::1',
  '5f00::1',
  'fc00::1',
  'fd12:3456::1',
  'fe80::1',
  'fe80::1%eth0',
  'fec0::1',
  'ff02::1',
  '4000::1',
  // Not addresses in the one form that look-ups and URLs give them.
  '',
  'localhost',
  '127.1',
  '0x7f.0.0.1',
  '0177.0.0.1',
  '2130706433',
  '8.8.8.8 ',
  '[::1]',
  '8.8.8.8.',
];

describe('public addresses', () => {
  it.each(PUBLIC)('%s is one', (address) => expect(isPublicAddress(address)).toBe(true));
  it.each(NOT_PUBLIC)('%j is none', (address) => expect(isPublicAddress(address)).toBe(false));
});

describe('rebinding', () => {
  const servers: Server[] = [];
  afterAll(() => {
    for (const server of servers) server.close();
  });

  /** A server on each of two loopback addresses, on the same port; both note who connects. */
  async function twoServers(): Promise<{ port: number; connections: string[] }> {
    const connections: string[] = [];
    for (let attempt = 0; attempt < 20; attempt++) {
      let port = 0;
      const pair: Server[] = [];
      try {
        for (const host of ['127.0.0.1', '127.0.0.2']) {
          const server = createServer((socket) => {
            connections.push(host);
            socket.on('error', () => undefined).end('no TLS here');
          });
          await new Promise<void>((resolve, reject) => {
            server.once('error', reject).listen(port, host, resolve);
          });
          pair.push(server);
          port = (server.address() as AddressInfo).port;
        }
        servers.push(...pair);
        return { port, connections };
      } catch {
        for (const server of pair) server.close();
      }
    }
    throw new Error('no port is free on both addresses');
  }

  it('a connection is made to the very answer that was checked', async () => {
    const { port, connections } = await twoServers();
    let lookups = 0;
    const http = new GuardedHttp({
      allowPrivate: false,
      // Stands for "public"; the second answer is one that must never be reached.
      isAllowed: (address) => address === '127.0.0.1',
      resolve: async () => [{ address: `127.0.0.${++lookups}`, family: 4 }],
    });
    const signal = new AbortController().signal;
    const url = `https://rebind.test:${port}/`;
    const failed = await http.request(url, { signal }).catch((e) => e);
    // The connection was made, once, to the first answer; only its handshake failed.
    expect(failed.code).toBe('source_unavailable');
    expect(lookups).toBe(1);
    expect(connections).toEqual(['127.0.0.1']);
    const again = await http.request(url, { signal }).catch((e) => e);
    expect(again.code).toBe('source_forbidden');
    expect(lookups).toBe(2);
    expect(connections).toEqual(['127.0.0.1']);
    await http.close();
  });

  it('one bad address among good ones is enough', async () => {
    const http = new GuardedHttp({
      allowPrivate: false,
      resolve: async () => [
        { address: '93.184.216.34', family: 4 },
        { address: '127.0.0.1', family: 4 },
      ],
    });
    const signal = new AbortController().signal;
    const error = await http.request('https://mixed.test/', { signal }).catch((e) => e);
    expect(error).toMatchObject({ code: 'source_forbidden' });
    expect(error.message).toMatch(/mixed\.test.*not public/);
    await http.close();
  });
});
