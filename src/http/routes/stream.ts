/** GET /v1/stream: the WebSocket. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import type { TSchema } from 'typebox';
import { LoramuxError } from '../../errors.ts';
import { validationError } from '../plugins/errors.ts';
import type { Turns } from '../plugins/turns.ts';
import { errorResponses, PLAIN_ERRORS } from '../schemas/error.ts';
import {
  CancelFrameSchema,
  CreditFrameSchema,
  GenerateFrameSchema,
  PingFrameSchema,
  STREAM_ROUTE,
} from '../schemas/stream.ts';
import type { HttpServices } from '../services.ts';
import { type FrameChecks, SocketSession } from '../wire/socket-session.ts';

/** Frames are checked by the validator that checks bodies. */
function frameChecks(request: FastifyRequest): FrameChecks {
  const check = (schema: TSchema) => {
    const validate = request.compileValidationSchema(schema);
    return (frame: unknown) => {
      if (!validate(frame)) throw validationError(validate.errors ?? []);
    };
  };
  return {
    generate: check(GenerateFrameSchema),
    cancel: check(CancelFrameSchema),
    credit: check(CreditFrameSchema),
    ping: check(PingFrameSchema),
  };
}

export function streamRoutes(services: HttpServices, turns: Turns): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.route({
      method: 'GET',
      url: STREAM_ROUTE,
      schema: {
        summary: 'A WebSocket with several generations at once.',
        response: {
          101: { description: 'The protocol of docs/websocket.md.' },
          ...errorResponses([...PLAIN_ERRORS, 'upgrade_required']),
        },
      },
      handler: async (_request, reply) => {
        reply.header('upgrade', 'websocket');
        throw new LoramuxError('upgrade_required', '/v1/stream speaks WebSocket only');
      },
      wsHandler: (socket, request) => {
        new SocketSession(socket, {
          services,
          checks: frameChecks(request),
          log: request.log,
          turns,
          connection: request.raw.socket,
        });
      },
    });
  };
}
