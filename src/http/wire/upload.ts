/** Uploads of an adapter, streamed to the adapter layer's upload folder. */
import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { MultipartFile } from '@fastify/multipart';
import type { FastifyRequest } from 'fastify';
import type { AdapterService, AdapterSource } from '../../adapters/service-types.ts';
import { LoramuxError } from '../../errors.ts';

const CONFIG_FILE = 'adapter_config.json';
const WEIGHTS_FILE = 'adapter_model.safetensors';
const TEMPLATE_FILE = 'chat_template.jinja';
const TOKENIZER_FILE = 'tokenizer_config.json';
const ADAPTER_FILES = [CONFIG_FILE, WEIGHTS_FILE, TEMPLATE_FILE, TOKENIZER_FILE] as const;
type AdapterFile = (typeof ADAPTER_FILES)[number];

/** The files, and one more to complain about by name. */
const FILES_MAX = ADAPTER_FILES.length + 1;

const PICKLE = /\.(?:bin|pt|pth|pkl|ckpt)$/i;
/** Characters of a file name the client made up that an error repeats. */
const FILE_NAME_LENGTH_MAX = 128;

export type ArchiveFormat = Extract<AdapterSource, { kind: 'archive' }>['format'];

/** Content types of an archive as the body; clients name one format in several ways. */
export const ARCHIVE_TYPES: Readonly<Record<string, ArchiveFormat>> = {
  'application/zip': 'zip',
  'application/x-zip-compressed': 'zip',
  'application/gzip': 'tar.gz',
  'application/x-gzip': 'tar.gz',
  'application/x-tar+gzip': 'tar.gz',
  'application/x-gtar': 'tar.gz',
  'application/x-tgz': 'tar.gz',
};

export type UploadTarget = Pick<AdapterService, 'limits' | 'uploadDir'>;

/** What a form's part is. */
type Part =
  | { readonly kind: 'peft'; readonly name: AdapterFile }
  | { readonly kind: 'archive'; readonly name: string; readonly format: ArchiveFormat };

const archiveFormatOf = (name: string): ArchiveFormat | undefined => {
  if (/\.zip$/i.test(name)) return 'zip';
  return /\.(?:tar\.gz|tgz)$/i.test(name) ? 'tar.gz' : undefined;
};

/** By its file name or, failing that, by its field's name. */
function partOf(file: MultipartFile): Part {
  const given = (file.filename === undefined ? '' : path.basename(file.filename)).slice(
    0,
    FILE_NAME_LENGTH_MAX,
  );
  const field = file.fieldname.slice(0, FILE_NAME_LENGTH_MAX);
  for (const name of [given, field]) {
    const known = ADAPTER_FILES.find((file) => file === name);
    if (known !== undefined) return { kind: 'peft', name: known };
  }
  for (const name of [given, field]) {
    const format = archiveFormatOf(name);
    if (format !== undefined) return { kind: 'archive', name, format };
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
    `the upload has a file ${JSON.stringify(given || field)}; it takes ${CONFIG_FILE} and ` +
      `${WEIGHTS_FILE}, with ${TEMPLATE_FILE} and ${TOKENIZER_FILE} if the adapter has a chat ` +
      'template of its own, or one .zip or .tar.gz',
    { param: given || field },
  );
}

function bytesMaxOf(part: Part, target: UploadTarget): number {
  const { limits } = target;
  if (part.kind === 'archive') return limits.maxArchiveBytes;
  return {
    [CONFIG_FILE]: limits.maxConfigBytes,
    [WEIGHTS_FILE]: limits.maxAdapterBytes,
    [TEMPLATE_FILE]: limits.maxChatTemplateBytes,
    [TOKENIZER_FILE]: limits.maxTokenizerConfigBytes,
  }[part.name];
}

const tooLarge = (name: string, bytesMax: number) =>
  new LoramuxError(
    'adapter_too_large',
    `${name} exceeds ${bytesMax} bytes` +
      (ADAPTER_FILES.some((file) => file === name && file !== WEIGHTS_FILE)
        ? ''
        : '; make it smaller, or raise --max-adapter-mb'),
    { param: name },
  );

/** Passes bytes on up to a limit. */
function atMost(bytesMax: number, name: string) {
  return async function* (source: AsyncIterable<Buffer>) {
    let bytes = 0;
    for await (const chunk of source) {
      bytes += chunk.length;
      if (bytes > bytesMax) throw tooLarge(name, bytesMax);
      yield chunk;
    }
  };
}

/**
 * Writes a new file of at most so many bytes and returns how many they were. When it throws, nothing
 * is written any more: a file that is still being opened would come to be after its removal.
 */
async function writeFile(
  source: Readable,
  file: string,
  bytesMax: number,
  name: string,
): Promise<number> {
  const writer = createWriteStream(file, { flags: 'wx' });
  const closed = new Promise<void>((resolve) => writer.once('close', resolve));
  try {
    await pipeline(source, atMost(bytesMax, name), writer);
  } finally {
    await closed;
  }
  return writer.bytesWritten;
}

/** The form parser's complaints have neither a code nor a system error number. */
function isFormError(error: unknown): boolean {
  return error instanceof Error && !('code' in error);
}

/** After a failed upload: what the client is told, once nothing of it is left. */
async function giveUp(
  request: FastifyRequest,
  files: readonly string[],
  error: unknown,
): Promise<never> {
  // The client may still be sending; its answer would be lost if nobody read the rest.
  request.raw.unpipe();
  request.raw.resume();
  await Promise.all(files.map((file) => rm(file, { force: true })));
  if (error instanceof LoramuxError) throw error;
  if (request.raw.readableAborted || request.raw.errored) {
    throw new LoramuxError('invalid_request', 'the upload broke off', { cause: error });
  }
  if (!isFormError(error)) throw error;
  throw new LoramuxError('invalid_request', `the form is malformed: ${String(error)}`, {
    cause: error,
  });
}

/** The source that the received files are. */
function sourceOf(received: ReadonlyMap<string, { file: string; part: Part }>): AdapterSource {
  const all = [...received.values()];
  const archive = all.find(({ part }) => part.kind === 'archive');
  if (archive?.part.kind === 'archive') {
    if (all.length === 1) {
      return { kind: 'archive', path: archive.file, format: archive.part.format };
    }
    throw new LoramuxError(
      'invalid_request',
      `the upload has an archive, ${JSON.stringify(archive.part.name)}, and other files; send ` +
        'either one archive or the two files',
      { param: archive.part.name },
    );
  }
  const configPath = received.get(CONFIG_FILE)?.file;
  const weightsPath = received.get(WEIGHTS_FILE)?.file;
  if (configPath === undefined || weightsPath === undefined) {
    const missing = configPath === undefined ? CONFIG_FILE : WEIGHTS_FILE;
    throw new LoramuxError('adapter_upload_incomplete', `the upload lacks ${missing}`, {
      param: missing,
    });
  }
  return {
    kind: 'files',
    configPath,
    weightsPath,
    chatTemplatePath: received.get(TEMPLATE_FILE)?.file,
    tokenizerConfigPath: received.get(TOKENIZER_FILE)?.file,
  };
}

/**
 * Writes a form's two files, or its one archive, below `target.uploadDir`. Nothing stays when it
 * throws; on success the files belong to the caller.
 *
 * @throws LoramuxError adapter_upload_incomplete, adapter_too_large, adapter_pickle_refused,
 *   invalid_request
 */
export async function receiveForm(
  request: FastifyRequest,
  target: UploadTarget,
): Promise<AdapterSource> {
  const received = new Map<string, { file: string; part: Part }>();
  try {
    const parts = request.parts({
      // One byte more than allowed, so that our own check with its own message comes first.
      limits: {
        fileSize: target.limits.maxArchiveBytes + 1,
        files: FILES_MAX,
        fields: 0,
        parts: FILES_MAX + 1,
      },
    });
    for await (const upload of parts) {
      if (upload.type !== 'file') continue;
      const part = partOf(upload);
      if (received.has(part.name)) {
        throw new LoramuxError('invalid_request', `the upload has ${part.name} twice`, {
          param: part.name,
        });
      }
      const file = newFile(target);
      received.set(part.name, { file, part });
      await writeFile(upload.file, file, bytesMaxOf(part, target), part.name);
    }
    return sourceOf(received);
  } catch (error) {
    const files = [...received.values()].map(({ file }) => file);
    return giveUp(request, files, error);
  }
}

const newFile = ({ uploadDir }: UploadTarget) => path.join(uploadDir, randomUUID());

/**
 * Writes a body that is an archive below `target.uploadDir`; as `receiveForm`.
 *
 * @throws LoramuxError adapter_too_large, adapter_upload_incomplete, invalid_request
 */
export async function receiveArchive(
  request: FastifyRequest,
  body: Readable,
  format: ArchiveFormat,
  target: UploadTarget,
): Promise<AdapterSource> {
  const file = newFile(target);
  const bytesMax = target.limits.maxArchiveBytes;
  try {
    if (Number(request.headers['content-length'] ?? 0) > bytesMax) {
      throw tooLarge('the archive', bytesMax);
    }
    if ((await writeFile(body, file, bytesMax, 'the archive')) === 0) {
      throw new LoramuxError('adapter_upload_incomplete', 'the body is empty; send an archive');
    }
    return { kind: 'archive', path: file, format };
  } catch (error) {
    return giveUp(request, [file], error);
  }
}
