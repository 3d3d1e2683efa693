/** An archive file of either kind -> the two files of the adapter in it. */
import { open } from 'node:fs/promises';
import { type ArchiveLimits, type ExtractedFiles, invalid } from './archive-contents.ts';
import { extractTarGz } from './tar-gz.ts';
import type { WorkFiles } from './work-files.ts';
import { extractZip } from './zip.ts';

export type ArchiveFormat = 'zip' | 'tar.gz';

const MAGIC_BYTES = 4;

/**
 * Unpacks adapter_config.json and adapter_model.safetensors into new files of `work`. They may lie
 * at the top or in any one folder; everything else is passed over unread.
 *
 * @param format what the sender says it is; undefined to go by the content alone.
 * @throws LoramuxError archive_invalid, archive_unsafe, archive_limit_exceeded, adapter_too_large,
 *   adapter_upload_incomplete, adapter_pickle_refused; the signal's reason.
 */
export async function extractArchive(
  file: string,
  format: ArchiveFormat | undefined,
  limits: ArchiveLimits,
  work: WorkFiles,
  signal: AbortSignal,
): Promise<ExtractedFiles> {
  signal.throwIfAborted();
  const actual = await formatOf(file);
  if (actual === undefined) throw invalid('it is neither a .zip nor a .tar.gz');
  if (format !== undefined && format !== actual) {
    throw invalid(`it was sent as .${format} but is a .${actual} by its first bytes`);
  }
  const extract = actual === 'zip' ? extractZip : extractTarGz;
  return extract(file, limits, work, signal);
}

/** What the first bytes of the file say. */
async function formatOf(file: string): Promise<ArchiveFormat | undefined> {
  const handle = await open(file, 'r');
  try {
    const magic = Buffer.alloc(MAGIC_BYTES);
    await handle.read(magic, 0, MAGIC_BYTES, 0);
    if (magic[0] === 0x1f && magic[1] === 0x8b) return 'tar.gz';
    // Either a local header, or the end record of an archive without entries.
    const isZip = ['PK\x03\x04', 'PK\x05\x06'].includes(magic.toString('latin1'));
    return isZip ? 'zip' : undefined;
  } finally {
    await handle.close();
  }
}
