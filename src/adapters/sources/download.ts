/** A remote file -> a new file in the work folder, counted while it comes. */
import { createHash } from 'node:crypto';
import { LoramuxError } from '../../errors.ts';
import { type GuardedResponse, shownUrl, transferError } from './guarded-http.ts';
import { isDiskError, type WorkFiles, writeAll } from './work-files.ts';

export interface Downloaded {
  readonly path: string;
  readonly bytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
}

/**
 * @param tooLarge what to throw as soon as more than `maxBytes` are announced or come.
 * @throws LoramuxError source_unavailable; the signal's reason.
 */
export async function download(
  response: GuardedResponse,
  maxBytes: number,
  tooLarge: () => LoramuxError,
  work: WorkFiles,
  suffix: string,
  signal: AbortSignal,
): Promise<Downloaded> {
  const { body, url } = response;
  try {
    if (Number(response.header('content-length') ?? 0) > maxBytes) throw tooLarge();
    const hash = createHash('sha256');
    let bytes = 0;
    const path = await work.write(suffix, async (target) => {
      for await (const chunk of body as AsyncIterable<Buffer>) {
        bytes += chunk.length;
        if (bytes > maxBytes) throw tooLarge();
        hash.update(chunk);
        await writeAll(target, chunk);
      }
    });
    return { path, bytes, sha256: hash.digest('hex') };
  } catch (error) {
    body.destroy();
    // A full disk is no fault of the source.
    if (!signal.aborted && isDiskError(error)) throw error;
    throw transferError(error, url, signal);
  }
}

/** The whole body as text. @throws LoramuxError source_unavailable; the signal's reason. */
export async function readText(
  response: GuardedResponse,
  maxBytes: number,
  signal: AbortSignal,
): Promise<string> {
  const { body, url } = response;
  try {
    const chunks: Buffer[] = [];
    let bytes = 0;
    for await (const chunk of body as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > maxBytes) {
        throw new LoramuxError(
          'source_unavailable',
          `${shownUrl(url)} answered more than ${maxBytes} bytes.`,
        );
      }
      chunks.push(chunk);
    }
    return Buffer.concat(chunks).toString();
  } catch (error) {
    body.destroy();
    throw transferError(error, url, signal);
  }
}
