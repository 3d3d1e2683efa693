/** Archives as sources: those of real tools and odd but sound ones; limits, damage, aborts. */
import { execFileSync } from 'node:child_process';
import {
  createWriteStream,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGzip, gzipSync } from 'node:zlib';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { createSourceOpener } from '../../../../src/adapters/sources/opener.ts';
import { FIXTURES } from '../../../support/adapter-files.ts';
import {
  ArchiveTrial,
  CONFIG,
  config,
  hasTool,
  MAX_ADAPTER_BYTES,
  MAX_ENTRIES,
  TAR_PAIR,
  WEIGHTS,
  weights,
  ZIP_PAIR,
} from '../../../support/archive-trial.ts';
import {
  longName,
  pax,
  type TarEntry,
  tar,
  tarEntry,
  tarGz,
  type ZipEntry,
  zip,
} from '../../../support/archives.ts';
import { folderTree } from '../../../support/folder-tree.ts';

const trial = new ArchiveTrial();
const { temp } = trial;
const accepted = trial.accepted.bind(trial);
const refused = trial.refused.bind(trial);
afterEach(() => trial.checkClean());
afterAll(() => temp.remove());
const { workDir, options } = trial;
const open = trial.open.bind(trial);

describe('real PEFT folders', () => {
  const source = path.join(FIXTURES, 'adapters/llama2/qv-r4');
  const expected = {
    config: readFileSync(path.join(source, CONFIG)),
    weights: readFileSync(path.join(source, WEIGHTS)),
  };
  const folder = temp.join('my adapter');
  execFileSync('cp', ['-r', source, folder]);
  for (const file of ['README.md', 'tokenizer.json', 'chat_template.jinja', 'training_args.bin']) {
    writeFileSync(path.join(folder, file), `contents of ${file}`);
  }
  writeFileSync(path.join(folder, 'ünïcode ✓.txt'), 'x');

  it.each([
    ['ustar', []],
    ['gnu', []],
    ['pax', []],
    ['gnu', ['--blocking-factor=256']],
  ] as const)('tar --format=%s %j, of the folder and of its files', async (format, extra) => {
    const file = temp.fresh('.tar.gz');
    execFileSync('tar', [`--format=${format}`, ...extra, '-czf', file, '-C', folder, '.']);
    await accepted(readFileSync(file), 'tar.gz', expected);
    execFileSync('tar', [
      `--format=${format}`,
      ...extra,
      '-czf',
      file,
      '-C',
      temp.path,
      'my adapter',
    ]);
    await accepted(readFileSync(file), 'tar.gz', expected);
  });

  it('python: zipfile stored and deflated, tarfile, shutil', async () => {
    const made = temp.fresh();
    mkdirSync(made);
    const script = `
import shutil, sys, tarfile, zipfile, os
folder, out = sys.argv[1:]
for name, method in (("s", zipfile.ZIP_STORED), ("d", zipfile.ZIP_DEFLATED)):
    with zipfile.ZipFile(f"{out}/{name}.zip", "w", method) as z:
        for f in os.listdir(folder):
            z.write(f"{folder}/{f}", f"some/where/{f}")
with zipfile.ZipFile(f"{out}/stream.zip", "w", zipfile.ZIP_DEFLATED) as z:
    for f in os.listdir(folder):
        with z.open(f, "w", force_zip64=True) as o:
            o.write(open(f"{folder}/{f}", "rb").read())
for name, kind in (("u", tarfile.USTAR_FORMAT), ("g", tarfile.GNU_FORMAT), ("p", tarfile.PAX_FORMAT)):
    with tarfile.open(f"{out}/{name}.tar.gz", "w:gz", format=kind) as t:
        t.add(folder, "x" * 90 + "/" + "y" * 60)
shutil.make_archive(f"{out}/shutil", "zip", folder)
shutil.make_archive(f"{out}/shutil", "gztar", folder)
`;
    if (!hasTool('python3')) return;
    execFileSync('python3', ['-c', script, folder, made]);
    const files = readdirSync(made);
    expect(files.length).toBe(8);
    for (const file of files) {
      const format = file.endsWith('.zip') ? 'zip' : 'tar.gz';
      await accepted(readFileSync(path.join(made, file)), format, expected);
    }
  });

  it('zip from a pipe, with sizes after the data', async () => {
    if (!hasTool('zip')) return;
    const bytes = execFileSync('zip', ['-q', '-r', '-', '.'], { cwd: folder });
    await accepted(bytes, 'zip', expected);
  });
});

describe('what is accepted', () => {
  it('either order, any one folder, other files, empty folders', async () => {
    for (const prefix of ['', './', 'a/', './a//b/./', 'ä/']) {
      const moved = <E extends ZipEntry | TarEntry>(entries: readonly E[]): E[] =>
        entries.map((entry) => ({ ...entry, name: `${prefix}${entry.name}` }));
      const other = { name: `${prefix}README.md`, data: Buffer.from('x') };
      const folders = ['empty/', 'empty/', 'checkpoint-1/'].map((name) => ({ name }));
      await accepted(
        zip([...moved(ZIP_PAIR), other, ...folders.map((f) => ({ ...f, mode: 0o40755 }))]),
        'zip',
      );
      await accepted(
        tarGz([...folders.map((f) => ({ ...f, type: '5' })), other, ...moved(TAR_PAIR).reverse()]),
        'tar.gz',
      );
    }
  });

  it('stored entries, zip64 records, comments, empty files', async () => {
    const stored = ZIP_PAIR.map((entry) => ({ ...entry, method: 0 }));
    await accepted(zip(stored, { comment: Buffer.from('hello') }), 'zip');
    await accepted(zip(ZIP_PAIR, { zip64: {} }), 'zip');
    await accepted(zip(ZIP_PAIR.map((e) => ({ ...e, comment: Buffer.from('c') }))), 'zip');
    const long = zip([
      ZIP_PAIR[0]!,
      {
        name: WEIGHTS,
        data: weights,
        method: 0,
        zip64: { size: BigInt(weights.length), compressedSize: BigInt(weights.length) },
      },
    ]);
    await accepted(long, 'zip');
    const empty = { config: Buffer.alloc(0), weights: Buffer.alloc(0) };
    const names = [{ name: CONFIG }, { name: WEIGHTS }];
    await accepted(zip(names), 'zip', empty);
    await accepted(tarGz(names), 'tar.gz', empty);
  });

  it('long names by pax, GNU and prefix; global headers; gzip members', async () => {
    const folder = 'f'.repeat(120);
    const names = [CONFIG, WEIGHTS].map((name) => `${folder}/${name}`);
    const bare = TAR_PAIR.map(({ data }) => ({ name: 'short', data: data! }));
    const each = (make: (index: number) => TarEntry[]) => [0, 1].flatMap(make);
    await accepted(tarGz(each((i) => [pax({ path: names[i]! }), bare[i]!])), 'tar.gz');
    await accepted(tarGz(each((i) => [longName(names[i]!), bare[i]!])), 'tar.gz');
    const split = TAR_PAIR.map((entry) => ({ ...entry, prefix: folder }));
    await accepted(tarGz([pax({ comment: 'abc' }, 'g'), ...split]), 'tar.gz');
    const raw = tar(TAR_PAIR);
    const members = [0, 700, 5000].map((at, i, all) => gzipSync(raw.subarray(at, all[i + 1])));
    await accepted(Buffer.concat(members), 'tar.gz');
  });

  it('zeros after a gzip member, as padding', async () => {
    for (const zeros of [1, 5000, 70_000, 200_000]) {
      await accepted(Buffer.concat([tarGz(TAR_PAIR), Buffer.alloc(zeros)]), 'tar.gz');
    }
    await accepted(tarGz(TAR_PAIR, 2000), 'tar.gz');
  });
});

describe('incomplete archives', () => {
  it.each([
    [[CONFIG], 'adapter_upload_incomplete'],
    [[WEIGHTS], 'adapter_upload_incomplete'],
    [['README.md'], 'adapter_upload_incomplete'],
    [[CONFIG, 'training_args.bin'], 'adapter_upload_incomplete'],
    [[CONFIG, 'adapter_model.bin'], 'adapter_pickle_refused'],
    [['x/adapter_model.pt'], 'adapter_pickle_refused'],
    [['inner.zip', 'inner.tar.gz'], 'adapter_upload_incomplete'],
  ] as const)('%j is %s', async (names, code) => {
    const data = zip(ZIP_PAIR);
    await refused(zip(names.map((name) => ({ name, data }))), 'zip', code);
    await refused(tarGz(names.map((name) => ({ name, data }))), 'tar.gz', code);
  });

  it('none at all', async () => {
    await refused(zip([]), 'zip', 'adapter_upload_incomplete');
    await refused(tarGz([]), 'tar.gz', 'adapter_upload_incomplete');
  });
});

describe('limits', () => {
  const many = (n: number) => Array.from({ length: n }, (_, i) => ({ name: `f${i}` }));

  it('exactly the limit of entries, and one more', async () => {
    await accepted(zip([...ZIP_PAIR, ...many(MAX_ENTRIES - 2)]), 'zip');
    await accepted(tarGz([...TAR_PAIR, ...many(MAX_ENTRIES - 2)]), 'tar.gz');
    await refused(zip([...ZIP_PAIR, ...many(MAX_ENTRIES - 1)]), 'zip', 'archive_limit_exceeded');
    await refused(
      tarGz([...TAR_PAIR, ...many(MAX_ENTRIES - 1)]),
      'tar.gz',
      'archive_limit_exceeded',
    );
  });

  it('a million entries, in the count, in the bytes, and more than the count says', async () => {
    const claimed = zip(ZIP_PAIR, { zip64: { entryCount: 1_000_000n } });
    await refused(claimed, 'zip', 'archive_limit_exceeded');
    await refused(zip(ZIP_PAIR, { entryCount: 65_535 }), 'zip', 'archive_limit_exceeded');
    await refused(zip(ZIP_PAIR, { entryCount: 1 }), 'zip', 'archive_invalid', /number/);
    await refused(zip(ZIP_PAIR, { entryCount: 3 }), 'zip', 'archive_invalid');
    const head = tar([{ name: 'x' }], 0);
    const block = gzipSync(Buffer.concat(Array.from({ length: 10_000 }, () => head)));
    const file = Buffer.concat(Array.from({ length: 100 }, () => block));
    // The first repeats already, so give it names of its own as far as the limit.
    const named = tarGz([...TAR_PAIR, ...many(MAX_ENTRIES - 2)], 0);
    await refused(Buffer.concat([named, file]), 'tar.gz', 'archive_limit_exceeded', /16 entries/);
  });

  it('names too long or too deep', async () => {
    const long = 'n'.repeat(2000);
    const deep = `${'d/'.repeat(40)}x`;
    for (const name of [long, deep]) {
      await refused(zip([...ZIP_PAIR, { name }]), 'zip', 'archive_limit_exceeded');
      const entries = [...TAR_PAIR, pax({ path: name }), { name: 'x' }];
      await refused(tarGz(entries), 'tar.gz', 'archive_limit_exceeded');
    }
    const wordy = many(8).map((e) => ({ ...e, comment: Buffer.alloc(60_000, 'c') }));
    await refused(zip([...ZIP_PAIR, ...wordy]), 'zip', 'archive_limit_exceeded', /directory/);
  });

  it('files too large, by what they say and by what they are', async () => {
    const big = Buffer.alloc(MAX_ADAPTER_BYTES + 1);
    await refused(zip([ZIP_PAIR[0]!, { name: WEIGHTS, data: big }]), 'zip', 'adapter_too_large');
    await refused(
      tarGz([TAR_PAIR[0]!, { name: WEIGHTS, data: big }]),
      'tar.gz',
      'adapter_too_large',
    );
    await refused(zip([{ name: CONFIG, data: big }]), 'zip', 'adapter_too_large');
    await refused(tarGz([{ name: CONFIG, data: big }]), 'tar.gz', 'adapter_too_large');
    const lie = { name: WEIGHTS, data: big, size: 10, localSize: 10 };
    await refused(zip([ZIP_PAIR[0]!, lie]), 'zip', 'archive_invalid', /more bytes than it says/);
  });

  it('bombs beside the adapter', async () => {
    const zeros = Buffer.alloc(80 * 1024 * 1024);
    await refused(zip([...ZIP_PAIR, { name: 'x', data: zeros }]), 'zip', 'archive_limit_exceeded');
    const entries = [...TAR_PAIR, { name: 'x', data: zeros }];
    await refused(tarGz(entries), 'tar.gz', 'archive_limit_exceeded');
    await refused(gzipSync(zeros), 'tar.gz', 'archive_limit_exceeded', /belong to no file/);
    const padded = Buffer.concat([tarGz(TAR_PAIR), gzipSync(zeros)]);
    await refused(padded, 'tar.gz', 'archive_limit_exceeded', /belong to no file/);
    const headers = Array.from({ length: 5000 }, () => pax({ comment: 'c'.repeat(400) }));
    await refused(tarGz([...headers, ...TAR_PAIR]), 'tar.gz', 'archive_limit_exceeded');
    const huge = Buffer.from([0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    await refused(tarGz([{ name: 'x', size: huge }]), 'tar.gz', 'archive_invalid', /out of range/);
    const tera = Buffer.from([0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    await refused(tarGz([{ name: 'x', size: tera }]), 'tar.gz', 'archive_limit_exceeded');
  });

  it('256 MiB of zeros take no memory, whether they are refused or passed over', async () => {
    const roomy = createSourceOpener({
      ...options,
      limits: { maxAdapterBytes: 2 ** 26, maxConfigBytes: 4096, maxArchiveEntries: 9 },
    });
    const size = 2 ** 28;
    const blocks = function* (head: Buffer) {
      yield head;
      const zeros = Buffer.alloc(2 ** 20);
      for (let made = 0; made < size; made += zeros.length) yield zeros;
      yield tar(TAR_PAIR);
    };
    const file = temp.join('in', 'zeros');
    const entry = (name: string, bytes: number) =>
      tarEntry({ name, size: Buffer.from(`${bytes.toString(8).padStart(11, '0')}\0`) });
    for (const [head, code] of [
      [entry('optimizer.pt', size), undefined],
      [entry('optimizer.pt', size * 2), 'archive_limit_exceeded'],
      [entry(WEIGHTS, size), 'adapter_too_large'],
      [Buffer.alloc(0), 'archive_limit_exceeded'],
    ] as const) {
      await pipeline(blocks(head), createGzip({ level: 1 }), createWriteStream(file));
      const before = process.memoryUsage().rss;
      let peak = before;
      const timer = setInterval(() => {
        peak = Math.max(peak, process.memoryUsage().rss);
      }, 5);
      const source = { kind: 'archive', path: file, format: 'tar.gz' } as const;
      const opening = roomy.open(source, new AbortController().signal);
      const opened = await opening.catch((error) => error);
      clearInterval(timer);
      expect(opened.code).toBe(code);
      await opened.cleanup?.();
      expect(peak - before).toBeLessThan(96 * 2 ** 20);
    }
    rmSync(file);
  });

  it('zip64 sizes that lie', async () => {
    const size = 2n ** 40n;
    const liar = (zip64: ZipEntry['zip64']) =>
      zip([ZIP_PAIR[0]!, { name: WEIGHTS, data: weights, zip64: zip64! }]);
    await refused(liar({ size, compressedSize: 10n }), 'zip', 'adapter_too_large');
    await refused(liar({ size: 5n, compressedSize: size }), 'zip', 'archive_invalid');
    await refused(liar({ size: 2n ** 64n - 1n, compressedSize: 1n }), 'zip', 'archive_invalid');
    const beyond = { size: 5n, compressedSize: 5n, offset: 2n ** 63n };
    await refused(liar(beyond), 'zip', 'archive_invalid', /offset/);
  });
});

describe('damage', () => {
  it('every truncation of a small archive is refused', async () => {
    const small = [
      { name: CONFIG, data: config },
      { name: WEIGHTS, data: Buffer.from('w') },
    ];
    const archives = [
      [zip(small), 'zip'],
      [tarGz(small), 'tar.gz'],
    ] as const;
    for (const [bytes, format] of archives) {
      for (let length = 0; length < bytes.length; length++) {
        const error = await open(bytes.subarray(0, length), format).catch((e) => e);
        expect(error.code, `${format} cut to ${length}`).toBe('archive_invalid');
      }
    }
    // Whole gzip around a tar that stops anywhere.
    const raw = tar(small);
    for (let length = 0; length < raw.length - 1024; length += 64) {
      const error = await open(gzipSync(raw.subarray(0, length)), 'tar.gz').catch((e) => e);
      const incomplete =
        length < 512 ? undefined : ['archive_invalid', 'adapter_upload_incomplete'];
      expect(incomplete ?? ['archive_invalid'], `tar cut to ${length}`).toContain(error.code);
    }
  });

  it('wrong checksums, methods, offsets', async () => {
    const [first, second] = ZIP_PAIR as [ZipEntry, ZipEntry];
    await refused(zip([first, { ...second, crc: 7 }]), 'zip', 'archive_invalid', /checksum/);
    await refused(zip([first, { ...second, method: 14 }]), 'zip', 'archive_invalid', /method 14/);
    await refused(zip([first, { ...second, localMethod: 0 }]), 'zip', 'archive_invalid', /headers/);
    await refused(zip([first, { ...second, localSize: 1 }]), 'zip', 'archive_invalid', /headers/);
    await refused(zip([first, { ...second, offset: 5 }]), 'zip', 'archive_invalid');
    await refused(zip(ZIP_PAIR, { directoryOffset: 3 }), 'zip', 'archive_invalid');
    await refused(zip(ZIP_PAIR, { directoryBytes: 3 }), 'zip', 'archive_invalid');
    for (const offset of [2n ** 64n - 1n, 2n ** 53n, 2n ** 63n, 0n]) {
      await refused(zip(ZIP_PAIR, { zip64: { endOffset: offset } }), 'zip', 'archive_invalid');
      await refused(
        zip(ZIP_PAIR, { zip64: { directoryOffset: offset } }),
        'zip',
        'archive_invalid',
      );
    }
    const bad = tarGz([TAR_PAIR[0]!, { ...TAR_PAIR[1]!, checksum: 5 }]);
    await refused(bad, 'tar.gz', 'archive_invalid');
    const negative = [pax({ size: '-5' }), TAR_PAIR[1]!];
    await refused(tarGz([TAR_PAIR[0]!, ...negative]), 'tar.gz', 'archive_invalid');
  });

  it('bytes before or after', async () => {
    const junk = Buffer.from('junk that is no archive');
    await refused(zip(ZIP_PAIR, { after: junk }), 'zip', 'archive_invalid');
    await refused(zip(ZIP_PAIR, { before: junk }), 'zip', 'archive_invalid');
    const shifted = Buffer.concat([Buffer.from('PK\x03\x04'), zip(ZIP_PAIR)]);
    await refused(shifted, 'zip', 'archive_invalid');
    await refused(Buffer.concat([tarGz(TAR_PAIR), junk]), 'tar.gz', 'archive_invalid');
    const padded = [Buffer.alloc(1), Buffer.alloc(70_000)].map((zeros) =>
      Buffer.concat([tarGz(TAR_PAIR), zeros, junk]),
    );
    for (const bytes of padded) await refused(bytes, 'tar.gz', 'archive_invalid', /after its end/);
    const inside = gzipSync(Buffer.concat([tar(TAR_PAIR), junk]));
    await refused(inside, 'tar.gz', 'archive_invalid');
    const block = gzipSync(Buffer.concat([tar(TAR_PAIR), Buffer.alloc(512, 7)]));
    await refused(block, 'tar.gz', 'archive_invalid');
  });

  it('another format than was said, or none', async () => {
    await refused(zip(ZIP_PAIR), 'tar.gz', 'archive_invalid', /is a \.zip/);
    await refused(tarGz(TAR_PAIR), 'zip', 'archive_invalid', /is a \.tar\.gz/);
    await refused(tar(TAR_PAIR), 'tar.gz', 'archive_invalid', /neither/);
    await refused(Buffer.alloc(0), 'zip', 'archive_invalid', /neither/);
    await refused(gzipSync('no tar'), 'tar.gz', 'archive_invalid');
    await refused(gzipSync(zip(ZIP_PAIR)), 'tar.gz', 'archive_invalid');
  });
});

describe('the work folder', () => {
  it('is the only place written to: without it nothing is unpacked', async () => {
    const lost = createSourceOpener({ ...options, workDir: temp.join('gone') });
    for (const [bytes, format] of [
      [zip(ZIP_PAIR), 'zip'],
      [tarGz(TAR_PAIR), 'tar.gz'],
    ] as const) {
      const file = temp.join('in', 'whole');
      writeFileSync(file, bytes);
      const before = folderTree(temp.path);
      const source = { kind: 'archive', path: file, format } as const;
      const error = await lost.open(source, new AbortController().signal).catch((e) => e);
      // The server's own trouble, so not reported as the archive's.
      expect(error.code).toBe('ENOENT');
      expect(folderTree(temp.path)).toEqual(before);
      rmSync(file);
    }
  });
});

describe('a chat template', () => {
  it.each(['zip', 'tar.gz'] as const)('%s: comes with the adapter it lies beside', async (f) => {
    const entries = (chat: string) => [
      { name: 'run/tokenizer_config.json', data: Buffer.from('{}') },
      { name: `run/last/${CONFIG}`, data: config },
      { name: `${chat}chat_template.jinja`, data: Buffer.from('own') },
      { name: `run/last/${WEIGHTS}`, data: weights },
    ];
    const openWith = (chat: string) =>
      open(f === 'zip' ? zip(entries(chat)) : tarGz(entries(chat)), f);
    const own = await openWith('run/last/');
    expect(readFileSync(own.chatTemplatePath!, 'utf8')).toBe('own');
    expect(own.tokenizerConfigPath).toBeUndefined();
    await own.cleanup();
    const elsewhere = await openWith('run/');
    expect(elsewhere.chatTemplatePath).toBeUndefined();
    await elsewhere.cleanup();
    expect(readdirSync(workDir)).toEqual([]);
  });
});

describe('aborts', () => {
  it.each(['zip', 'tar.gz'] as const)('%s: before and at any moment of the reading', async (f) => {
    const data = Buffer.alloc(60_000, 'random enough');
    const entries = [
      { name: CONFIG, data: config },
      { name: WEIGHTS, data, method: 0 },
    ];
    const bytes = f === 'zip' ? zip(entries) : tarGz(entries);
    const reason = new Error('the client left');
    expect(await open(bytes, f, AbortSignal.abort(reason)).catch((e) => e)).toBe(reason);
    let aborted = 0;
    for (let turns = 0; turns < 40; turns++) {
      const controller = new AbortController();
      const opening = open(bytes, f, controller.signal).then(
        (opened) => opened.cleanup(),
        (error) => {
          expect(error).toBe(reason);
          aborted++;
        },
      );
      for (let turn = 0; turn < turns; turn++) await new Promise(setImmediate);
      controller.abort(reason);
      await opening;
      expect(readdirSync(workDir)).toEqual([]);
    }
    expect(aborted).toBeGreaterThan(0);
  });
});
