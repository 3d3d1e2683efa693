/** `loramux adapters`: manage the adapters of a running server. */
import { Command } from 'commander';
import { adapterLine, adapterTable, fieldTable, generationTable } from '../adapter-text.ts';
import {
  type Adapter,
  type AdapterList,
  adapterRoute,
  call,
  getGenerations,
  ifMatchHeader,
  resolveGeneration,
} from '../api.ts';
import { print, UsageError } from '../output.ts';
import { withProgress } from '../progress.ts';
import { ifMatchOption, type ServerFlags, serverCommand, weight } from '../server-option.ts';
import { pushCommand } from './push.ts';

interface ChangeFlags extends ServerFlags {
  readonly ifMatch?: string;
}

/** A command whose first argument is a name. */
const nameCommand = (name: string, description: string) =>
  serverCommand(name, description).argument('<name>', 'name of the adapter');

function listCommand(): Command {
  return serverCommand('list', 'list the adapters').action(async ({ url, json }: ServerFlags) => {
    const { body, text } = await call<AdapterList>(url, { method: 'GET', route: '/v1/adapters' });
    print(json ? text : adapterTable(body));
  });
}

function showCommand(): Command {
  return nameCommand('show', 'show one adapter').action(
    async (name: string, { url, json }: ServerFlags) => {
      const { body, text } = await call<Adapter>(url, {
        method: 'GET',
        route: adapterRoute(name),
      });
      print(json ? text : fieldTable(body));
    },
  );
}

function generationsCommand(): Command {
  return nameCommand(
    'generations',
    'list the generations that a name can be rolled back to',
  ).action(async (name: string, { url, json }: ServerFlags) => {
    const { body, text } = await getGenerations(url, name);
    print(json ? text : generationTable(body));
  });
}

function rollbackCommand(): Command {
  return nameCommand('rollback', 'make a kept generation current again; ends a split')
    .argument(
      '[generation]',
      'its first 8 or more digits; default: the one put before the current one',
    )
    .addOption(ifMatchOption())
    .action(async (name: string, generation: string | undefined, flags: ChangeFlags) => {
      const { url, json } = flags;
      const headers = await ifMatchHeader(url, name, flags.ifMatch);
      const target =
        generation === undefined
          ? {}
          : { generation: await resolveGeneration(url, name, generation) };
      const { body, text } = await call<Adapter>(url, {
        method: 'POST',
        route: adapterRoute(name, 'rollback'),
        headers,
        json: target,
      });
      print(json ? text : adapterLine(body));
    });
}

function splitCommand(): Command {
  return nameCommand('split', "give a kept generation a share of the name's requests")
    .argument('[generation]', 'its first 8 or more digits')
    .argument('[weight]', 'share above 0 and below 1, such as 0.1', weight)
    .option('--end', 'end the split; the current generation answers all requests')
    .addOption(ifMatchOption())
    .action(
      async (
        name: string,
        generation: string | undefined,
        share: number | undefined,
        flags: ChangeFlags & { readonly end?: boolean },
      ) => {
        const { url, json, end = false } = flags;
        if (end !== (generation === undefined) || end !== (share === undefined)) {
          throw new UsageError('give either a generation and its weight, or --end');
        }
        const headers = await ifMatchHeader(url, name, flags.ifMatch);
        const change =
          generation === undefined
            ? { method: 'DELETE' as const }
            : {
                method: 'PUT' as const,
                json: { generation: await resolveGeneration(url, name, generation), weight: share },
              };
        const { body, text } = await call<Adapter>(url, {
          route: adapterRoute(name, 'split'),
          headers,
          ...change,
        });
        print(json ? text : adapterLine(body));
      },
    );
}

function loadCommand(): Command {
  return nameCommand('load', 'bring an adapter into adapter memory before it is asked for')
    .option('--pin', 'and keep it there')
    .action(async (name: string, flags: ServerFlags & { readonly pin?: boolean }) => {
      const { url, json } = flags;
      const { body, text } = await withProgress((_update, busy) => {
        busy(`the server loads ${name}`);
        return call<Adapter>(url, {
          method: 'POST',
          route: adapterRoute(name, 'load'),
          json: flags.pin ? { pinned: true } : {},
        });
      });
      print(json ? text : `${name}: loaded${body.pinned === true ? ', pinned' : ''}`);
    });
}

/** A command that posts to an action and says what is so afterwards. */
function actionCommand(
  action: 'evict' | 'pin' | 'unpin',
  description: string,
  outcome: (adapter: Adapter) => string,
): Command {
  return nameCommand(action, description).action(
    async (name: string, { url, json }: ServerFlags) => {
      const { body, text } = await call<Adapter>(url, {
        method: 'POST',
        route: adapterRoute(name, action),
      });
      print(json ? text : `${name}: ${outcome(body)}`);
    },
  );
}

const evicted = ({ residency }: Adapter) =>
  residency?.evicting === true ? 'goes with the last request that uses it' : 'evicted';

function removeCommand(): Command {
  return nameCommand('remove', 'remove a name; running requests finish undisturbed')
    .addOption(ifMatchOption())
    .action(async (name: string, { url, json, ifMatch }: ChangeFlags) => {
      const { text } = await call(url, {
        method: 'DELETE',
        route: adapterRoute(name),
        headers: await ifMatchHeader(url, name, ifMatch),
      });
      print(json ? text : `${name}: removed`);
    });
}

export function adaptersCommand(): Command {
  return new Command('adapters')
    .description('manage the adapters of a running server')
    .addCommand(pushCommand())
    .addCommand(listCommand())
    .addCommand(showCommand())
    .addCommand(generationsCommand())
    .addCommand(rollbackCommand())
    .addCommand(splitCommand())
    .addCommand(loadCommand())
    .addCommand(actionCommand('pin', 'keep a name resident on every replica', () => 'pinned'))
    .addCommand(actionCommand('unpin', 'let a name be evicted again', () => 'not pinned'))
    .addCommand(actionCommand('evict', 'drop an adapter from adapter and host memory', evicted))
    .addCommand(removeCommand());
}
