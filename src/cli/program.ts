/** The command tree; building it has no effects, so tests can look at it. */
import { Command } from 'commander';
import { VERSION } from '../version.ts';
import { adaptersCommand } from './commands/adapters.ts';
import { doctorCommand } from './commands/doctor.ts';
import { importCommand } from './commands/import.ts';
import { replicasCommand } from './commands/replicas.ts';
import { serveCommand } from './commands/serve.ts';
import { synthCommand } from './commands/synth.ts';

/** Errors are thrown, not printed; the entry point prints them in one form. */
function strict(command: Command): Command {
  command.exitOverride().configureOutput({ writeErr: () => {} });
  for (const sub of command.commands) strict(sub as Command);
  return command;
}

export function createProgram(): Command {
  const program = new Command('loramux')
    .description('One frozen base model, thousands of hot-swappable LoRA adapters, one batch.')
    .version(VERSION, '-V, --version', 'print the version')
    .showHelpAfterError(false);
  program.addCommand(serveCommand());
  program.addCommand(importCommand());
  program.addCommand(synthCommand());
  program.addCommand(adaptersCommand());
  program.addCommand(replicasCommand());
  program.addCommand(doctorCommand());
  program.addCommand(
    new Command('version').description('print the version').action(() => {
      process.stdout.write(`${VERSION}\n`);
    }),
  );
  return strict(program);
}
