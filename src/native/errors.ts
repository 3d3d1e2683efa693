/** Native failures as LoramuxErrors; the native error stays as the cause, with its own code. */
import { type ErrorCode, LoramuxError } from '../errors.ts';
import type { NativeErrorCode } from './addon-types.ts';

/** What each native code means to the rest of the server. */
const ERROR_CODES: Record<NativeErrorCode, ErrorCode> = {
  native_ort_library: 'native_addon_missing',
  native_ort_version: 'native_addon_missing',
  native_model_load: 'engine_failed',
  // The packer, the residency and the options check come first, so these are defects of ours.
  native_invalid_argument: 'internal_error',
  native_slot_busy: 'internal_error',
  native_step_failed: 'engine_failed',
  native_adapter_load: 'adapter_load_failed',
  native_session_closed: 'shutting_down',
  native_out_of_memory: 'engine_failed',
};

/** The stable code of a native error, also when it is the cause of a LoramuxError. */
export function nativeErrorCode(error: unknown): NativeErrorCode | undefined {
  if (!(error instanceof Error)) return undefined;
  const code = 'code' in error ? error.code : undefined;
  if (typeof code === 'string' && Object.hasOwn(ERROR_CODES, code)) return code as NativeErrorCode;
  return nativeErrorCode(error.cause);
}

/**
 * @param what the operation in words, e.g. 'Loading the adapter'; begins the message.
 * @param overrides codes that mean something else in this operation.
 */
export function fromNativeError(
  error: unknown,
  what: string,
  overrides: Partial<Record<NativeErrorCode, ErrorCode>> = {},
): LoramuxError {
  const code = nativeErrorCode(error);
  const message = error instanceof Error ? error.message : String(error);
  const mapped = code === undefined ? 'internal_error' : (overrides[code] ?? ERROR_CODES[code]);
  return new LoramuxError(mapped, `${what} failed: ${message}.`, { cause: error });
}
