/** Typed wrapper of the native session: checks options, translates errors. */
import { isAbsolute } from 'node:path';
import { LoramuxError } from '../errors.ts';
import type {
  AdapterImage,
  NativeProbe,
  NativeSession,
  NativeSessionInfo,
  NativeSessionOptions,
  StepPacket,
  StepResult,
} from './addon-types.ts';
import { fromNativeError } from './errors.ts';
import { loadAddon } from './loader.ts';
import { locateOrtLibrary } from './locate.ts';

/** As NativeSessionOptions; the library is found unless it is named. */
export type CreateNativeSessionOptions = Omit<NativeSessionOptions, 'ortLibraryPath'> & {
  ortLibraryPath?: string;
};

/**
 * Loads a model into a native session.
 * @throws LoramuxError native_addon_missing, config_invalid, engine_failed (the model does not
 *   load, or memory is short)
 */
export async function createNativeSession(
  options: CreateNativeSessionOptions,
): Promise<NativeSession> {
  checkOptions(options);
  const addon = loadAddon();
  const ortLibraryPath = options.ortLibraryPath ?? locateOrtLibrary();
  try {
    return new Session(await addon.createSession({ ...options, ortLibraryPath }));
  } catch (error) {
    throw fromNativeError(error, 'Starting the native session', {
      native_invalid_argument: 'config_invalid',
    });
  }
}

/**
 * Facts about the machine and the build.
 * @throws LoramuxError native_addon_missing
 */
export function probeNative(ortLibraryPath: string = locateOrtLibrary()): NativeProbe {
  const addon = loadAddon();
  try {
    return addon.probe(ortLibraryPath);
  } catch (error) {
    throw fromNativeError(error, 'Opening ONNX Runtime');
  }
}

/** Limits that have a reason in JavaScript; the addon checks everything again. */
function checkOptions(options: CreateNativeSessionOptions): void {
  const positive = [
    'intraOpThreads',
    'numBlocks',
    'blockSize',
    'maxTokensPerStep',
    'maxLogitRowsPerStep',
  ] as const;
  for (const name of positive) {
    const value = options[name];
    if (!Number.isInteger(value) || value < 1) {
      throw new LoramuxError(
        'config_invalid',
        `${name} must be a whole number of at least 1, got ${value}.`,
      );
    }
  }
  if (!Number.isInteger(options.maxSlots) || options.maxSlots < 0) {
    throw new LoramuxError(
      'config_invalid',
      `maxSlots must be a whole number of at least 0, got ${options.maxSlots}.`,
    );
  }
  if (!isAbsolute(options.model.externalDataDir)) {
    throw new LoramuxError(
      'config_invalid',
      `The model's folder must be an absolute path, got '${options.model.externalDataDir}'.`,
    );
  }
}

class Session implements NativeSession {
  readonly info: NativeSessionInfo;
  readonly #handle: NativeSession;

  constructor(handle: NativeSession) {
    this.info = handle.info;
    this.#handle = handle;
  }

  async step(packet: StepPacket, wantLogits = false): Promise<StepResult> {
    try {
      return await this.#handle.step(packet, wantLogits);
    } catch (error) {
      throw fromNativeError(error, 'The step');
    }
  }

  async loadAdapter(slot: number, image: AdapterImage): Promise<{ bytes: number; loadMs: number }> {
    try {
      return await this.#handle.loadAdapter(slot, image);
    } catch (error) {
      throw fromNativeError(error, `Loading the adapter into slot ${slot}`, {
        native_out_of_memory: 'adapter_load_failed',
      });
    }
  }

  freeAdapter(slot: number): void {
    try {
      this.#handle.freeAdapter(slot);
    } catch (error) {
      throw fromNativeError(error, `Freeing slot ${slot}`);
    }
  }

  close(hurried = false): Promise<void> {
    return this.#handle.close(hurried);
  }
}
