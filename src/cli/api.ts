/** The adapter routes as the commands use them. */
import { LoramuxError } from '../errors.ts';
import { type Answer, type Call, send } from './client.ts';
import { UsageError } from './output.ts';

/** What commands read of an adapter; `--json` prints the whole answer as it came. */
export interface Adapter {
  readonly name: string;
  readonly generation: string;
  readonly rank: number;
  readonly resident_bytes: number;
  readonly pinned?: boolean;
  readonly split?: { readonly generation: string; readonly weight: number } | null;
  readonly residency?: { readonly level: string; readonly evicting?: boolean };
}

export interface AdapterList {
  readonly data: readonly Adapter[];
  readonly damaged: readonly { readonly name: string; readonly reason: string }[];
}

export interface KeptGeneration {
  readonly generation: string;
  readonly created: number;
  readonly source: string;
  readonly rank: number;
  readonly file_bytes: number;
  readonly resident_bytes: number;
  readonly current: boolean;
  readonly canary: boolean;
  readonly residency?: { readonly level: string };
}

export interface GenerationList {
  readonly name: string;
  readonly data: readonly KeptGeneration[];
}

export interface Replica {
  readonly id: string;
  readonly url: string;
  readonly version: string;
  /** Its last sign of life, seconds since the epoch. */
  readonly updated: number;
  readonly slots: number;
  readonly revision: number;
  readonly running: number;
  readonly waiting: number;
  readonly adapters: readonly {
    readonly generation: string;
    readonly names: readonly string[];
    readonly level: string;
    readonly pinned: boolean;
  }[];
  readonly self: boolean;
}

/** An answer with its body as the type it must have. */
export interface Typed<T> extends Answer {
  readonly body: T;
}

const FULL_LENGTH = 64;
const PREFIX_LENGTH_MIN = 8;

/** Where a name is, or one of its actions. */
export const adapterRoute = (name: string, action?: string) =>
  `/v1/adapters/${encodeURIComponent(name)}${action === undefined ? '' : `/${action}`}`;

export async function call<T>(url: string, request: Call): Promise<Typed<T>> {
  return (await send(url, request)) as Typed<T>;
}

export const getGenerations = (url: string, name: string) =>
  call<GenerationList>(url, { method: 'GET', route: adapterRoute(name, 'generations') });

/**
 * A generation given by all of its digits or by the first few.
 * @throws UsageError when it can be no generation
 * @throws LoramuxError generation_not_found when the name keeps none or several that begin so
 */
export async function resolveGeneration(url: string, name: string, text: string): Promise<string> {
  // As it stands in an ETag.
  const digits = text.replace(/^"(.*)"$/, '$1').toLowerCase();
  if (!/^[0-9a-f]+$/.test(digits) || digits.length > FULL_LENGTH) {
    throw new UsageError(`${JSON.stringify(text)} is not a generation: they are 64 hex digits`);
  }
  if (digits.length === FULL_LENGTH) return digits;
  if (digits.length < PREFIX_LENGTH_MIN) {
    throw new UsageError(`${text} is too short; give at least ${PREFIX_LENGTH_MIN} digits`);
  }
  const { data } = (await getGenerations(url, name)).body;
  const found = data.filter(({ generation }) => generation.startsWith(digits));
  if (found.length === 1) return found[0]!.generation;
  throw new LoramuxError(
    'generation_not_found',
    found.length === 0
      ? `${name} keeps no generation that begins with ${digits}; ` +
          `\`loramux adapters generations ${name}\` lists them`
      : `${found.length} generations of ${name} begin with ${digits}; give more digits`,
  );
}

/** The header of a change that is made only while this generation, or any (`*`), is current. */
export async function ifMatchHeader(
  url: string,
  name: string,
  ifMatch: string | undefined,
): Promise<Record<string, string>> {
  if (ifMatch === undefined) return {};
  if (ifMatch === '*') return { 'if-match': '*' };
  return { 'if-match': `"${await resolveGeneration(url, name, ifMatch)}"` };
}
