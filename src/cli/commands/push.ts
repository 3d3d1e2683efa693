/** `loramux adapters push`: from here, or from where the server can fetch it. */
import { type Command, Option } from 'commander';
import { adapterLine } from '../adapter-text.ts';
import { type Adapter, adapterRoute, call, ifMatchHeader, type Typed } from '../api.ts';
import type { Call, Upload } from '../client.ts';
import { print, RemoteError } from '../output.ts';
import { withProgress } from '../progress.ts';
import { ifMatchOption, type ServerFlags, serverCommand, weight } from '../server-option.ts';
import { type PushSource, parseSource, SOURCE_FORMS } from '../source.ts';
import { fileUpload, folderUpload } from '../upload.ts';

interface PushFlags extends ServerFlags {
  readonly ifMatch?: string;
  readonly createOnly?: boolean;
  readonly canary?: number;
  readonly pin?: boolean;
}

async function bodyOf(source: PushSource): Promise<{ json: unknown } | { upload: Upload }> {
  if (source.kind === 'remote') return { json: source.body };
  if (source.kind === 'folder') return { upload: await folderUpload(source.path) };
  return { upload: await fileUpload(source.path, source.contentType) };
}

async function put(name: string, source: PushSource, flags: PushFlags): Promise<Typed<Adapter>> {
  const headers = flags.createOnly
    ? { 'if-none-match': '*' }
    : await ifMatchHeader(flags.url, name, flags.ifMatch);
  const query = flags.canary === undefined ? '' : `?canary_weight=${flags.canary}`;
  const body = await bodyOf(source);
  const request: Call = {
    method: 'PUT',
    route: `${adapterRoute(name)}${query}`,
    headers,
    ...body,
  };
  return withProgress((update, busy) => {
    if (!('upload' in body)) {
      busy(`the server fetches ${name}`);
      return call<Adapter>(flags.url, request);
    }
    const total = body.upload.bytes;
    const onSent = (sent: number) => {
      if (sent < total) update(sent, total, `uploading ${name}`);
      else busy(`the server checks ${name}`);
    };
    return call<Adapter>(flags.url, { ...request, onSent });
  });
}

async function pin(url: string, name: string): Promise<Typed<Adapter>> {
  try {
    return await call<Adapter>(url, { method: 'POST', route: adapterRoute(name, 'pin') });
  } catch (error) {
    if (!(error instanceof RemoteError)) throw error;
    const message = `${name} was pushed, but not pinned: ${error.message}`;
    throw new RemoteError(error.code, message, error.currentGeneration);
  }
}

export function pushCommand(): Command {
  return serverCommand('push', 'give a name new content, or register it')
    .argument('<name>', 'name of the adapter')
    .argument('<source>', SOURCE_FORMS)
    .addOption(ifMatchOption().conflicts('createOnly'))
    .option('--create-only', 'only when the name does not exist')
    .addOption(
      new Option(
        '--canary <weight>',
        "give the new generation this share of the name's requests, such as 0.1",
      ).argParser(weight),
    )
    .option('--pin', 'keep the name resident')
    .action(async (name: string, text: string, flags: PushFlags) => {
      const pushed = await put(name, await parseSource(text), flags);
      const { body, text: json } = flags.pin ? await pin(flags.url, name) : pushed;
      print(flags.json ? json : adapterLine(body));
    });
}
