/** The `loramux` command. */
import { run } from './run.ts';

// `loramux adapters list | head -1` closes the pipe early; that is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

const code = await run(process.argv);
// A command may have set a code of its own.
if (code !== 0) process.exitCode = code;
