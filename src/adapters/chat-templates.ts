/** The chat templates in a stored canonical file. */
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { LoramuxError } from '../errors.ts';
import { parseSafetensorsHeader } from '../importer/safetensors/header.ts';
import type { NamedTemplates } from '../jinja/named-templates.ts';
import type { BlobFiles } from './blobs/types.ts';
import { MAX_ADAPTER_HEADER_BYTES } from './formats/canonical-file.ts';
import { templatesOfHeader } from './formats/chat-templates.ts';
import type { GenerationMeta } from './registry/types.ts';

/**
 * Reads the header of a generation's file, which is fetched first when it is not here.
 * @throws LoramuxError store_corrupt, blob_missing, blob_unavailable
 */
export async function readStoredTemplates(
  files: Pick<BlobFiles, 'ensureLocal' | 'reject'>,
  meta: GenerationMeta,
): Promise<NamedTemplates> {
  const { digest, headerBytes, headerDigest, fileBytes } = meta;
  const local = await files.ensureLocal(meta);
  try {
    const bytes = await readStart(local.path, Math.min(headerBytes, MAX_ADAPTER_HEADER_BYTES));
    if (createHash('sha256').update(bytes).digest('hex') === headerDigest) {
      return templatesOfHeader(parseSafetensorsHeader(bytes, fileBytes));
    }
  } finally {
    local.release();
  }
  // Whoever loads it next fetches it again.
  await files.reject(digest);
  throw new LoramuxError(
    'store_corrupt',
    `The stored adapter file ${digest} is damaged: its header is not what was registered.`,
  );
}

async function readStart(path: string, bytes: number): Promise<Uint8Array> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(new Uint8Array(bytes), 0, bytes, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
