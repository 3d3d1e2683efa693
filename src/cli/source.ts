/** What may be pushed: something here, or something that the server fetches. */
import { stat } from 'node:fs/promises';
import { LoramuxError } from '../errors.ts';
import { UsageError } from './output.ts';

export type PushSource =
  | { readonly kind: 'folder'; readonly path: string }
  | { readonly kind: 'archive'; readonly path: string; readonly contentType: string }
  /** The JSON body that tells the server where to look. */
  | { readonly kind: 'remote'; readonly body: Readonly<Record<string, string>> };

export const SOURCE_FORMS =
  'a PEFT folder, a .zip or .tar.gz file, hf://OWNER/NAME[@REVISION][/SUBFOLDER], ' +
  'an https:// URL of an archive, or server:PATH';

/** Revisions with slashes that the hub itself makes, or one part (encode other slashes as %2F). */
const HUB =
  /^hf:\/\/([^/@\s]+\/[^/@\s]+)(?:@(refs\/(?:pr|convert)\/[^/\s]+|[^/\s]+))?(?:\/(\S+?))?\/?$/;

const ARCHIVES: readonly (readonly [suffix: string, contentType: string])[] = [
  ['.zip', 'application/zip'],
  ['.tar.gz', 'application/gzip'],
  ['.tgz', 'application/gzip'],
];

function hubBody(source: string): Record<string, string> {
  const match = HUB.exec(source);
  if (match === null) {
    throw new UsageError(
      `${JSON.stringify(source)} is not of the form hf://OWNER/NAME[@REVISION][/SUBFOLDER]`,
    );
  }
  const [, repo, revision, subfolder] = match;
  const body: Record<string, string> = { repo: repo! };
  try {
    if (revision !== undefined) body.revision = decodeURIComponent(revision);
    if (subfolder !== undefined) body.subfolder = decodeURIComponent(subfolder);
  } catch (cause) {
    throw new UsageError(`${JSON.stringify(source)} has a malformed % escape`, { cause });
  }
  return body;
}

async function localSource(path: string): Promise<PushSource> {
  const stats = await stat(path).catch((cause: NodeJS.ErrnoException) => {
    const why = cause.code === 'ENOENT' ? 'does not exist' : `cannot be read (${cause.code})`;
    throw new LoramuxError(
      'adapter_upload_incomplete',
      `${path} ${why}; the source must be ${SOURCE_FORMS}`,
      { cause },
    );
  });
  if (stats.isDirectory()) return { kind: 'folder', path };
  const archive = ARCHIVES.find(([suffix]) => path.toLowerCase().endsWith(suffix));
  if (archive === undefined || !stats.isFile()) {
    throw new UsageError(`${path} is not an adapter; the source must be ${SOURCE_FORMS}`);
  }
  return { kind: 'archive', path, contentType: archive[1] };
}

/**
 * @throws UsageError when the text has none of the forms
 * @throws LoramuxError adapter_upload_incomplete when a local path does not exist
 */
export async function parseSource(source: string): Promise<PushSource> {
  if (source.startsWith('hf://')) return { kind: 'remote', body: hubBody(source) };
  // Plain http is the server's to refuse: it may be told to allow it inside its network.
  if (/^https?:\/\//.test(source)) return { kind: 'remote', body: { url: source } };
  if (source.startsWith('server:')) {
    const path = source.slice('server:'.length);
    if (path === '') throw new UsageError('server: must be followed by a path on the server');
    return { kind: 'remote', body: { path } };
  }
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(source)) {
    const scheme = source.slice(0, source.indexOf(':') + 3);
    throw new UsageError(`${scheme} is not supported; the source must be ${SOURCE_FORMS}`);
  }
  return localSource(source);
}
