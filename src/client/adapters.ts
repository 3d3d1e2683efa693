/** The admin API: adapters, their generations, and what is in memory. */
import { LoramuxError } from './errors.ts';
import type {
  Adapter,
  AdapterDeleted,
  AdapterList,
  AdapterSource,
  GenerationList,
} from './openapi.ts';
import type { CallOptions, Transport } from './transport.ts';

export interface ChangeOptions extends CallOptions {
  /** Only while this generation is current; `*` while the name exists. */
  readonly ifMatch?: string | undefined;
}

export interface PutOptions extends ChangeOptions {
  /** Only while the name does not exist. */
  readonly ifNoneMatch?: '*' | undefined;
  /** Puts the content beside what is current, for this share of the requests. */
  readonly canaryWeight?: number | undefined;
}

/** The two files of a PEFT adapter, and those that may bring a chat template of its own. */
export interface AdapterFiles {
  /** adapter_config.json */
  readonly config: Blob;
  /** adapter_model.safetensors */
  readonly model: Blob;
  /** chat_template.jinja, which wins over the next. */
  readonly chatTemplate?: Blob | undefined;
  /** tokenizer_config.json: its chat_template is taken, nothing else. */
  readonly tokenizerConfig?: Blob | undefined;
}

/** An archive of a PEFT folder, named `….zip`, `….tar.gz` or `….tgz`. */
export interface AdapterArchive {
  readonly archive: Blob;
  readonly fileName: string;
}

/** A generation as conditions write it. */
const tag = (generation: string) =>
  generation === '*' || generation.startsWith('"') ? generation : `"${generation}"`;

const conditions = ({ ifMatch, ifNoneMatch }: PutOptions) => ({
  ...(ifMatch !== undefined && { 'if-match': tag(ifMatch) }),
  ...(ifNoneMatch !== undefined && { 'if-none-match': ifNoneMatch }),
});

function formOf(content: AdapterFiles | AdapterArchive): FormData {
  const form = new FormData();
  if ('archive' in content) {
    if (!/\.(zip|tar\.gz|tgz)$/.test(content.fileName)) {
      throw new LoramuxError('invalid_option', 'fileName must end with .zip, .tar.gz or .tgz');
    }
    form.append('file', content.archive, content.fileName);
    return form;
  }
  form.append('files', content.config, 'adapter_config.json');
  const { chatTemplate, tokenizerConfig } = content;
  if (chatTemplate !== undefined) form.append('files', chatTemplate, 'chat_template.jinja');
  if (tokenizerConfig !== undefined) {
    form.append('files', tokenizerConfig, 'tokenizer_config.json');
  }
  // Last, since it is the long one: what is wrong with the others is found before.
  form.append('files', content.model, 'adapter_model.safetensors');
  return form;
}

export class Adapters {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  list(options: CallOptions = {}): Promise<AdapterList> {
    return this.#transport.call('listAdapters', { repeats: 'repeatable', signal: options.signal });
  }

  get(name: string, options: CallOptions = {}): Promise<Adapter> {
    return this.#transport.call('showAdapter', {
      path: { name },
      repeats: 'repeatable',
      signal: options.signal,
    });
  }

  /**
   * Registers an adapter, or moves a name to other content, from files at hand. Blobs that stand
   * for files (`fs.openAsBlob`) are read while they are sent.
   */
  upload(
    name: string,
    content: AdapterFiles | AdapterArchive,
    options: PutOptions = {},
  ): Promise<Adapter> {
    return this.#put(name, options, { content: formOf(content) });
  }

  /** The same from a path, a Hugging Face repository or a URL that the server reads. */
  put(name: string, source: AdapterSource, options: PutOptions = {}): Promise<Adapter> {
    return this.#put(name, options, { body: source });
  }

  #put(
    name: string,
    options: PutOptions,
    what: { readonly body: AdapterSource } | { readonly content: FormData },
  ): Promise<Adapter> {
    const { canaryWeight, signal } = options;
    const headers = conditions(options);
    return this.#transport.call('putAdapter', {
      path: { name },
      query: canaryWeight === undefined ? {} : { canary_weight: canaryWeight },
      headers,
      ...what,
      // A condition that held before the first try need not hold after it.
      repeats: Object.keys(headers).length === 0 ? 'repeatable' : 'refused-only',
      signal,
    });
  }

  /** Removes the name with all of its generations; running requests finish undisturbed. */
  remove(name: string, options: ChangeOptions = {}): Promise<AdapterDeleted> {
    return this.#transport.call('deleteAdapter', {
      path: { name },
      headers: conditions(options),
      repeats: 'refused-only',
      signal: options.signal,
    });
  }

  generations(name: string, options: CallOptions = {}): Promise<GenerationList> {
    return this.#transport.call('listGenerations', {
      path: { name },
      repeats: 'repeatable',
      signal: options.signal,
    });
  }

  /** Back to a kept generation; without one, to the one that was put before the current one. */
  rollback(
    name: string,
    options: ChangeOptions & { readonly generation?: string | undefined } = {},
  ): Promise<Adapter> {
    const { generation, signal } = options;
    return this.#transport.call('rollbackAdapter', {
      path: { name },
      headers: conditions(options),
      body: generation === undefined ? undefined : { generation },
      // Two of them without a generation would go back twice.
      repeats: 'refused-only',
      signal,
    });
  }

  /** Gives a kept generation a share of the requests. */
  split(
    name: string,
    generation: string,
    weight: number,
    options: ChangeOptions = {},
  ): Promise<Adapter> {
    return this.#transport.call('splitAdapter', {
      path: { name },
      headers: conditions(options),
      body: { generation, weight },
      repeats: options.ifMatch === undefined ? 'repeatable' : 'refused-only',
      signal: options.signal,
    });
  }

  endSplit(name: string, options: ChangeOptions = {}): Promise<Adapter> {
    return this.#transport.call('endSplit', {
      path: { name },
      headers: conditions(options),
      repeats: 'refused-only',
      signal: options.signal,
    });
  }

  /** Resolves when the adapter is in a slot of the server that is asked. */
  load(
    name: string,
    options: CallOptions & {
      readonly generation?: string | undefined;
      readonly pinned?: boolean | undefined;
    } = {},
  ): Promise<Adapter> {
    const { generation, pinned, signal } = options;
    return this.#transport.call('loadAdapter', {
      path: { name },
      body: {
        ...(generation !== undefined && { generation }),
        ...(pinned !== undefined && { pinned }),
      },
      repeats: 'repeatable',
      signal,
    });
  }

  evict(
    name: string,
    options: CallOptions & { readonly generation?: string | undefined } = {},
  ): Promise<Adapter> {
    const { generation, signal } = options;
    return this.#transport.call('evictAdapter', {
      path: { name },
      body: generation === undefined ? undefined : { generation },
      repeats: 'repeatable',
      signal,
    });
  }

  pin(name: string, options: CallOptions = {}): Promise<Adapter> {
    return this.#transport.call('pinAdapter', {
      path: { name },
      repeats: 'repeatable',
      signal: options.signal,
    });
  }

  unpin(name: string, options: CallOptions = {}): Promise<Adapter> {
    return this.#transport.call('unpinAdapter', {
      path: { name },
      repeats: 'repeatable',
      signal: options.signal,
    });
  }
}
