/**
 * A LoRA in a Hugging Face repository. The hub's own client asks for the commit and the sizes; the
 * bytes come by a download of our own. The client's `downloadFile` cannot be bounded the way this
 * server needs: for files in Xet storage it asks hosts that the answers name, with buffers and
 * parallel requests that it sizes itself, and it trusts the size it was told; its plain download
 * does not report a failed request through the stream. The `resolve` address serves the same bytes
 * by plain HTTP.
 */
import { LoramuxError } from '../../errors.ts';
import { TEMPLATE_FILE, TOKENIZER_CONFIG_FILE } from '../formats/chat-templates.ts';
import {
  type ArchiveLimits,
  checkChatFileSize,
  checkWantedSize,
  type ExtractedFiles,
  quote,
} from './archive-contents.ts';
import { download, readText } from './download.ts';
import type { GuardedHttp, GuardedResponse } from './guarded-http.ts';
import { CONFIG_FILE, WEIGHTS_FILE } from './source-dir.ts';
import type { WorkFiles } from './work-files.ts';

/** Answers about a repository; the hub's have some kilobytes. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;
const MAX_REVISION_LENGTH = 255;
const MAX_SUBFOLDER_LENGTH = 512;
const DEFAULT_REVISION = 'main';
const PICKLES = ['adapter_model.bin', 'adapter_model.pt', 'adapter_model.pth'];
/** `owner/name`, each as the hub allows it. */
const REPO = /^[A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9][\w.-]{0,95}$/;
const COMMIT = /^[0-9a-f]{40}$/;
const SHA256 = /^(?:sha256:)?([0-9a-f]{64})$/;

export interface HubSource {
  readonly repo: string;
  readonly revision: string | undefined;
  readonly subfolder: string | undefined;
}

export interface HubOptions {
  /** Base URL without a slash at its end. */
  readonly endpoint: string;
  readonly token: string | undefined;
}

/** One of the files, as the hub describes it. */
interface HubFile {
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string | undefined;
}

/**
 * @throws LoramuxError invalid_request, source_forbidden, source_not_found, source_unavailable,
 *   adapter_pickle_refused, adapter_too_large; the signal's reason.
 */
export async function fetchFromHub(
  http: GuardedHttp,
  hub: HubOptions,
  source: HubSource,
  limits: ArchiveLimits,
  work: WorkFiles,
  signal: AbortSignal,
): Promise<ExtractedFiles & { readonly label: string }> {
  const repo = new HubRepo(http, hub, source, signal);
  const commit = await repo.resolveCommit();
  const files = await repo.describe(commit);
  checkWantedSize('config', files.config.bytes, limits);
  checkWantedSize('weights', files.weights.bytes, limits);
  checkChatFileSize(TEMPLATE_FILE, files.template?.bytes ?? 0);
  checkChatFileSize(TOKENIZER_CONFIG_FILE, files.tokenizer?.bytes ?? 0);
  return {
    configPath: await repo.fetch(commit, files.config, work, 'config'),
    weightsPath: await repo.fetch(commit, files.weights, work, 'weights'),
    ...(files.template !== undefined && {
      chatTemplatePath: await repo.fetch(commit, files.template, work, 'template'),
    }),
    ...(files.tokenizer !== undefined && {
      tokenizerConfigPath: await repo.fetch(commit, files.tokenizer, work, 'tokenizer'),
    }),
    label: `hf:${source.repo}@${commit}${repo.folder === '' ? '' : `/${repo.folder}`}`,
  };
}

class HubRepo {
  /** Below the top of the repository, without slashes around it; empty for the top. */
  readonly folder: string;
  readonly #http: GuardedHttp;
  readonly #hub: HubOptions;
  readonly #repo: string;
  readonly #revision: string;
  readonly #signal: AbortSignal;

  constructor(http: GuardedHttp, hub: HubOptions, source: HubSource, signal: AbortSignal) {
    this.#http = http;
    this.#hub = hub;
    this.#signal = signal;
    this.#repo = checkRepo(source.repo);
    this.#revision = checkRevision(source.revision ?? DEFAULT_REVISION);
    this.folder = checkSubfolder(source.subfolder ?? '');
  }

  /** The commit that the revision means now. */
  async resolveCommit(): Promise<string> {
    const { modelInfo } = await import('@huggingface/hub');
    const info = await this.#ask(() =>
      modelInfo({
        name: this.#repo,
        revision: this.#revision,
        hubUrl: this.#hub.endpoint,
        additionalFields: ['sha'],
        fetch: this.#fetchJson,
      }),
    );
    if (typeof info.sha !== 'string' || !COMMIT.test(info.sha)) {
      throw this.#notUnderstood('no commit id');
    }
    return info.sha;
  }

  /** The adapter's files at a commit. */
  async describe(commit: string): Promise<{
    config: HubFile;
    weights: HubFile;
    template: HubFile | undefined;
    tokenizer: HubFile | undefined;
  }> {
    const { pathsInfo } = await import('@huggingface/hub');
    const inFolder = (file: string) => (this.folder === '' ? file : `${this.folder}/${file}`);
    const listed = await this.#ask(() =>
      pathsInfo({
        repo: this.#repo,
        revision: commit,
        paths: [CONFIG_FILE, WEIGHTS_FILE, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, ...PICKLES].map(
          inFolder,
        ),
        hubUrl: this.#hub.endpoint,
        fetch: this.#fetchJson,
      }),
    );
    const find = (file: string) =>
      listed.find(({ path, type }) => path === inFolder(file) && type === 'file');
    const at = `${quote(this.#repo)} at ${commit}`;
    const pickle = PICKLES.find((file) => find(file) !== undefined);
    if (find(WEIGHTS_FILE) === undefined && pickle !== undefined) {
      throw new LoramuxError(
        'adapter_pickle_refused',
        `${at} has ${quote(inFolder(pickle))} but no ${WEIGHTS_FILE}. Pickle files can run code ` +
          'and are never read; save the adapter as safetensors.',
      );
    }
    const described = (file: string): HubFile | undefined => {
      const info = find(file);
      if (info === undefined) return undefined;
      const bytes = info.lfs?.size ?? info.size;
      if (!Number.isSafeInteger(bytes) || bytes < 0) throw this.#notUnderstood('no file size');
      return { path: info.path, bytes, sha256: SHA256.exec(info.lfs?.oid ?? '')?.[1] };
    };
    const need = (file: string): HubFile => {
      const found = described(file);
      if (found !== undefined) return found;
      throw new LoramuxError(
        'source_not_found',
        `${at} has no ${quote(inFolder(file))}. Is the adapter in a subfolder?`,
      );
    };
    return {
      config: need(CONFIG_FILE),
      weights: need(WEIGHTS_FILE),
      template: described(TEMPLATE_FILE),
      tokenizer: described(TOKENIZER_CONFIG_FILE),
    };
  }

  /** @returns the path of the downloaded file. */
  async fetch(commit: string, file: HubFile, work: WorkFiles, suffix: string): Promise<string> {
    const path = file.path.split('/').map(encodeURIComponent).join('/');
    const url = `${this.#hub.endpoint}/${this.#repo}/resolve/${commit}/${path}`;
    const response = await this.#request(url, {});
    const wrong = (what: string) =>
      new LoramuxError(
        'source_unavailable',
        `${quote(file.path)} of ${quote(this.#repo)} came with ${what}.`,
      );
    const tooLarge = () => wrong(`more than the ${file.bytes} bytes that the hub states`);
    const got = await download(response, file.bytes, tooLarge, work, suffix, this.#signal);
    if (got.bytes !== file.bytes) throw wrong(`${got.bytes} of ${file.bytes} bytes`);
    if (file.sha256 !== undefined && got.sha256 !== file.sha256) throw wrong('a wrong SHA-256');
    return got.path;
  }

  /** What the hub's client calls instead of the global `fetch`. */
  #fetchJson: typeof fetch = async (input, init) => {
    const method = init?.method === 'POST' ? 'POST' : 'GET';
    const headers = Object.fromEntries(new Headers(init?.headers));
    const body = typeof init?.body === 'string' ? init.body : undefined;
    const url = input instanceof Request ? input.url : String(input);
    const response = await this.#request(url, { method, headers, body });
    const text = await readText(response, MAX_ANSWER_BYTES, this.#signal);
    return new Response(text, { headers: { 'content-type': 'application/json' } });
  };

  async #request(
    url: string,
    options: {
      method?: 'GET' | 'POST';
      headers?: Record<string, string>;
      body?: string | undefined;
    },
  ): Promise<GuardedResponse> {
    const { token, endpoint } = this.#hub;
    const response = await this.#http.request(url, {
      ...options,
      signal: this.#signal,
      authorization:
        token === undefined
          ? undefined
          : { origin: new URL(endpoint).origin, value: `Bearer ${token}` },
    });
    const encoding = response.header('content-encoding') ?? 'identity';
    if (response.status === 200 && encoding === 'identity') return response;
    response.body.destroy();
    throw response.status === 200
      ? this.#notUnderstood(`content encoding ${quote(encoding)} that was not asked for`)
      : this.#refused(response);
  }

  /** Runs a call of the hub's client, whose errors of other kinds mean an unexpected answer. */
  async #ask<T>(call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      if (this.#signal.aborted) throw this.#signal.reason;
      if (error instanceof LoramuxError) throw error;
      throw this.#notUnderstood('something that is not an answer of a hub', error);
    }
  }

  #refused(response: GuardedResponse): LoramuxError {
    const { status } = response;
    const code = response.header('x-error-code');
    const what = quote(this.#repo);
    const hasToken = this.#hub.token !== undefined;
    if (code === 'GatedRepo') {
      return new LoramuxError(
        'source_forbidden',
        `${what} is gated. Ask for access on its page, then give the server a token that has it.`,
      );
    }
    if (status === 404 && code === 'RevisionNotFound') {
      return new LoramuxError(
        'source_not_found',
        `${what} has no revision ${quote(this.#revision)}.`,
      );
    }
    // The hub does not tell missing from private to those who may not know.
    if (status === 404 || (status === 401 && !hasToken)) {
      return new LoramuxError(
        'source_not_found',
        hasToken
          ? `${what} does not exist on the hub, or the server's token may not read it.`
          : `${what} does not exist on the hub, or is private: the server has no hub token.`,
      );
    }
    if (status === 401 || status === 403) {
      return new LoramuxError(
        'source_forbidden',
        `The hub refuses ${what} with ${status}: the server's token is not valid for it.`,
      );
    }
    return new LoramuxError('source_unavailable', `The hub answered ${status} for ${what}.`);
  }

  #notUnderstood(what: string, cause?: unknown): LoramuxError {
    return new LoramuxError(
      'source_unavailable',
      `The hub answered with ${what} for ${quote(this.#repo)}.`,
      cause === undefined ? {} : { cause },
    );
  }
}

function checkRepo(repo: string): string {
  if (REPO.test(repo) && !repo.includes('..') && !repo.includes('--')) return repo;
  throw badRequest('repo', `The repository must be OWNER/NAME, not ${quote(repo)}.`);
}

function checkRevision(revision: string): string {
  const isPlain = /^\w[\w./@#=+-]*$/.test(revision) && !revision.includes('..');
  if (isPlain && revision.length <= MAX_REVISION_LENGTH) return revision;
  throw badRequest(
    'revision',
    `The revision must be a commit id, a branch or a tag, not ${quote(revision)}.`,
  );
}

function checkSubfolder(subfolder: string): string {
  const folder = subfolder.replace(/^\/+|\/+$/g, '');
  const parts = folder.split('/');
  const isBad =
    subfolder.length > MAX_SUBFOLDER_LENGTH ||
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
    /[\x00-\x1f\x7f\\]/.test(folder) ||
    (folder !== '' && parts.some((part) => ['', '.', '..'].includes(part)));
  if (!isBad) return folder;
  throw badRequest(
    'subfolder',
    `The subfolder must be a path in the repository, not ${quote(subfolder)}.`,
  );
}

function badRequest(param: string, message: string): LoramuxError {
  return new LoramuxError('invalid_request', message, { param });
}
