/** An archive behind an https URL. */
import { LoramuxError } from '../../errors.ts';
import { extractArchive } from './archive.ts';
import { type ArchiveLimits, type ExtractedFiles, maxArchiveBytes } from './archive-contents.ts';
import { download } from './download.ts';
import { type GuardedHttp, type GuardedResponse, shownUrl } from './guarded-http.ts';
import type { WorkFiles } from './work-files.ts';

/**
 * @throws LoramuxError invalid_request, source_forbidden, source_not_found, source_unavailable,
 *   archive_limit_exceeded and the codes of `extractArchive`; the signal's reason.
 */
export async function fetchUrl(
  http: GuardedHttp,
  url: string,
  limits: ArchiveLimits,
  work: WorkFiles,
  signal: AbortSignal,
): Promise<ExtractedFiles & { readonly label: string }> {
  const response = await http.request(url, { signal });
  if (response.status !== 200) {
    response.body.destroy();
    throw refused(response);
  }
  const maxBytes = maxArchiveBytes(limits);
  const tooLarge = () =>
    new LoramuxError(
      'archive_limit_exceeded',
      `The archive at ${shownUrl(response.url)} has more than ${maxBytes} bytes.`,
    );
  const archive = await download(response, maxBytes, tooLarge, work, 'archive', signal);
  // By content, since neither the name nor the content type of a download can be relied on.
  const files = await extractArchive(archive.path, undefined, limits, work, signal);
  await work.remove(archive.path);
  return { ...files, label: shownUrl(new URL(url)) };
}

function refused(response: GuardedResponse): LoramuxError {
  const answer = `${shownUrl(response.url)} answered ${response.status}`;
  if (response.status === 404 || response.status === 410) {
    return new LoramuxError('source_not_found', `${answer}.`);
  }
  if (response.status === 401 || response.status === 403) {
    return new LoramuxError(
      'source_forbidden',
      `${answer}. The server sends no credentials; use an address that needs none.`,
    );
  }
  return new LoramuxError('source_unavailable', `${answer}.`);
}
