/** OpenAI's error object. */
import { Type } from 'typebox';
import { ERRORS, type ErrorCode, type LoramuxError } from '../../errors.ts';

export const ErrorSchema = Type.Object({
  error: Type.Object({
    message: Type.String({ description: 'What is wrong, where, and what to do.' }),
    type: Type.String({ enum: [...new Set(Object.values(ERRORS).map(({ type }) => type))] }),
    param: Type.Union([Type.String(), Type.Null()], { description: 'The request field at fault.' }),
    code: Type.String({ description: 'A stable code; docs/errors.md lists them.' }),
  }),
});

export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: ErrorCode };
}

export function errorBody(error: LoramuxError): ErrorBody {
  const { message, type, param, code } = error;
  return { error: { message, type, param: param ?? null, code } };
}

/** The error answers of a route, by status, each naming the codes that come with it. */
export function errorResponses(
  codes: readonly ErrorCode[],
): Record<number, { description: string; 'x-codes': ErrorCode[] }> {
  const byStatus: Record<number, { description: string; 'x-codes': ErrorCode[] }> = {};
  for (const code of codes) {
    const { status } = ERRORS[code];
    byStatus[status] ??= { ...ErrorSchema, description: 'Refused.', 'x-codes': [] };
    byStatus[status]['x-codes'].push(code);
  }
  return byStatus;
}

/** What any route with a body may answer. */
export const BODY_ERRORS = [
  'invalid_request',
  'unknown_field',
  'payload_too_large',
  'unsupported_media_type',
  'request_timeout',
  'headers_too_large',
  'shutting_down',
  'internal_error',
] as const satisfies readonly ErrorCode[];

/** What any other route may answer. */
export const PLAIN_ERRORS = [
  'invalid_request',
  'request_timeout',
  'headers_too_large',
  'shutting_down',
  'internal_error',
] as const satisfies readonly ErrorCode[];

/** What a route may answer that stays open while the server drains. */
export const ALWAYS_OPEN_ERRORS = [
  'invalid_request',
  'request_timeout',
  'headers_too_large',
  'internal_error',
] as const satisfies readonly ErrorCode[];
