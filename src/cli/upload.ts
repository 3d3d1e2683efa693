/** Local adapters as request bodies, read while they are sent and never held in memory. */
import { randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { LoramuxError } from '../errors.ts';
import type { Upload } from './client.ts';

const FILES = ['adapter_config.json', 'adapter_model.safetensors'] as const;
/** Sent where they are: they may have a chat template. */
const CHAT_FILES = ['chat_template.jinja', 'tokenizer_config.json'];

/** The first `bytes` bytes of a file; throws when it has become shorter. */
async function* readFile(file: string, bytes: number): AsyncGenerator<Buffer> {
  if (bytes === 0) return;
  let read = 0;
  for await (const chunk of createReadStream(file, { end: bytes - 1 })) {
    read += (chunk as Buffer).length;
    yield chunk as Buffer;
  }
  if (read === bytes) return;
  throw new LoramuxError(
    'adapter_upload_incomplete',
    `${file} became shorter while it was sent; push again when nobody writes to it`,
  );
}

async function sizeOf(folder: string, file: string): Promise<number> {
  try {
    return (await stat(path.join(folder, file))).size;
  } catch (cause) {
    const names: string[] = await readdir(folder).catch(() => []);
    if (file === FILES[1] && names.includes('adapter_model.bin')) {
      throw new LoramuxError(
        'adapter_pickle_refused',
        `${folder} has adapter_model.bin, a pickle file; save it as safetensors with PEFT's ` +
          'save_pretrained(..., safe_serialization=True)',
        { cause },
      );
    }
    throw new LoramuxError(
      'adapter_upload_incomplete',
      `${folder} has no ${file}; save the adapter with PEFT's save_pretrained`,
      { cause },
    );
  }
}

/**
 * The two files of a PEFT folder, and those that may have its chat template, as multipart/form-data;
 * other files are left out.
 * @throws LoramuxError adapter_upload_incomplete, adapter_pickle_refused
 */
export async function folderUpload(folder: string): Promise<Upload> {
  const boundary = `loramux-${randomUUID()}`;
  const parts: { file: string; bytes: number; head: Buffer }[] = [];
  const present: string[] = await readdir(folder).catch(() => []);
  const names = [...FILES, ...CHAT_FILES.filter((name) => present.includes(name))];
  for (const name of names) {
    const head =
      `--${boundary}\r\ncontent-disposition: form-data; name="files"; filename="${name}"\r\n` +
      'content-type: application/octet-stream\r\n\r\n';
    const bytes = await sizeOf(folder, name);
    parts.push({ file: path.join(folder, name), bytes, head: Buffer.from(head) });
  }
  const end = Buffer.from('\r\n');
  const tail = Buffer.from(`--${boundary}--\r\n`);
  return {
    contentType: `multipart/form-data; boundary=${boundary}`,
    bytes: parts.reduce((sum, { bytes, head }) => sum + head.length + bytes + 2, tail.length),
    async *chunks() {
      for (const { file, bytes, head } of parts) {
        yield head;
        yield* readFile(file, bytes);
        yield end;
      }
      yield tail;
    },
  };
}

/** An archive as it is. */
export async function fileUpload(file: string, contentType: string): Promise<Upload> {
  const { size } = await stat(file);
  return { contentType, bytes: size, chunks: () => readFile(file, size) };
}
