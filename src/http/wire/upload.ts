/** A multipart upload of the two PEFT files, streamed to the adapter layer's upload folder. */
import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { MultipartFile } from '@fastify/multipart';
import type { FastifyRequest } from 'fastify';
import type { AdapterService, AdapterSource } from '../../adapters/service-types.ts';
import { LoramuxError } from '../../errors.ts';

const CONFIG_FILE = 'adapter_config.json';
const WEIGHTS_FILE = 'adapter_model.safetensors';
type FileName = typeof CONFIG_FILE | typeof WEIGHTS_FILE;

const PICKLE = /\.(?:bin|pt|pth|pkl|ckpt)$/i;

export type UploadTarget = Pick<AdapterService, 'limits' | 'uploadDir'>;

/** Which of the two files a part is, by its file name or, failing that, by its field's name. */
function fileNameOf(part: MultipartFile): FileName {
  const given = part.filename === undefined ? '' : path.basename(part.filename);
  for (const name of [given, part.fieldname]) {
    if (name === CONFIG_FILE || name === WEIGHTS_FILE) return name;
  }
  if (PICKLE.test(given)) {
    throw new LoramuxError(
      'adapter_pickle_refused',
      `${given} is a pickle, which can run code when read; save the adapter as ${WEIGHTS_FILE}`,
      { param: given },
    );
  }
  throw new LoramuxError(
    'invalid_request',
    `the upload has a file ${JSON.stringify(given || part.fieldname)}; it takes exactly ` +
      `${CONFIG_FILE} and ${WEIGHTS_FILE}`,
    { param: given || part.fieldname },
  );
}

/** The form parser's complaints have neither a code nor a system error number. */
function isFormError(error: unknown): boolean {
  return error instanceof Error && !('code' in error);
}

/** Passes bytes on up to a limit. */
function atMost(bytesMax: number, name: FileName) {
  return async function* (source: AsyncIterable<Buffer>) {
    let bytes = 0;
    for await (const chunk of source) {
      bytes += chunk.length;
      if (bytes > bytesMax) {
        throw new LoramuxError('adapter_too_large', `${name} exceeds ${bytesMax} bytes`, {
          param: name,
        });
      }
      yield chunk;
    }
  };
}

/**
 * Writes the two files below `target.uploadDir`. Nothing stays when it throws; on success the files
 * belong to the caller.
 *
 * @throws LoramuxError adapter_upload_incomplete, adapter_too_large, adapter_pickle_refused,
 *   invalid_request
 */
export async function receiveUpload(
  request: FastifyRequest,
  target: UploadTarget,
): Promise<AdapterSource> {
  const { maxAdapterBytes, maxConfigBytes } = target.limits;
  const bytesMax = { [CONFIG_FILE]: maxConfigBytes, [WEIGHTS_FILE]: maxAdapterBytes };
  const written = new Map<FileName, string>();
  try {
    const parts = request.parts({
      // One byte more than allowed, so that our own check with its own message comes first.
      limits: { fileSize: maxAdapterBytes + 1, files: 3, fields: 0, parts: 4 },
    });
    for await (const part of parts) {
      if (part.type !== 'file') continue;
      const name = fileNameOf(part);
      if (written.has(name)) {
        throw new LoramuxError('invalid_request', `the upload has ${name} twice`, { param: name });
      }
      const file = path.join(target.uploadDir, `${randomUUID()}-${name}`);
      written.set(name, file);
      await pipeline(part.file, atMost(bytesMax[name], name), createWriteStream(file));
    }
    const configPath = written.get(CONFIG_FILE);
    const weightsPath = written.get(WEIGHTS_FILE);
    if (configPath === undefined || weightsPath === undefined) {
      const missing = configPath === undefined ? CONFIG_FILE : WEIGHTS_FILE;
      throw new LoramuxError('adapter_upload_incomplete', `the upload lacks ${missing}`, {
        param: missing,
      });
    }
    return { kind: 'files', configPath, weightsPath };
  } catch (error) {
    // The client may still be sending; its answer would be lost if nobody read the rest.
    request.raw.unpipe();
    request.raw.resume();
    await Promise.all([...written.values()].map((file) => rm(file, { force: true })));
    if (!isFormError(error)) throw error;
    throw new LoramuxError('invalid_request', `the form is malformed: ${String(error)}`, {
      cause: error,
    });
  }
}
