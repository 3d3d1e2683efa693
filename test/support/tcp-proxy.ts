/** A loopback TCP proxy that makes a healthy server slow, silent or unreachable. */
import { once } from 'node:events';
import net from 'node:net';

export interface TcpProxy {
  readonly port: number;
  /** Bytes in both directions arrive this much later from now on; order is kept. */
  delay(ms: number): void;
  /**
   * Keeps connections open and accepts new ones, but passes nothing on. `answers` lets requests
   * through and holds back only what comes back: the server does what it is told, unheard.
   */
  stall(what?: 'all' | 'answers'): void;
  /** Closes every connection; new ones are accepted. */
  cut(): void;
  /** Closes every connection and answers new ones with a reset. */
  refuse(): void;
  /** When this many more bytes came from a side, `action` is called before the rest goes on. */
  after(side: 'client' | 'server', bytes: number, action: () => void): void;
  /** What is open now stays open and silent for ever; new connections are not affected. */
  freeze(): void;
  /** New connections go to this port. */
  target(port: number): void;
  /** As at the start; what was held back is passed on. */
  restore(): void;
  readonly connections: number;
  close(): Promise<void>;
}

type Mode = 'pass' | 'stall' | 'stall-answers' | 'refuse';

interface Pipe {
  /** Passes on what waits, whatever its delay. */
  readonly hurry: () => void;
  frozen: boolean;
}

export async function startTcpProxy(targetPort: number): Promise<TcpProxy> {
  let mode: Mode = 'pass';
  let delayMs = 0;
  let port = targetPort;
  let trigger: { side: 'client' | 'server'; bytes: number; action: () => void } | undefined;
  const count = (side: 'client' | 'server', bytes: number) => {
    if (trigger?.side !== side) return;
    trigger.bytes -= bytes;
    if (trigger.bytes > 0) return;
    const { action } = trigger;
    trigger = undefined;
    action();
  };
  const sockets = new Set<net.Socket>();
  const pipes = new Set<Pipe>();

  const connect = (
    side: 'client' | 'server',
    from: net.Socket,
    to: net.Socket,
    held: () => boolean,
  ) => {
    // What is due goes on only after all that came before it.
    const waiting: { readonly bytes: Buffer; due: boolean }[] = [];
    const flush = () => {
      while (waiting[0]?.due === true && !pipe.frozen && !held()) to.write(waiting.shift()!.bytes);
    };
    const hurry = () => {
      for (const piece of waiting) piece.due = true;
      flush();
    };
    const pipe: Pipe = { hurry, frozen: false };
    pipes.add(pipe);
    from.on('data', (bytes: Buffer) => {
      count(side, bytes.length);
      const piece = { bytes, due: delayMs === 0 };
      waiting.push(piece);
      if (delayMs === 0) return flush();
      setTimeout(() => {
        piece.due = true;
        flush();
      }, delayMs);
    });
    from.on('error', () => to.destroy());
    from.on('close', () => {
      pipes.delete(pipe);
      sockets.delete(from);
      to.destroy();
    });
  };

  const server = net.createServer((client) => {
    if (mode === 'refuse') {
      client.on('error', () => {});
      client.resetAndDestroy();
      return;
    }
    const upstream = net.connect(port, '127.0.0.1');
    sockets.add(client).add(upstream);
    connect('client', client, upstream, () => mode === 'stall');
    connect('server', upstream, client, () => mode === 'stall' || mode === 'stall-answers');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const cut = () => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    port: (server.address() as net.AddressInfo).port,
    delay: (ms) => {
      delayMs = ms;
    },
    stall: (what = 'all') => {
      mode = what === 'all' ? 'stall' : 'stall-answers';
    },
    cut,
    refuse: () => {
      mode = 'refuse';
      cut();
    },
    after: (side, bytes, action) => {
      trigger = { side, bytes, action };
    },
    freeze: () => {
      for (const pipe of pipes) pipe.frozen = true;
    },
    target: (next) => {
      port = next;
    },
    restore: () => {
      trigger = undefined;
      mode = 'pass';
      delayMs = 0;
      for (const pipe of pipes) pipe.hurry();
    },
    get connections() {
      return sockets.size / 2;
    },
    async close() {
      cut();
      server.close();
      await once(server, 'close');
    },
  };
}
