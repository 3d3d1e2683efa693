/** Adapters registered by path: only below the configured root, links included. */
import { readdir, realpath } from 'node:fs/promises';
import path from 'node:path';
import { LoramuxError } from '../../errors.ts';
import { isInside } from '../convert/source-file.ts';
import { TEMPLATE_FILE, TOKENIZER_CONFIG_FILE } from '../formats/chat-templates.ts';
import type { ChatFilePaths } from '../service-types.ts';

export const CONFIG_FILE = 'adapter_config.json';
export const WEIGHTS_FILE = 'adapter_model.safetensors';
/** What torch.save leaves behind. */
export const PICKLE_FILE = /\.(bin|pt|pth|pkl|ckpt)$/;

export interface SourceDir extends ChatFilePaths {
  readonly configPath: string;
  readonly weightsPath: string;
  /** Path below the root, as it is shown to clients. */
  readonly label: string;
}

/**
 * @param root the configured adapter root, resolved; undefined when none is configured.
 * @param requested absolute, or relative to the root.
 * @throws LoramuxError adapter_path_forbidden, adapter_upload_incomplete, adapter_pickle_refused.
 */
export async function openSourceDir(
  root: string | undefined,
  requested: string,
): Promise<SourceDir> {
  if (root === undefined) {
    throw forbidden('Registering by path is off; start the server with an adapter root');
  }
  if (requested.includes('\0')) throw forbidden('The path has a NUL character');
  const lexical = path.resolve(root, requested);
  if (!isInside(lexical, root)) {
    throw forbidden('The path is outside of the configured adapter root');
  }
  const dir = await resolve(lexical);
  if (!isInside(dir, root)) {
    throw forbidden('The path leads out of the configured adapter root through a link');
  }
  let files: string[];
  try {
    files = await readdir(dir);
  } catch (cause) {
    throw new LoramuxError('adapter_upload_incomplete', 'The path is not a readable folder.', {
      cause,
    });
  }
  if (!files.includes(WEIGHTS_FILE)) {
    const pickle = files.find((file) => PICKLE_FILE.test(file));
    if (pickle !== undefined) {
      throw new LoramuxError(
        'adapter_pickle_refused',
        `The folder has ${JSON.stringify(pickle)} but no ${WEIGHTS_FILE}. Pickle files can run ` +
          'code and are never read; save the adapter as safetensors.',
      );
    }
  }
  for (const file of [CONFIG_FILE, WEIGHTS_FILE]) {
    if (!files.includes(file)) {
      throw new LoramuxError('adapter_upload_incomplete', `The folder has no ${file}.`);
    }
  }
  return {
    configPath: path.join(dir, CONFIG_FILE),
    weightsPath: path.join(dir, WEIGHTS_FILE),
    ...chatFilesOf(dir, files),
    label: path.relative(root, dir) || '.',
  };
}

/** Those of a folder's files that may bring a chat template. */
export function chatFilesOf(dir: string, files: readonly string[]): ChatFilePaths {
  const has = (file: string) => files.includes(file);
  return {
    ...(has(TEMPLATE_FILE) && { chatTemplatePath: path.join(dir, TEMPLATE_FILE) }),
    ...(has(TOKENIZER_CONFIG_FILE) && {
      tokenizerConfigPath: path.join(dir, TOKENIZER_CONFIG_FILE),
    }),
  };
}

async function resolve(lexical: string): Promise<string> {
  try {
    return await realpath(lexical);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new LoramuxError('adapter_upload_incomplete', 'The path does not exist.', { cause });
    }
    throw forbidden(`The path cannot be resolved (${code})`, cause);
  }
}

function forbidden(what: string, cause?: unknown): LoramuxError {
  return new LoramuxError('adapter_path_forbidden', `${what}.`, {
    param: 'path',
    ...(cause === undefined ? {} : { cause }),
  });
}
