import { spawnSync } from 'node:child_process';
import { Value } from 'typebox/value';
import { describe, expect, it } from 'vitest';
import { BARS, COMMANDS, judge } from '../../../bench/bars.ts';
import { countsOf } from '../../../bench/checks.ts';
import { parsePackedLine } from '../../../bench/kernels.ts';
import { decodePacket, stepPacket } from '../../../bench/packet.ts';
import { barChart, digits, lineChart } from '../../../bench/plot.ts';
import { ResultSchema } from '../../../bench/result.ts';
import { numberOption, parse } from '../../../bench/scenario.ts';
import { median, pairedRatio, quantile, spread } from '../../../bench/statistics.ts';

const MACHINE = {
  isa: 'amx',
  threads: 2,
  readGBs: 19.5,
  int8Tops: 8.5,
  bf16Tflops: null,
  ceilings: { read: 19.5, int8_amx: 8.5 },
};

describe('the JSON line of a benchmark', () => {
  const line = {
    scenario: 'decode',
    machine: MACHINE,
    results: [{ name: 'int8 1', tokensPerSecond: 17, fractionOfCeiling: 0.9, extra: 'kept' }],
    ratios: { decodeInt8OfBandwidth: 0.9 },
  };

  it('is what its schema says', () => {
    expect(Value.Check(ResultSchema, line)).toBe(true);
  });

  it.each([
    ['no machine', { ...line, machine: undefined }],
    ['a ratio that is no number', { ...line, ratios: { x: '0.9' } }],
    ['a result without a name', { ...line, results: [{ tokensPerSecond: 1 }] }],
    ['no bandwidth', { ...line, machine: { ...MACHINE, readGBs: 0 } }],
  ])('is refused with %s', (_, wrong) => {
    expect(Value.Check(ResultSchema, wrong)).toBe(false);
  });

  it('has no NaN: JSON would turn it into null', () => {
    const broken = JSON.parse(JSON.stringify({ ...line, ratios: { x: Number.NaN } }));
    expect(Value.Check(ResultSchema, broken)).toBe(false);
  });
});

describe('figures of rounds', () => {
  it('takes medians, quantiles and spreads', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
    expect(quantile([1, 2, 3, 4], 0.75)).toBe(3);
    expect(spread([10, 10, 10])).toBe(0);
    expect(spread([8, 9, 10, 11, 12])).toBeCloseTo(0.1);
    expect(() => median([])).toThrow(RangeError);
  });

  it('compares round by round, so that a slow minute counts on both sides', () => {
    expect(pairedRatio([20, 10, 30], [10, 5, 10])).toBe(2);
    expect(() => pairedRatio([1], [1, 2])).toThrow(RangeError);
  });
});

describe('options of a scenario', () => {
  const options = { rounds: numberOption(5), model: { type: 'string', default: 'x' } } as const;

  it('reads numbers and text', () => {
    expect(parse(['--rounds', '7'], options)).toEqual({ rounds: 7, model: 'x' });
  });

  it.each([[['--rounds', 'many']], [['--rounds', '']], [['--unknown', '1']]])(
    'refuses %j',
    (args) => {
      expect(() => parse(args, options)).toThrow();
    },
  );
});

describe('charts', () => {
  it('draws bars from 0 to the largest value and escapes labels', () => {
    const text = barChart('A & B', [
      { label: 'half', value: 5 },
      { label: '<whole>', value: 10, target: 8 },
    ]);
    expect(text).toContain('A &#38; B');
    expect(text).not.toContain('<whole>');
    const widths = [...text.matchAll(/<rect x="\d+" y="\d+" width="([\d.]+)"/g)].map((m) => +m[1]!);
    expect(widths[0]! / widths[1]!).toBeCloseTo(0.5);
  });

  it('draws lines upwards for larger values', () => {
    const text = lineChart('t', { x: 'x', y: 'y' }, [
      {
        label: 'a',
        points: [
          [0, 0],
          [1, 1],
          [2, 4],
        ],
      },
    ]);
    const points = /<polyline points="([^"]+)" fill="none" stroke="#/.exec(text)![1]!;
    const heights = points.split(' ').map((p) => +p.split(',')[1]!);
    expect(heights[0]!).toBeGreaterThan(heights[1]!);
    expect(heights[1]!).toBeGreaterThan(heights[2]!);
  });

  it('shortens numbers to three digits', () => {
    expect(digits(1234.5)).toBe('1230');
    expect(digits(0.00012345)).toBe('1.23e-4');
    expect(digits(0)).toBe('0');
  });
});

describe('the command', () => {
  it('names its scenarios, and fails for one it does not have', () => {
    const bench = (...args: string[]) =>
      spawnSync(process.execPath, ['--import', 'tsx', 'bench/main.ts', ...args], {
        encoding: 'utf8',
      });
    const listed = bench();
    expect(listed.status).toBe(0);
    for (const name of ['ceiling', 'prefill', 'decode', 'adapters', 'cold-load']) {
      expect(listed.stdout).toMatch(new RegExp(`^  ${name} `, 'm'));
    }
    const unknown = bench('no-such-scenario');
    expect(unknown.status).toBe(1);
    expect(unknown.stderr).toContain('no scenario is called no-such-scenario');
  });
});

describe('bars', () => {
  it('name one ratio each, of a command that exists', () => {
    const ratios = BARS.map(({ ratio }) => ratio);
    expect(new Set(ratios).size).toBe(ratios.length);
    for (const { command } of BARS) expect(Object.keys(COMMANDS)).toContain(command);
  });

  it('are met from the bar on, or up to it', () => {
    const least = { what: 'a', command: 'mixed', ratio: 'a', bar: 0.85 };
    const most = { ...least, atMost: true } as const;
    expect(judge(least, 0.85).verdict).toBe('met');
    expect(judge(least, 0.84).verdict).toBe('missed');
    expect(judge(most, 0.84).verdict).toBe('met');
    expect(judge(most, 0.86).verdict).toBe('missed');
    expect(judge(least, undefined).verdict).toBe('not measured');
  });
});

describe('what native programs print', () => {
  it('is read line by line', () => {
    expect(
      parsePackedLine(
        'int8 n 2048 k 2048 group 0         rows 16   amx               90.6 us   46.38 GB/s  0.61 of reading   1481.1 GOPS',
      ),
    ).toEqual({
      name: 'int8 n 2048 k 2048 group 0 rows 16',
      isa: 'amx',
      us: 90.6,
      readGBs: 46.38,
      ofReading: 0.61,
      gops: 1481.1,
    });
    expect(parsePackedLine('amx          WRONG: error 1')).toBeUndefined();
    expect(countsOf('x\n12 passed, 0 failed\n')).toEqual({ passed: 12, failed: 0 });
    expect(() => countsOf('nothing')).toThrow();
  });
});

describe('packets made by hand', () => {
  it('give each sequence blocks of its own and its last token a slot', () => {
    const packet = decodePacket([17, 3], 16);
    expect([...packet.blockTables]).toEqual([0, 1, 2, -1]);
    expect([...packet.slotMapping]).toEqual([16, 34]);
    expect([...packet.positions]).toEqual([16, 2]);
    expect([...packet.logitRows]).toEqual([0, 1]);
  });

  it('put chunks of prompts beside decode tokens', () => {
    const packet = stepPacket(
      [
        { tokens: [7, 8, 9], start: 15, firstBlock: 4 },
        { tokens: [5], start: 0, firstBlock: 1 },
      ],
      16,
    );
    expect(packet.numTokens).toBe(4);
    expect([...packet.queryStart]).toEqual([0, 3, 4]);
    expect([...packet.slotMapping]).toEqual([79, 80, 81, 16]);
    expect([...packet.contextLens]).toEqual([18, 1]);
    expect([...packet.logitRows]).toEqual([2, 3]);
    expect([...packet.blockTables]).toEqual([4, 5, 1, -1]);
  });
});
