/** `loramux import`: check a checkpoint, or write packed weights once. */
import { Command, InvalidArgumentError, Option } from 'commander';

import { PACKED_FORMATS, type PackedFormat } from '../../native/addon-types.ts';
import {
  type AccuracyFlags,
  accuracyText,
  evaluateAccuracy,
  wantsAccuracy,
  withAccuracyOptions,
} from '../accuracy.ts';
import { formatBytes, print, printJson, table, UsageError } from '../output.ts';
import { withProgress } from '../progress.ts';

interface ImportFlags extends AccuracyFlags {
  out?: string;
  quantize?: PackedFormat;
  groupSize?: number;
  zeroPoints?: boolean;
  lmHead?: 'same' | PackedFormat;
  json?: boolean;
}

async function check(dir: string) {
  const { importModel } = await import('../../importer/index.ts');
  const { loadTokenizer } = await import('../../tokenizer/tokenizer.ts');
  const { metadata } = await importModel(dir);
  const tokenizer = await loadTokenizer(dir);
  const { config } = metadata;
  return {
    dir,
    architecture: config.architecture,
    layers: config.numLayers,
    hiddenSize: config.hiddenSize,
    heads: config.numHeads,
    kvHeads: config.numKvHeads,
    vocabSize: config.vocabSize,
    tokens: tokenizer.vocabSize,
    contextLength: config.maxPositionEmbeddings,
    dtype: metadata.dtype,
    quantization: config.quantization === undefined ? null : metadata.weights,
    weightBytes: metadata.weightBytes,
    eosTokenIds: metadata.eosTokenIds,
    digest: metadata.weightDigest,
  };
}

async function pack(dir: string, flags: ImportFlags) {
  const { out, quantize: format, groupSize, zeroPoints, lmHead } = flags;
  if (out === undefined) {
    throw new UsageError(
      '--quantize, --group-size, --zero-points and --lm-head need --out: packed weights are ' +
        'written to a folder of their own; to serve a checkpoint from where it is, import nothing',
    );
  }
  const { packModel } = await import('../../importer/index.ts');
  return withProgress((onProgress) =>
    packModel(dir, out, { format, groupSize, zeroPoints, lmHead, onProgress }),
  );
}

function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('It must be a whole number.');
  return Number(text);
}

function printFacts(facts: Awaited<ReturnType<typeof check>>): void {
  print(table(Object.entries(facts).map(([key, value]) => [key, String(value)])));
  print('The model can be served.');
}

function printResult(result: Awaited<ReturnType<typeof pack>>): void {
  const { dir, written, packing, sourceBytes, weightBytes, clampedLevels } = result;
  if (!written) {
    print(`${dir} holds this packing already`);
    return;
  }
  const { format, groupSize, zeroPoints } = packing.linears;
  const group = format === 'bf16' ? '' : `, group size ${groupSize}`;
  const zeros = zeroPoints ? ', zero points' : '';
  print(`${dir}: ${format}${group}${zeros}, lm_head ${packing.lmHead.format}`);
  print(`${formatBytes(sourceBytes)} -> ${formatBytes(weightBytes)}`);
  if (clampedLevels > 0) {
    print(`${clampedLevels} weights of level -128 became -127, the least that int8 has here`);
  }
}

export function importCommand(): Command {
  const command = new Command('import')
    .description('check a Hugging Face model folder, or pack its weights once for fast serving')
    .argument('<folder>', 'folder with config.json, safetensors weights and tokenizer.json')
    .option('--out <folder>', 'folder for the packed model')
    .addOption(
      new Option(
        '--quantize <format>',
        'format of the packed weights; not for GPTQ and AWQ',
      ).choices(PACKED_FORMATS),
    )
    .option(
      '--group-size <inputs>',
      'inputs per weight scale, 0 is one scale per output (default: int8 256, int4 64)',
      wholeNumber,
    )
    .option('--zero-points', 'int4 with a zero point in each group')
    .addOption(
      new Option('--lm-head <format>', 'format of lm_head (default: bf16 or int8)').choices([
        'same',
        ...PACKED_FORMATS,
      ]),
    )
    .option('--json', 'print one JSON object');
  return withAccuracyOptions(command).action(async (dir: string, flags: ImportFlags) => {
    const { out, quantize, groupSize, zeroPoints, lmHead } = flags;
    const packs = [out, quantize, groupSize, zeroPoints, lmHead].some((flag) => flag !== undefined);
    if (wantsAccuracy(flags)) {
      if (packs) {
        throw new UsageError('--evaluate writes nothing; leave out --out, --quantize and the like');
      }
      const report = await evaluateAccuracy(dir, flags);
      if (flags.json) printJson({ dir, ...report });
      else print(accuracyText(report));
      return;
    }
    if (!packs) {
      const facts = await check(dir);
      if (flags.json) printJson(facts);
      else printFacts(facts);
      return;
    }
    const result = await pack(dir, flags);
    if (flags.json) printJson(result);
    else printResult(result);
  });
}
