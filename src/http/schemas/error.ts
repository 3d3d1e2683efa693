/** OpenAI's error object. */
import { Type } from 'typebox';
import { ERRORS, type ErrorCode, type LoramuxError } from '../../errors.ts';

export const ErrorSchema = Type.Object({
  error: Type.Object({
    message: Type.String({ description: 'What is wrong, where, and what to do.' }),
    type: Type.String({ enum: [...new Set(Object.values(ERRORS).map(({ type }) => type))] }),
    param: Type.Union([Type.String(), Type.Null()], { description: 'The request field at fault.' }),
    code: Type.String({ description: 'A stable code; docs/errors.md lists them.' }),
    current_generation: Type.Optional(
      Type.Union([Type.String(), Type.Null()], {
        description: 'With generation_mismatch: what is current; null when there is no such name.',
      }),
    ),
  }),
});

export interface ErrorBody {
  error: {
    message: string;
    type: string;
    param: string | null;
    code: ErrorCode;
    current_generation?: string | null;
  };
}

export function errorBody(error: LoramuxError): ErrorBody {
  const { message, type, param, code, currentGeneration } = error;
  return {
    error: {
      message,
      type,
      param: param ?? null,
      code,
      ...(currentGeneration !== undefined && { current_generation: currentGeneration }),
    },
  };
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

/** What a route may answer whose body, if one is sent, is read and not needed. */
export const BODILESS_ERRORS = [
  ...PLAIN_ERRORS,
  'unknown_field',
  'payload_too_large',
  'unsupported_media_type',
] as const satisfies readonly ErrorCode[];

/** What a change of a name may answer, besides what is wrong with the request. */
export const CHANGE_ERRORS = [
  'generation_mismatch',
  'registry_conflict',
  'registry_unavailable',
  'registry_outcome_unknown',
  'registry_lost',
  'blob_missing',
  'blob_unavailable',
  'store_corrupt',
] as const satisfies readonly ErrorCode[];

/** What the content of an adapter can be refused for. */
const CONTENT_ERRORS = (Object.keys(ERRORS) as ErrorCode[]).filter(
  (code) => ERRORS[code].status === 422 && /^(?:adapter|archive|safetensors)_/.test(code),
);

/** What a new generation may be refused for, wherever it comes from. */
export const SOURCE_ERRORS: readonly ErrorCode[] = [
  ...CONTENT_ERRORS,
  'chat_template_invalid',
  'adapter_name_invalid',
  'adapter_limit_exceeded',
  'adapter_too_large',
  'adapter_path_forbidden',
  'archive_limit_exceeded',
  'source_forbidden',
  'source_not_found',
  'source_unavailable',
  'queue_full',
];

/** What a route may answer that stays open while the server drains. */
export const ALWAYS_OPEN_ERRORS = [
  'invalid_request',
  'request_timeout',
  'headers_too_large',
  'internal_error',
] as const satisfies readonly ErrorCode[];
