/** What must hold of every entry, whoever made it: every violation is reported. */
import { checkAdapterName } from '../names.ts';
import type { KeptGeneration, NameEntry } from './types.ts';

/** Generations of one name, whatever is configured. */
export const MAX_KEPT_GENERATIONS = 64;
/** UTF-16 units of where an adapter came from. */
export const MAX_SOURCE_LENGTH = 4096;
export const MAX_TARGET_MODULES = 64;
export const MAX_MODULE_NAME_LENGTH = 128;
export const MAX_BASE_LENGTH = 128;

const DIGEST = /^[0-9a-f]{64}$/;

/** Sentences without a full stop, in the order of the fields; none for a sound entry. */
export function entryViolations(entry: NameEntry): string[] {
  const found: string[] = [];
  const need = (holds: boolean, message: string): void => {
    if (!holds) found.push(message);
  };
  const { generations, split } = entry;
  try {
    checkAdapterName(entry.name, '');
  } catch (error) {
    found.push((error as Error).message.replace(/\.$/, ''));
  }
  need(
    generations.length >= 1 && generations.length <= MAX_KEPT_GENERATIONS,
    `it has ${generations.length} generations, not 1 to ${MAX_KEPT_GENERATIONS}`,
  );
  const digests = new Set(generations.map(({ digest }) => digest));
  need(digests.size === generations.length, 'it has a generation twice');
  generations.forEach((generation, index) => {
    for (const violation of generationViolations(generation)) {
      found.push(`generation ${index}: ${violation}`);
    }
  });
  need(digests.has(entry.current), 'the current generation is not among those kept');
  if (split !== undefined) {
    need(digests.has(split.digest), 'the generation of the split is not among those kept');
    need(split.digest !== entry.current, 'the generation of the split is the current one');
    need(
      split.weight > 0 && split.weight < 1,
      'the weight of the split is not above 0 and below 1',
    );
  }
  need(isSeconds(entry.createdAt), 'createdAt is not a whole number of seconds');
  need(isSeconds(entry.updatedAt), 'updatedAt is not a whole number of seconds');
  return found;
}

function generationViolations(generation: KeptGeneration): string[] {
  const found: string[] = [];
  const need = (holds: boolean, message: string): void => {
    if (!holds) found.push(message);
  };
  const { fileBytes, headerBytes, targetModules } = generation;
  need(DIGEST.test(generation.digest), 'digest is not a SHA-256 in lower-case hex');
  need(isCount(fileBytes), 'fileBytes is not a number of bytes');
  need(isCount(headerBytes) && headerBytes <= fileBytes, 'headerBytes is not within the file');
  need(DIGEST.test(generation.headerDigest), 'headerDigest is not a SHA-256 in lower-case hex');
  need(isCount(generation.rank), 'rank is not a whole number');
  need(isCount(generation.residentBytes), 'residentBytes is not a number of bytes');
  need(
    targetModules.length <= MAX_TARGET_MODULES &&
      targetModules.every((name) => name !== '' && name.length <= MAX_MODULE_NAME_LENGTH),
    `targetModules are not up to ${MAX_TARGET_MODULES} names`,
  );
  need(
    generation.base !== '' && generation.base.length <= MAX_BASE_LENGTH,
    `base does not have 1 to ${MAX_BASE_LENGTH} characters`,
  );
  need(
    generation.source.length <= MAX_SOURCE_LENGTH,
    `source has more than ${MAX_SOURCE_LENGTH} characters`,
  );
  need(isSeconds(generation.createdAt), 'createdAt is not a whole number of seconds');
  return found;
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

const isSeconds = isCount;
