/** `loramux import`: check a checkpoint, or write quantized weights once. */
import { Command, Option } from 'commander';
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
  quantize?: 'int8' | 'int4';
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
    quantization: config.quantization === undefined ? null : `int${config.quantization.bits}`,
    weightBytes: metadata.weightBytes,
    eosTokenIds: metadata.eosTokenIds,
    digest: metadata.weightDigest,
  };
}

async function quantize(dir: string, flags: ImportFlags) {
  const { out, quantize: kind } = flags;
  if (out === undefined || kind === undefined) {
    throw new UsageError(
      '--quantize and --out go together: quantized weights are written to a folder of their own; ' +
        'full-precision weights are served from where they are',
    );
  }
  const { quantizeModel } = await import('../../importer/index.ts');
  return withProgress((onProgress) =>
    quantizeModel(dir, out, { bits: kind === 'int8' ? 8 : 4, onProgress }),
  );
}

export function importCommand(): Command {
  const command = new Command('import')
    .description('check a Hugging Face model folder, and quantize it if asked')
    .argument('<folder>', 'folder with config.json, safetensors weights and tokenizer.json')
    .option('--out <folder>', 'folder for the quantized model')
    .addOption(new Option('--quantize <type>', 'write quantized weights').choices(['int8', 'int4']))
    .option('--json', 'print one JSON object');
  return withAccuracyOptions(command).action(async (dir: string, flags: ImportFlags) => {
    if (wantsAccuracy(flags)) {
      if (flags.out !== undefined || flags.quantize !== undefined) {
        throw new UsageError('--evaluate writes nothing; leave out --out and --quantize');
      }
      const report = await evaluateAccuracy(dir, flags);
      if (flags.json) printJson({ dir, ...report });
      else print(accuracyText(report));
      return;
    }
    if (flags.out === undefined && flags.quantize === undefined) {
      const facts = await check(dir);
      if (flags.json) printJson(facts);
      else {
        const rows = Object.entries(facts).map(([key, value]) => [key, String(value)]);
        print(table(rows));
        print('The model can be served.');
      }
      return;
    }
    const result = await quantize(dir, flags);
    if (flags.json) printJson(result);
    else if (!result.written) print(`${result.dir} holds this quantization already`);
    else {
      const { sourceBytes, weightBytes } = result;
      print(`${result.dir}: ${formatBytes(sourceBytes)} -> ${formatBytes(weightBytes)}`);
    }
  });
}
