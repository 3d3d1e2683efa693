/** The only way to the compiled addon. */
export type * from './addon-types.ts';
export { LORA_MODULES, MAX_TOP_LOGPROBS, PACKED_FORMATS } from './addon-types.ts';
export { nativeErrorCode } from './errors.ts';
export { ADDON_VARIABLE, locateOrtLibrary, ORT_LIBRARY_VARIABLE } from './locate.ts';
export { packLevels, packWeights } from './pack.ts';
export { type CreateNativeSessionOptions, createNativeSession, probeNative } from './session.ts';
export {
  type SessionReport,
  type SessionState,
  SupervisedSession,
  type SupervisorOptions,
} from './supervised-session.ts';
