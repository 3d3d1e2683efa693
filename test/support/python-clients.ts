/** Runs Python clients of the environment that scripts/python-clients.mjs makes. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { ROOT } from '../../scripts/process.ts';

const run = promisify(execFile);
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;

/**
 * Runs `python` with these arguments; its output is in the error if it fails.
 * @param cwd the root of the repository unless given
 */
export async function runPython(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  cwd: string = ROOT,
) {
  const { stdout: interpreter } = await run(process.execPath, ['scripts/python-clients.mjs'], {
    cwd: ROOT,
  });
  try {
    return await run(interpreter.trim(), args, {
      cwd,
      maxBuffer: OUTPUT_BYTES_MAX,
      env: { ...process.env, ...env, PYTHONDONTWRITEBYTECODE: '1', NO_PROXY: '127.0.0.1' },
    });
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    throw new Error(`python ${args.join(' ')}:\n${stdout ?? ''}${stderr ?? ''}`, { cause: error });
  }
}
