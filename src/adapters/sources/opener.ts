/** Any source of an adapter -> its two PEFT files on local disk. */
import { LoramuxError } from '../../errors.ts';
import type { AdapterSource } from '../service-types.ts';
import { extractArchive } from './archive.ts';
import type { ArchiveLimits, ExtractedFiles } from './archive-contents.ts';
import { GuardedHttp, type GuardOptions, type Resolve } from './guarded-http.ts';
import { fetchFromHub } from './hub.ts';
import { openSourceDir } from './source-dir.ts';
import type { OpenedSource, SourceOpener } from './types.ts';
import { fetchUrl } from './url.ts';
import { type OnWarning, WorkFiles } from './work-files.ts';

export interface SourceOpenerOptions {
  /** Absolute folder for temporary files; it exists. Nothing is ever written outside of it. */
  readonly workDir: string;
  /** Resolved; undefined forbids directories. */
  readonly adapterRoot: string | undefined;
  readonly limits: ArchiveLimits;
  readonly hub: { readonly endpoint: string; readonly token?: string | undefined };
  /** Whether to fetch from the hub and from URLs. */
  readonly remote: boolean;
  /** Whether to fetch from any address, and by http. All ports are allowed either way. */
  readonly allowPrivate: boolean;
  /** For one remote source as a whole. */
  readonly timeoutMs: number;
  /** A temporary file could not be removed. */
  readonly onWarning: OnWarning;
  /** Instead of the system's name service. */
  readonly resolve?: Resolve;
}

type RemoteSource = Extract<AdapterSource, { kind: 'hub' | 'url' }>;

/** @throws LoramuxError config_invalid. */
export function createSourceOpener(options: SourceOpenerOptions): SourceOpener {
  return new Sources(options);
}

class Sources implements SourceOpener {
  readonly #options: SourceOpenerOptions;
  readonly #endpoint: URL;

  constructor(options: SourceOpenerOptions) {
    this.#options = options;
    this.#endpoint = checkEndpoint(options.hub.endpoint);
  }

  async open(source: AdapterSource, signal: AbortSignal): Promise<OpenedSource> {
    signal.throwIfAborted();
    const { adapterRoot, limits, workDir, onWarning } = this.#options;
    switch (source.kind) {
      case 'directory': {
        const dir = await openSourceDir(adapterRoot, source.path);
        return { ...dir, root: adapterRoot, cleanup: async () => undefined };
      }
      case 'files': {
        const { kind: _, ...files } = source;
        return { ...files, root: undefined, label: 'upload', cleanup: async () => undefined };
      }
    }
    const work = new WorkFiles(workDir, onWarning);
    const cleanup = () => work.cleanup();
    try {
      const opened =
        source.kind === 'archive'
          ? {
              ...(await extractArchive(source.path, source.format, limits, work, signal)),
              label: 'upload',
            }
          : await this.#fetch(source, work, signal);
      return { ...opened, root: undefined, cleanup };
    } catch (error) {
      await cleanup();
      throw error;
    }
  }

  async #fetch(
    source: RemoteSource,
    work: WorkFiles,
    signal: AbortSignal,
  ): Promise<ExtractedFiles & { readonly label: string }> {
    const { remote, limits, hub, timeoutMs } = this.#options;
    if (!remote) {
      throw new LoramuxError(
        'source_forbidden',
        'Fetching adapters from the hub and from URLs is turned off; upload the files.',
      );
    }
    const http = new GuardedHttp(this.#guard(source));
    const deadline = new Deadline(signal, timeoutMs);
    try {
      if (source.kind === 'url') {
        return await fetchUrl(http, source.url, limits, work, deadline.signal);
      }
      const endpoint = this.#endpoint.href.replace(/\/+$/, '');
      const at = { endpoint, token: hub.token };
      return await fetchFromHub(http, at, source, limits, work, deadline.signal);
    } finally {
      deadline.clear();
      await http.close();
    }
  }

  #guard(source: RemoteSource): GuardOptions {
    const { allowPrivate, resolve } = this.#options;
    return {
      allowPrivate,
      ...(resolve === undefined ? {} : { resolve }),
      // The operator chose it; a URL of a client never gets this.
      ...(source.kind === 'hub' ? { trustedOrigin: this.#endpoint.origin } : {}),
    };
  }
}

/** Another signal's abort, or the time limit, whichever comes first. */
class Deadline {
  readonly signal: AbortSignal;
  readonly clear: () => void;

  constructor(outer: AbortSignal, timeoutMs: number) {
    const controller = new AbortController();
    const onAbort = () => controller.abort(outer.reason);
    const timer = setTimeout(() => {
      controller.abort(
        new LoramuxError('source_unavailable', `The source was not read within ${timeoutMs} ms.`),
      );
    }, timeoutMs);
    if (outer.aborted) onAbort();
    outer.addEventListener('abort', onAbort, { once: true });
    this.signal = controller.signal;
    this.clear = () => {
      clearTimeout(timer);
      outer.removeEventListener('abort', onAbort);
    };
  }
}

function checkEndpoint(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isPlain = url?.username === '' && url.password === '' && url.search + url.hash === '';
  if (url !== undefined && isPlain && ['http:', 'https:'].includes(url.protocol)) return url;
  throw new LoramuxError(
    'config_invalid',
    'The hub endpoint must be an http or https URL without credentials and query.',
  );
}
