/** The `loramux` command. */
import { CommanderError } from 'commander';
import { printError } from './output.ts';
import { createProgram } from './program.ts';

try {
  await createProgram().parseAsync(process.argv);
} catch (error) {
  // Help and version are thrown too, with exit code 0.
  if (error instanceof CommanderError && error.exitCode === 0) process.exitCode = 0;
  else {
    printError(error, process.argv.includes('--json'));
    process.exitCode = 1;
  }
}
