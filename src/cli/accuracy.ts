/** `loramux import --evaluate`: what each format costs in accuracy on a text. */
import type { Command } from 'commander';
import type { FormatAccuracy } from '../importer/index.ts';
import { table, UsageError } from './output.ts';
import { withProgress } from './progress.ts';

export interface AccuracyFlags {
  evaluate?: string;
  formats?: string;
  evaluateTokens?: string;
  evaluateWindow?: string;
}

const DEFAULT_TOKENS = 4096;
const DEFAULT_WINDOW = 512;

export interface AccuracyReport {
  file: string;
  sequences: number;
  /** Positions compared, of all sequences. */
  positions: number;
  formats: FormatAccuracy[];
}

/** Adds the options to `loramux import`. */
export function withAccuracyOptions(command: Command): Command {
  return command
    .option('--evaluate <file>', 'measure formats against float32 on a text or .jsonl file')
    .option('--formats <list>', 'formats to measure, separated by commas')
    .option('--evaluate-tokens <number>', `positions to compare at most [${DEFAULT_TOKENS}]`)
    .option('--evaluate-window <number>', `tokens of one window of text [${DEFAULT_WINDOW}]`);
}

/** Whether any of the options was given; then `--evaluate` must be among them. */
export function wantsAccuracy(flags: AccuracyFlags): boolean {
  const { evaluate, formats, evaluateTokens, evaluateWindow } = flags;
  if (evaluate !== undefined) return true;
  if (formats !== undefined || evaluateTokens !== undefined || evaluateWindow !== undefined) {
    throw new UsageError('--formats, --evaluate-tokens and --evaluate-window need --evaluate');
  }
  return false;
}

/**
 * Measures the formats of `flags` on its file, with a progress display.
 * @throws LoramuxError config_invalid (flags, the file), tokenizer_invalid, and as measureAccuracy
 */
export async function evaluateAccuracy(dir: string, flags: AccuracyFlags): Promise<AccuracyReport> {
  const maxPositions = countOf('--evaluate-tokens', flags.evaluateTokens, DEFAULT_TOKENS);
  const importer = await import('../importer/index.ts');
  const formats = importer.parseAccuracyFormats(flags.formats ?? importer.DEFAULT_ACCURACY_FORMATS);
  const { loadTokenizer } = await import('../tokenizer/tokenizer.ts');
  const { maxPositionEmbeddings } = (await importer.openConfig(dir)).config;
  const window = countOf('--evaluate-window', flags.evaluateWindow, DEFAULT_WINDOW);
  if (flags.evaluateWindow !== undefined && window > maxPositionEmbeddings) {
    throw new UsageError(
      `--evaluate-window ${window}: the context of the model is ${maxPositionEmbeddings} tokens`,
    );
  }
  const file = flags.evaluate!;
  const sequences = await importer.readSequences(file, await loadTokenizer(dir), {
    windowTokens: Math.min(window, maxPositionEmbeddings),
    maxPositions,
  });
  return withProgress(async (onProgress) => ({
    file,
    sequences: sequences.length,
    positions: importer.countPositions(sequences),
    formats: await importer.measureAccuracy(dir, { formats, sequences, onProgress }),
  }));
}

function countOf(flag: string, value: string | undefined, fallback: number): number {
  if (value === undefined) return fallback;
  const count = Number(value);
  if (Number.isInteger(count) && count >= 2) return count;
  throw new UsageError(`${flag} must be a whole number of at least 2, got '${value}'`);
}

/** The report as a table for people. */
export function accuracyText(report: AccuracyReport): string {
  const { file, sequences, positions, formats } = report;
  const rows = formats.map((one) => [
    one.name,
    one.klMean.toExponential(2),
    one.klP99.toExponential(2),
    `${(one.topAgreement * 100).toFixed(2)} %`,
    one.perplexity?.toFixed(3) ?? '-',
    one.referencePerplexity?.toFixed(3) ?? '-',
  ]);
  const head = ['format', 'KL mean', 'KL p99', 'same top token', 'perplexity', 'of float32'];
  return `${positions} positions of ${sequences} sequences, ${file}\n${table([head, ...rows])}`;
}
