/** Archives that want out of their folder, or to be read in two ways. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, describe, it } from 'vitest';
import {
  ArchiveTrial,
  CONFIG,
  config,
  hasTool,
  TAR_PAIR,
  WEIGHTS,
  ZIP_PAIR,
} from '../../../support/archive-trial.ts';
import { longName, pax, tarGz, unicodePath, zip } from '../../../support/archives.ts';

const trial = new ArchiveTrial();
const { temp } = trial;
const refused = trial.refused.bind(trial);
afterEach(() => trial.checkClean());
afterAll(() => temp.remove());

const HOSTILE_NAMES = [
  '../escape',
  'a/../../escape',
  '..',
  '/etc/cron.d/escape',
  '//server/share',
  'C:/escape',
  'c:escape',
  '..\\escape',
  'a\\b',
  'a\x01b',
  'a\nb',
];

describe('unsafe entries', () => {
  it.each(HOSTILE_NAMES)('the name %j', async (name) => {
    const data = Buffer.from('escaped');
    await refused(zip([...ZIP_PAIR, { name, data }]), 'zip', 'archive_unsafe');
    await refused(zip([{ name, data }, ...ZIP_PAIR]), 'zip', 'archive_unsafe');
    await refused(tarGz([...TAR_PAIR, { name, data }]), 'tar.gz', 'archive_unsafe');
    await refused(
      tarGz([...TAR_PAIR, pax({ path: name }), { name: 'x' }]),
      'tar.gz',
      'archive_unsafe',
    );
    await refused(tarGz([...TAR_PAIR, longName(name), { name: 'x' }]), 'tar.gz', 'archive_unsafe');
    const hidden = { name: 'x', extra: unicodePath('x', name) };
    await refused(zip([...ZIP_PAIR, hidden]), 'zip', 'archive_unsafe');
    const raw = { name, extra: unicodePath(name, 'x') };
    await refused(zip([...ZIP_PAIR, raw]), 'zip', 'archive_unsafe');
  });

  it('NUL in names', async () => {
    await refused(zip([...ZIP_PAIR, { name: 'a\0b' }]), 'zip', 'archive_unsafe');
    await refused(zip([{ ...ZIP_PAIR[0]!, name: `${CONFIG}\0` }]), 'zip', 'archive_unsafe');
    const nul = [pax({ path: 'a\0b' }), { name: 'x' }];
    await refused(tarGz([...TAR_PAIR, ...nul]), 'tar.gz', 'archive_unsafe');
  });

  it.each([
    ['symbolic link', 0o120777],
    ['character device', 0o020644],
    ['block device', 0o060644],
    ['pipe', 0o010644],
    ['socket', 0o140644],
  ])('zip: a %s, under any name', async (_, mode) => {
    const data = Buffer.from('/etc/passwd');
    for (const name of ['link', CONFIG]) {
      const entries = [...ZIP_PAIR.filter((e) => e.name !== name), { name, data, mode }];
      await refused(zip(entries), 'zip', 'archive_unsafe');
      const fromDos = entries.map((e) => ({ ...e, versionMadeBy: 20 }));
      await refused(zip(fromDos), 'zip', 'archive_unsafe');
    }
  });

  it('zip: Windows reparse points', async () => {
    const entry = { name: 'link', attributes: 0x400, versionMadeBy: 0x0a14 };
    await refused(zip([...ZIP_PAIR, entry]), 'zip', 'archive_unsafe');
  });

  it.each(['1', '2', '3', '4', '6', '7', 'S', 'V', 'D', 'Z'])('tar: type %s', async (type) => {
    const entry = { name: 'x', type, link: '/etc/passwd' };
    await refused(tarGz([...TAR_PAIR, entry]), 'tar.gz', 'archive_unsafe');
    const instead = [TAR_PAIR[0]!, { ...entry, name: WEIGHTS }];
    await refused(tarGz(instead), 'tar.gz', 'archive_unsafe');
  });

  it('real links, packed by tar and zip', async () => {
    const folder = temp.fresh();
    mkdirSync(folder);
    writeFileSync(path.join(folder, CONFIG), config);
    symlinkSync('/etc/passwd', path.join(folder, WEIGHTS));
    const file = temp.fresh();
    execFileSync('tar', ['-czf', file, '-C', folder, '.']);
    await refused(readFileSync(file), 'tar.gz', 'archive_unsafe', /symlink/);
    execFileSync('ln', ['-f', path.join(folder, CONFIG), path.join(folder, WEIGHTS)]);
    execFileSync('tar', ['-czf', file, '-C', folder, '.']);
    await refused(readFileSync(file), 'tar.gz', 'archive_unsafe', /hard link/);
    if (!hasTool('zip')) return;
    rmSync(path.join(folder, WEIGHTS));
    symlinkSync('/etc/passwd', path.join(folder, WEIGHTS));
    const zipped = temp.fresh('.zip');
    execFileSync('zip', ['-q', '-y', '-r', zipped, '.'], { cwd: folder });
    await refused(readFileSync(zipped), 'zip', 'archive_unsafe', /link/);
  });

  it('sparse files', async () => {
    const sparse = pax({ 'GNU.sparse.major': '1', 'GNU.sparse.name': 'x' });
    await refused(tarGz([sparse, ...TAR_PAIR]), 'tar.gz', 'archive_unsafe', /sparse/);
  });

  it('encryption', async () => {
    for (const flags of [0x801, 0x2800]) {
      await refused(zip([ZIP_PAIR[0]!, { ...ZIP_PAIR[1]!, flags }]), 'zip', 'archive_unsafe');
    }
    const strong = zip([ZIP_PAIR[0]!, { ...ZIP_PAIR[1]!, flags: 0x841 }]);
    await refused(strong, 'zip', 'archive_unsafe', /encrypt/);
    if (!hasTool('zip')) return;
    const folder = temp.fresh();
    mkdirSync(folder);
    for (const { name, data } of TAR_PAIR) writeFileSync(path.join(folder, `${name}`), data!);
    const bytes = execFileSync('zip', ['-q', '-P', 'secret', '-r', '-', '.'], { cwd: folder });
    await refused(bytes, 'zip', 'archive_unsafe', /encrypted/);
  });

  it.each([
    [CONFIG],
    [`./${CONFIG}`],
    [`.//${CONFIG}`],
    ['Adapter_Config.json'],
    ['ADAPTER_CONFIG.JSON'],
    ['adapter_ﬁle', 'adapter_file'],
    ['ñ', 'n\u0303'],
    ['STRASSE', 'straße'],
    [`${CONFIG}/x`],
    ['a', 'a/b'],
    ['a/b/c', 'a/B'],
  ])('repeated names: %j %j', async (...names) => {
    const entries = names.map((name) => ({ name, data: Buffer.from('2') }));
    await refused(zip([...ZIP_PAIR, ...entries]), 'zip', 'archive_unsafe', /more than once/);
    await refused(tarGz([...TAR_PAIR, ...entries]), 'tar.gz', 'archive_unsafe', /more than once/);
  });

  it('two folders with adapter files', async () => {
    const second = ZIP_PAIR.map((e) => ({ ...e, name: `b/${e.name}` }));
    const moved = [ZIP_PAIR[0]!, second[1]!];
    for (const entries of [[...ZIP_PAIR, ...second], [...ZIP_PAIR, second[0]!], moved]) {
      await refused(zip(entries), 'zip', 'archive_unsafe', /pack one adapter/);
      const tarred = entries.map(({ name, data }) => ({ name, data: data! }));
      await refused(tarGz(tarred), 'tar.gz', 'archive_unsafe', /pack one adapter/);
    }
  });

  it('overlapping entries', async () => {
    const bytes = zip([...ZIP_PAIR, { ...ZIP_PAIR[0]!, name: WEIGHTS + 2, offset: 0 }]);
    // The local name must agree as well, so the shared header gets the name of the second entry.
    await refused(bytes, 'zip', 'archive_invalid', /two headers/);
    const twice = zip([ZIP_PAIR[1]!, { ...ZIP_PAIR[0]!, name: 'a', localName: CONFIG }]);
    await refused(twice, 'zip', 'archive_invalid', /two headers/);
    const inner = zip([{ name: CONFIG, data: config }]);
    const nested = { name: 'outer', data: inner, method: 0 };
    const start = 30 + 'outer'.length;
    const overlap = zip([nested, { name: CONFIG, data: config, offset: start }, ZIP_PAIR[1]!]);
    await refused(overlap, 'zip', 'archive_unsafe', /overlap/);
  });
});
