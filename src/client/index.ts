/** `loramux/client`: a server's REST, streaming, WebSocket and admin API; Node and browsers. */
export type {
  AdapterArchive,
  AdapterFiles,
  Adapters,
  ChangeOptions,
  PutOptions,
} from './adapters.ts';
export { type ConnectOptions, LoramuxClient, type LoramuxClientOptions } from './client.ts';
export type { WebSocketConstructor, WebSocketLike } from './connection.ts';
export { LoramuxError } from './errors.ts';
export type { EventStream } from './event-stream.ts';
export type { SocketGeneration, SocketRequest, SocketResult, TokenEvent } from './generation.ts';
export type * from './openapi.ts';
export type { GenerateOptions, StreamSocket, StreamSocketOptions } from './stream-socket.ts';
export type { CallOptions } from './transport.ts';
