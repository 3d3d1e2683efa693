/** `loramux adapters`: manage the adapters of a running server. */
import { Command, Option } from 'commander';
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

interface ResidencyFlags extends ServerFlags {
  readonly generation?: string;
  readonly pin?: boolean;
}

const generationOption = () =>
  new Option(
    '--generation <generation>',
    'a kept generation (first 8 or more digits); default: those that answer requests',
  );

async function residencyBody({ url, generation, pin }: ResidencyFlags, name: string) {
  return {
    ...(generation !== undefined && { generation: await resolveGeneration(url, name, generation) }),
    ...(pin === true && { pinned: true }),
  };
}

function loadCommand(): Command {
  return nameCommand('load', 'bring an adapter into adapter memory before it is asked for')
    .option('--pin', 'and keep the name there')
    .addOption(generationOption().conflicts('pin'))
    .action(async (name: string, flags: ResidencyFlags) => {
      const { url, json } = flags;
      const request = { route: adapterRoute(name, 'load'), json: await residencyBody(flags, name) };
      const { body, text } = await withProgress((_update, busy) => {
        busy(`the server loads ${name}`);
        return call<Adapter>(url, { method: 'POST', ...request });
      });
      print(json ? text : `${name}: loaded${body.pinned === true ? ', pinned' : ''}`);
    });
}

function evictCommand(): Command {
  return nameCommand('evict', 'drop an adapter from adapter and host memory')
    .addOption(generationOption())
    .action(async (name: string, flags: ResidencyFlags) => {
      const { body, text } = await call<Adapter>(flags.url, {
        method: 'POST',
        route: adapterRoute(name, 'evict'),
        json: await residencyBody(flags, name),
      });
      const waits = body.residency?.evicting === true;
      const outcome = waits ? 'goes with the last request that uses it' : 'evicted';
      print(flags.json ? text : `${name}: ${outcome}`);
    });
}

function pinCommand(action: 'pin' | 'unpin', description: string): Command {
  return nameCommand(action, description).action(
    async (name: string, { url, json }: ServerFlags) => {
      const { text } = await call<Adapter>(url, {
        method: 'POST',
        route: adapterRoute(name, action),
      });
      print(json ? text : `${name}: ${action === 'pin' ? 'pinned' : 'not pinned'}`);
    },
  );
}

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
    .addCommand(pinCommand('pin', 'keep a name resident on every server that has room'))
    .addCommand(pinCommand('unpin', 'let a name be evicted again'))
    .addCommand(evictCommand())
    .addCommand(removeCommand());
}
