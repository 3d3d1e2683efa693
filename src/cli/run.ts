/** One run of the program: parse, act, and say what went wrong in one form. */
import { exitCodeOf, printError } from './output.ts';
import { createProgram } from './program.ts';

/** @returns the exit code: 0 done, 1 refused or failed, 2 usage */
export async function run(argv: readonly string[]): Promise<number> {
  try {
    await createProgram().parseAsync(argv);
    return 0;
  } catch (error) {
    // Help and version are thrown too, with exit code 0.
    const code = exitCodeOf(error);
    if (code !== 0) printError(error, argv.includes('--json'));
    return code;
  }
}
