/** Where an adapter is to come from, as JSON bodies say it. */
import { lstat } from 'node:fs/promises';
import path from 'node:path';
import type { AdapterSource } from '../../adapters/service-types.ts';
import { LoramuxError } from '../../errors.ts';
import type { WireAdapterSource } from '../schemas/adapter-requests.ts';
import type { HttpConfig } from '../services.ts';

const KINDS = ['path', 'repo', 'url'] as const;

/** @throws LoramuxError invalid_request unless the body names exactly one source. */
export function jsonSource(body: WireAdapterSource): AdapterSource {
  const { path: folder, repo, url, revision, subfolder } = body;
  const given = KINDS.filter((kind) => body[kind] !== undefined);
  if (given.length !== 1) {
    const found = given.length === 0 ? 'none of them' : given.join(' and ');
    throw new LoramuxError(
      'invalid_request',
      `the body must have exactly one of path, repo and url, but has ${found}`,
      { ...(given[1] !== undefined && { param: given[1] }) },
    );
  }
  for (const field of ['revision', 'subfolder'] as const) {
    if (repo !== undefined || (body[field] ?? undefined) === undefined) continue;
    throw new LoramuxError('invalid_request', `${field} has a meaning only with repo`, {
      param: field,
    });
  }
  if (folder !== undefined) return { kind: 'directory', path: folder };
  if (url !== undefined) return { kind: 'url', url };
  return {
    kind: 'hub',
    repo: repo!,
    revision: revision ?? undefined,
    subfolder: subfolder ?? undefined,
  };
}

/** owner/name, neither part of which is a dot or two. */
const REPOSITORY = /^(?!\.{1,2}\/)[\w.-]{1,96}\/(?!\.{1,2}$)[\w.-]{1,96}$/;

const isThere = (file: string) =>
  lstat(file).then(
    () => true,
    () => false,
  );

/** Where a path is, if it is below the adapter root by its letters; links are the service's matter. */
function placeBelow(adapterRoot: string | undefined, loraPath: string): string | undefined {
  if (adapterRoot === undefined) return undefined;
  const root = path.resolve(adapterRoot);
  const place = path.resolve(root, loraPath);
  return place === root || place.startsWith(path.join(root, path.sep)) ? place : undefined;
}

/**
 * The `lora_path` of vLLM and SGLang: a folder below the adapter root, else a repository if it looks
 * like one and the server fetches from the hub. The service checks what is chosen.
 * @throws LoramuxError source_not_found when it can be neither
 */
export async function loraPathSource(
  loraPath: string,
  { adapterRoot, remoteSources }: Pick<HttpConfig, 'adapterRoot' | 'remoteSources'>,
): Promise<AdapterSource> {
  const folder: AdapterSource = { kind: 'directory', path: loraPath };
  const place = placeBelow(adapterRoot, loraPath);
  if (place !== undefined && (await isThere(place))) return folder;
  if (remoteSources && REPOSITORY.test(loraPath)) {
    return { kind: 'hub', repo: loraPath, revision: undefined, subfolder: undefined };
  }
  if (place === undefined) return folder;
  throw new LoramuxError(
    'source_not_found',
    `No adapter found for ${loraPath}: there is no such folder below the adapter root.`,
    { param: 'lora_path' },
  );
}
