/** `loramux replicas`: the fleet, and where an adapter is warm. */
import { type Command, Option } from 'commander';
import { replicaTable, warmTable } from '../adapter-text.ts';
import { call, type Replica } from '../api.ts';
import { print } from '../output.ts';
import { type ServerFlags, serverCommand } from '../server-option.ts';

export function replicasCommand(): Command {
  return serverCommand('replicas', 'list the live servers of the fleet')
    .addOption(new Option('--adapter <name>', 'only where this name is warm').conflicts('json'))
    .action(async ({ url, json, adapter }: ServerFlags & { readonly adapter?: string }) => {
      const { body, text } = await call<{ data: readonly Replica[] }>(url, {
        method: 'GET',
        route: '/v1/replicas',
      });
      if (json) print(text);
      else print(adapter === undefined ? replicaTable(body.data) : warmTable(body.data, adapter));
    });
}
