import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { formatBytes, table } from '../../../src/cli/output.ts';
import { createProgram } from '../../../src/cli/program.ts';
import { createProgress } from '../../../src/cli/progress.ts';
import { CONFIG_FIELDS } from '../../../src/config/schema.ts';

describe('output', () => {
  it('formats bytes', () => {
    expect([0, 1023, 1536, 5 * 2 ** 30].map(formatBytes)).toEqual([
      '0 B',
      '1023 B',
      '1.5 KiB',
      '5.0 GiB',
    ]);
  });

  it('pads columns', () => {
    expect(
      table([
        ['a', 'bb'],
        ['ccc', 'd'],
      ]),
    ).toBe('a    bb\nccc  d');
  });

  it('shows progress on a terminal only', () => {
    const pipe = new PassThrough() as unknown as NodeJS.WriteStream;
    const silent = createProgress(pipe);
    silent.update(1, 2, 'work');
    silent.stop();
    expect(pipe.read()).toBeNull();
    const terminal = Object.assign(new PassThrough(), { isTTY: true, columns: 80 });
    const bar = createProgress(terminal as unknown as NodeJS.WriteStream);
    bar.update(1, 2, 'work');
    bar.update(2, 2, 'work');
    bar.stop();
    expect(String(terminal.read())).toContain('work');
  });

  it('shows what is waited for, in place of the bar and gone afterwards', () => {
    const terminal = Object.assign(new PassThrough(), { isTTY: true, columns: 30 });
    const progress = createProgress(terminal as unknown as NodeJS.WriteStream);
    progress.update(1, 2, 'work');
    terminal.read();
    progress.busy('the server checks a name that is too long for the line');
    const [cleared, line] = String(terminal.read()).split('\r\u001b[K');
    expect(cleared).not.toContain('server');
    expect(line).toBe('| the server checks a name th');
    progress.stop();
    expect(String(terminal.read())).toBe('\r\u001b[K');
    progress.stop();
    expect(terminal.read()).toBeNull();
  });
});

describe('serve', () => {
  it('has a flag for every field of the configuration, and no other', () => {
    const serve = createProgram().commands.find((command) => command.name() === 'serve')!;
    const flags = serve.options.map(({ long }) => long);
    expect(flags).toEqual(CONFIG_FIELDS.map(({ flag }) => flag));
    expect(serve.options.map((option) => option.attributeName())).toEqual(
      CONFIG_FIELDS.map(({ key }) => key),
    );
  });
});
