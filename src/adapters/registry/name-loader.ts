/** Reading one name at start: its file, and whether its canonical files are as they should be. */
import { decodeNameFile, type NameFile } from './name-files.ts';
import type { NameFolder } from './name-folder.ts';
import type { GenerationMeta, NameEntry } from './types.ts';

export interface NameChecks {
  /** What is wrong with the canonical file of a generation, undefined when nothing is. */
  readonly checkBlob: (meta: GenerationMeta) => Promise<string | undefined>;
  readonly onWarning: (message: string, error: unknown) => void;
}

/** @returns the file, or the reason why the name is damaged. */
export async function loadName(
  folder: NameFolder,
  name: string,
  checks: NameChecks,
): Promise<NameFile | string> {
  try {
    const bytes = await folder.read(name);
    if (bytes === undefined) return 'the name file is gone or no file';
    const file = decodeNameFile(bytes, name);
    return (await findBadBlob(file.entry, checks)) ?? file;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Of the generations that answer requests; a bad one that is only kept is a warning. */
async function findBadBlob(
  { name, generations, current, split }: NameEntry,
  { checkBlob, onWarning }: NameChecks,
): Promise<string | undefined> {
  for (const generation of generations) {
    const reason = await checkBlob(generation);
    if (reason === undefined) continue;
    const { digest } = generation;
    if (digest === current || digest === split?.digest) return reason;
    onWarning(
      `${JSON.stringify(name)} cannot be rolled back to generation ${digest}: ${reason}.`,
      undefined,
    );
  }
  return undefined;
}
