/** Adapters in a map, and residency in another, for tests of the request layer. */
import { createHash } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import type {
  KeptGeneration,
  NameEntry,
  RegistryStatus,
  ReplicaInfo,
  Split,
} from '../../src/adapters/registry/types.ts';
import type {
  AdapterService,
  AdapterSource,
  Condition,
  DamagedAdapter,
  PutOptions,
} from '../../src/adapters/service-types.ts';
import type {
  AdapterGeneration,
  AdapterRecord,
  ResidencyControl,
  ResidencyView,
} from '../../src/adapters/types.ts';
import { LoramuxError } from '../../src/errors.ts';

const EPOCH_S = 1_700_000_000;
const MAX_ADAPTERS = 10;

export const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

const kept = (digest: string, source: string, createdAt: number): KeptGeneration => ({
  digest,
  fileBytes: 2048,
  headerBytes: 100,
  headerDigest: sha256(`header ${digest}`),
  rank: 8,
  residentBytes: 1024,
  targetModules: ['q_proj', 'v_proj'],
  base: sha256('base'),
  source,
  createdAt,
});

const generationOf = ({ digest, rank, residentBytes }: KeptGeneration): AdapterGeneration => ({
  digest,
  rank,
  residentBytes,
});

export interface FakePut {
  readonly name: string;
  readonly source: AdapterSource;
  /** Contents of the files that were handed over, by what they are. */
  readonly files: Record<string, string>;
  readonly options: PutOptions;
}

/** Keeps what `put` was given so that tests can look at it. Content is the digest of the texts. */
export class FakeAdapters implements AdapterService {
  readonly limits = {
    maxAdapters: MAX_ADAPTERS,
    maxAdapterBytes: 4096,
    maxConfigBytes: 1024,
    maxChatTemplateBytes: 1024,
    maxTokenizerConfigBytes: 1024,
    maxArchiveBytes: 4096 + 1024 + 64 * 1024 * 1024,
  };
  readonly puts: FakePut[] = [];
  readonly entries = new Map<string, NameEntry>();
  /** Chat templates by digest. */
  readonly templates = new Map<string, ReadonlyMap<string, string>>();
  readonly ready = Promise.resolve();
  isKnown = true;
  /** What /health shows; tests change it. */
  status: RegistryStatus = {
    kind: 'file',
    state: 'ok',
    reason: undefined,
    sinceMs: EPOCH_S * 1000,
    lagMs: 0,
    reconciles: 0,
    events: 0,
    errors: 0,
  };
  /** Changes fail with it while it is set. */
  failure: LoramuxError | undefined;
  readonly fleet: ReplicaInfo[] = [];
  holds = 0;
  readonly uploadDir: string;
  readonly #records = new Map<NameEntry, AdapterRecord>();
  #revision = 0;

  constructor(uploadDir: string) {
    this.uploadDir = uploadDir;
    for (const name of ['sub', 'mul']) this.#write(this.#created(name, sha256(name), 'upload'));
  }

  /** Registers a name with these generations, the last of which is current. */
  seed(name: string, digests: readonly string[]): AdapterRecord {
    const generations = digests.map((digest) => kept(digest, 'upload', EPOCH_S)).reverse();
    const entry = this.#created(name, digests.at(-1)!, 'upload');
    return this.#write({ ...entry, generations });
  }

  #created(name: string, digest: string, source: string): NameEntry {
    return {
      name,
      generations: [kept(digest, source, EPOCH_S)],
      current: digest,
      split: undefined,
      pinned: false,
      createdAt: EPOCH_S,
      updatedAt: EPOCH_S,
    };
  }

  #write(entry: NameEntry): AdapterRecord {
    this.#revision += 1;
    this.entries.set(entry.name, entry);
    const byDigest = new Map(entry.generations.map((one) => [one.digest, one]));
    const current = byDigest.get(entry.current)!;
    const { split } = entry;
    const record: AdapterRecord = {
      name: entry.name,
      generation: generationOf(current),
      createdAt: entry.createdAt,
      source: current.source,
      targetModules: current.targetModules,
      fileBytes: current.fileBytes,
      revision: this.#revision,
      updatedAt: entry.updatedAt,
      pinned: entry.pinned,
      split: split && {
        generation: generationOf(byDigest.get(split.digest)!),
        weight: split.weight,
      },
      numGenerations: entry.generations.length,
    };
    this.#records.set(entry, record);
    return record;
  }

  #check(name: string, { ifMatch, ifNoneMatch }: Condition = {}): void {
    if (this.failure !== undefined) throw this.failure;
    const current = this.entries.get(name)?.current;
    const matches =
      ifMatch === undefined || (ifMatch === '*' ? current !== undefined : ifMatch === current);
    if (matches && !(ifNoneMatch === true && current !== undefined)) return;
    throw new LoramuxError('generation_mismatch', 'another generation is current', {
      currentGeneration: current ?? null,
    });
  }

  /** Changes an entry that must exist. */
  #change(name: string, condition: Condition, next: (entry: NameEntry) => NameEntry) {
    this.resolve(name);
    this.#check(name, condition);
    return this.#write(next(this.entries.get(name)!));
  }

  checkPut(name: string, options: PutOptions = {}): void {
    if (name.includes(' ')) throw new LoramuxError('adapter_name_invalid', 'a space');
    this.#check(name, options);
    if (!this.entries.has(name) && this.entries.size >= MAX_ADAPTERS) {
      throw new LoramuxError('adapter_limit_exceeded', 'too many');
    }
  }

  async #take(source: AdapterSource): Promise<Record<string, string>> {
    const files: Record<string, string> = {};
    const take = async (kind: string, file: string) => {
      files[kind] = await readFile(file, 'latin1');
      await rm(file);
    };
    if (source.kind === 'files') {
      await take('config', source.configPath);
      await take('weights', source.weightsPath);
      const { chatTemplatePath: template, tokenizerConfigPath: tokenizer } = source;
      if (template !== undefined) await take('template', template);
      if (tokenizer !== undefined) await take('tokenizer', tokenizer);
    }
    if (source.kind === 'archive') await take('archive', source.path);
    return files;
  }

  async chatTemplates({ digest }: AdapterGeneration): Promise<ReadonlyMap<string, string>> {
    return this.templates.get(digest) ?? new Map();
  }

  async put(name: string, source: AdapterSource, options: PutOptions = {}) {
    const files = await this.#take(source);
    this.checkPut(name, options);
    if (source.kind === 'directory' && source.path.startsWith('/')) {
      throw new LoramuxError('adapter_path_forbidden', 'outside the root', { param: 'path' });
    }
    this.puts.push({ name, source, files, options });
    const entry = this.entries.get(name);
    const digest = sha256(JSON.stringify(Object.keys(files).length > 0 ? files : source));
    const label = source.kind === 'directory' ? source.path : 'upload';
    if (entry === undefined) {
      return { record: this.#write(this.#created(name, digest, label)), replaced: false };
    }
    const others = entry.generations.filter((one) => one.digest !== digest);
    const { canaryWeight: weight } = options;
    const record = this.#write({
      ...entry,
      generations: [kept(digest, label, EPOCH_S + 1), ...others],
      ...(weight === undefined
        ? { current: digest, split: undefined }
        : { split: { digest, weight } }),
    });
    return { record, replaced: true };
  }

  get(name: string) {
    const entry = this.entries.get(name);
    return entry && this.#records.get(entry);
  }

  list() {
    return [...this.entries.keys()].sort().map((name) => this.get(name)!);
  }

  resolve(name: string, splitKey?: string): AdapterRecord {
    const found = this.get(name);
    if (found === undefined) {
      if (this.status.state === 'connecting') {
        throw new LoramuxError('registry_unavailable', 'not read yet');
      }
      throw new LoramuxError('adapter_not_found', `no adapter ${name}`);
    }
    if (found.split === undefined || splitKey === undefined) return found;
    const share = Number.parseInt(sha256(splitKey).slice(0, 8), 16) / 2 ** 32;
    return share < found.split.weight ? { ...found, generation: found.split.generation } : found;
  }

  resolveGeneration(digest: string, name?: string): AdapterRecord {
    const holds = (entry: NameEntry) => entry.generations.some((one) => one.digest === digest);
    const entry = [...this.entries.values()].find(
      (one) => (name === undefined || one.name === name) && holds(one),
    );
    if (entry === undefined) throw new LoramuxError('generation_not_found', `no ${digest}`);
    const generation = generationOf(entry.generations.find((one) => one.digest === digest)!);
    return { ...this.get(entry.name)!, generation };
  }

  history(name: string) {
    const { revision } = this.resolve(name);
    return { ...this.entries.get(name)!, revision };
  }

  hold() {
    this.holds += 1;
    let given = false;
    return () => {
      if (!given) this.holds -= 1;
      given = true;
    };
  }

  async rollback(name: string, options: { generation?: string | undefined } & Condition = {}) {
    return this.#change(name, options, (entry) => {
      const others = entry.generations.filter((one) => one.digest !== entry.current);
      const found = others.find((one) => one.digest === (options.generation ?? one.digest));
      if (found === undefined) throw new LoramuxError('generation_not_found', 'not kept');
      return { ...entry, current: found.digest, split: undefined };
    });
  }

  async setSplit(name: string, split: Split | undefined, condition: Condition = {}) {
    return this.#change(name, condition, (entry) => {
      if (split?.digest === entry.current) {
        throw new LoramuxError('generation_current', 'it is the current one');
      }
      if (split !== undefined && !entry.generations.some((one) => one.digest === split.digest)) {
        throw new LoramuxError('generation_not_found', 'not kept');
      }
      return { ...entry, split };
    });
  }

  async setPinned(name: string, pinned: boolean) {
    return this.#change(name, {}, (entry) => ({ ...entry, pinned }));
  }

  async remove(name: string, condition: Condition = {}) {
    this.resolve(name);
    this.#check(name, condition);
    this.entries.delete(name);
  }

  damaged(): readonly DamagedAdapter[] {
    return [{ name: 'broken', reason: 'digest mismatch' }];
  }

  stats() {
    return {
      names: this.entries.size,
      damaged: 1,
      generations: this.entries.size,
      storedBytes: 0,
      holds: this.holds,
      pendingPuts: 0,
      disk: { files: 0, bytes: 0, maxBytes: undefined, evictions: 0 },
    };
  }

  registry() {
    return this.status;
  }

  async replicas() {
    if (this.failure !== undefined) throw this.failure;
    return this.fleet;
  }

  namesOf(digest: string) {
    return this.list()
      .filter(({ generation }) => generation.digest === digest)
      .map(({ name }) => name);
  }

  pinnedGenerations() {
    return this.list().flatMap(({ pinned, generation, split }) =>
      pinned ? [generation, ...(split === undefined ? [] : [split.generation])] : [],
    );
  }

  onChange() {}

  async close() {}
}

const ABSENT: ResidencyView = { level: 'disk', pinned: false, references: 0, evicting: false };

/** Loads at once, unless `failure` says otherwise; at most `pinsMax` pins. */
export class FakeResidencyControl implements ResidencyControl {
  readonly views = new Map<string, ResidencyView>();
  readonly loads: { digest: string; timeoutMs: number }[] = [];
  failure: LoramuxError | undefined;
  pinsMax = 3;

  view({ digest }: AdapterGeneration) {
    return this.views.get(digest) ?? ABSENT;
  }

  async load(generation: AdapterGeneration, timeoutMs: number) {
    this.loads.push({ digest: generation.digest, timeoutMs });
    if (this.failure !== undefined) throw this.failure;
    this.views.set(generation.digest, { ...this.view(generation), level: 'device' });
  }

  evict(generation: AdapterGeneration) {
    const view = this.view(generation);
    if (view.references > 0) this.views.set(generation.digest, { ...view, evicting: true });
    else this.views.delete(generation.digest);
    return this.view(generation);
  }

  setPins() {}

  checkPins(generations: readonly AdapterGeneration[]) {
    if (generations.length <= this.pinsMax) return;
    throw new LoramuxError('pin_limit_exceeded', `${generations.length} pins`);
  }
}
