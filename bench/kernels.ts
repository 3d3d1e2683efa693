/**
 * The kernels alone: packed linear layers by format, instruction set and rows beside reading the
 * same weights, adapters and attention; and int4 products on AVX2 in turn with ONNX Runtime's
 * MatMulNBits.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { ROOT } from '../scripts/process.ts';
import { locateOrtLibrary } from '../src/native/locate.ts';
import { Ceiling } from './ceiling.ts';
import { numberOption, parse, type Scenario, type ScenarioResult } from './scenario.ts';
import { median, pairedRatio } from './statistics.ts';

const OPTIONS = {
  threads: numberOption(2),
  rows: { type: 'string', default: '1,16,512' },
  formats: { type: 'string', default: 'bf16,int8,int4' },
  /** The instruction set that is compared with ONNX Runtime. */
  isa: { type: 'string', default: 'avx2' },
  size: numberOption(2048),
  group: numberOption(128),
  rounds: numberOption(5),
  /** Names of kernel cases that run besides; empty: none. */
  filter: { type: 'string', default: 'rank 16' },
} as const;

type Values = ReturnType<typeof parse<typeof OPTIONS>>;

const PACKED = path.join(ROOT, 'build', 'loramux_packed_bench');
const KERNELS = path.join(ROOT, 'build', 'loramux_kernel_bench');
const ORT_ROWS = 16;
const SHORT_SECONDS = 0.1;

/** Runs a native program and gives the lines of its output. */
async function lines(program: string, args: readonly string[]): Promise<string[]> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`${path.basename(program)} ended with ${code}`);
  return text.split('\n').filter((line) => line !== '');
}

export interface PackedLine {
  readonly name: string;
  readonly isa: string;
  readonly us: number;
  readonly readGBs: number;
  readonly ofReading: number;
  readonly gops: number;
}

/** One line of loramux_packed_bench; undefined for other lines. */
export function parsePackedLine(line: string): PackedLine | undefined {
  const found =
    /^(.+?)\s+rows (\d+)\s+(\w+)\s+([\d.]+) us\s+([\d.]+) GB\/s\s+([\d.]+) of reading\s+([\d.]+) GOPS$/.exec(
      line,
    );
  if (found === null) return undefined;
  const [us, readGBs, ofReading, gops] = found.slice(4).map(Number) as [
    number,
    number,
    number,
    number,
  ];
  return { name: `${found[1]} rows ${found[2]}`, isa: found[3]!, us, readGBs, ofReading, gops };
}

async function packedLines(values: Values, extra: readonly string[]): Promise<PackedLine[]> {
  const common = ['--threads', String(values.threads), '--n', String(values.size)];
  const sizes = ['--k', String(values.size), '--seconds', String(SHORT_SECONDS)];
  const output = await lines(PACKED, [...common, ...sizes, ...extra]);
  return output.flatMap((line) => parsePackedLine(line) ?? []);
}

/** Microseconds of one int4 product of 16 rows, ours and ONNX Runtime's, in turn. */
async function againstOrt(values: Values): Promise<{ ours: number[]; theirs: number[] }> {
  const ours: number[] = [];
  const theirs: number[] = [];
  const format = ['--format', 'int4', '--group', String(values.group), '--rows', String(ORT_ROWS)];
  for (let round = 0; round < values.rounds; round++) {
    const both = ['--isa', values.isa, '--ort', locateOrtLibrary()];
    const timed = await packedLines(values, [...format, ...both]);
    const us = (name: string) => {
      const found = timed.find(({ isa }) => isa === name);
      if (found === undefined) throw new Error(`${name} was not timed`);
      return found.us;
    };
    ours.push(us(values.isa));
    theirs.push(us('onnxruntime'));
  }
  return { ours, theirs };
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const ceiling = await Ceiling.open(values.threads);
  try {
    await ceiling.sample();
    const packed: PackedLine[] = [];
    for (const format of values.formats.split(',').filter((name) => name !== '')) {
      for (const rows of values.rows.split(',')) {
        const group = format === 'int4' ? ['--group', String(values.group)] : ['--group', '0'];
        packed.push(...(await packedLines(values, ['--format', format, '--rows', rows, ...group])));
        await ceiling.sample();
      }
    }
    const { ours, theirs } = await againstOrt(values);
    const others =
      values.filter === ''
        ? []
        : await lines(KERNELS, ['--threads', String(values.threads), '--filter', values.filter]);
    const peak = ceiling.value(ceiling.int8);
    return {
      machine: ceiling.machine(),
      lines: [
        `${values.size} x ${values.size}, ${values.threads} threads`,
        ...packed.map(
          ({ name, isa, us, ofReading, gops }) =>
            `${name.padEnd(36)}${isa.padEnd(13)}${us.toFixed(1).padStart(9)} us ` +
            `${ofReading.toFixed(2)} of reading ${gops.toFixed(0).padStart(6)} GOPS`,
        ),
        ...others,
        `int4 at ${ORT_ROWS} rows: ${values.isa} ${median(ours).toFixed(1)} us, ONNX Runtime's ` +
          `MatMulNBits ${median(theirs).toFixed(1)} us`,
      ],
      results: [
        ...packed.map((line) => ({
          ...line,
          name: `${line.name} ${line.isa}`,
          fractionOfCeiling: peak === undefined ? null : line.gops / 1e3 / peak,
        })),
        { name: `int4 ${values.isa}`, us: median(ours) },
        { name: 'MatMulNBits', us: median(theirs) },
      ],
      ratios: { [`${values.isa}Int4OverMatMulNBits`]: pairedRatio(theirs, ours) },
    };
  } finally {
    await ceiling.close();
  }
}

export const kernelsScenario: Scenario = {
  name: 'kernels',
  summary: "packed products by instruction set; AVX2 against ONNX Runtime's MatMulNBits",
  run,
};
