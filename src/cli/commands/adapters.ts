/** `loramux adapters`: manage the adapters of a running server. */
import { Command } from 'commander';
import { listAdapters, pushAdapter, removeAdapter, showAdapter } from '../client.ts';
import { formatBytes, print, printJson, table } from '../output.ts';
import { withProgress } from '../progress.ts';

interface Flags {
  url: string;
  json?: boolean;
}

interface Adapter {
  name: string;
  generation: string;
  rank: number;
  target_modules: string[];
  resident_bytes: number;
  source: string;
}

function subcommand(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .option('--url <url>', 'the server', 'http://127.0.0.1:8000')
    .option('--json', 'print the JSON answer');
}

function printAdapter(adapter: Adapter): void {
  print(
    table(
      Object.entries(adapter).map(([key, value]) => [
        key,
        Array.isArray(value) ? value.join(', ') : String(value),
      ]),
    ),
  );
}

export function adaptersCommand(): Command {
  const command = new Command('adapters').description('manage the adapters of a running server');
  command.addCommand(
    subcommand('push', 'upload a PEFT folder under a name, or move the name to it')
      .argument('<name>')
      .argument('<folder>')
      .action(async (name: string, folder: string, { url, json }: Flags) => {
        const adapter = (await withProgress((onProgress) =>
          pushAdapter(url, name, folder, onProgress),
        )) as Adapter;
        if (json) printJson(adapter);
        else print(`${adapter.name}: generation ${adapter.generation}, rank ${adapter.rank}`);
      }),
  );
  command.addCommand(
    subcommand('list', 'list the adapters').action(async ({ url, json }: Flags) => {
      const answer = (await listAdapters(url)) as {
        data: Adapter[];
        damaged: { name: string; reason: string }[];
      };
      if (json) {
        printJson(answer);
        return;
      }
      const rows = answer.data.map((adapter) => [
        adapter.name,
        adapter.generation.slice(0, 12),
        String(adapter.rank),
        formatBytes(adapter.resident_bytes),
        adapter.target_modules.join(','),
      ]);
      print(table([['name', 'generation', 'rank', 'memory', 'modules'], ...rows]));
      for (const { name, reason } of answer.damaged) print(`${name}: DAMAGED, ${reason}`);
    }),
  );
  command.addCommand(
    subcommand('show', 'show one adapter')
      .argument('<name>')
      .action(async (name: string, { url, json }: Flags) => {
        const adapter = (await showAdapter(url, name)) as Adapter;
        if (json) printJson(adapter);
        else printAdapter(adapter);
      }),
  );
  command.addCommand(
    subcommand('remove', 'remove a name; running requests finish undisturbed')
      .argument('<name>')
      .action(async (name: string, { url, json }: Flags) => {
        const answer = await removeAdapter(url, name);
        if (json) printJson(answer);
        else print(`${name}: removed`);
      }),
  );
  return command;
}
