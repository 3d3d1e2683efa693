/** `loramux synth`: random weights of a real shape, and adapters for them. */
import path from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { SYNTH_SHAPES, synthesizeAdapters, synthesizeModel } from '../../importer/index.ts';
import { LORA_MODULES, type LoraModule } from '../../native/addon-types.ts';
import { formatBytes, print, printJson } from '../output.ts';
import { withProgress } from '../progress.ts';

type Dtype = 'F32' | 'F16' | 'BF16';

interface SynthFlags {
  adapters: number;
  rank: number[];
  targets?: LoraModule[];
  seed: number;
  dtype: Dtype;
  json?: boolean;
}

function count(value: string): number {
  if (!/^\d{1,9}$/.test(value)) throw new InvalidArgumentError('It must be a whole number.');
  return Number(value);
}

const counts = (value: string) => value.split(',').map(count);

function modules(value: string): LoraModule[] {
  return value.split(',').map((name) => {
    const known = LORA_MODULES.find((module) => module === name);
    if (known !== undefined) return known;
    throw new InvalidArgumentError(`${name} is none of ${LORA_MODULES.join(', ')}.`);
  });
}

const dtype = (value: string): Dtype => {
  const upper = value.toUpperCase();
  if (upper === 'F32' || upper === 'F16' || upper === 'BF16') return upper;
  throw new InvalidArgumentError('It must be f32, f16 or bf16.');
};

export function synthCommand(): Command {
  return new Command('synth')
    .description('write a checkpoint with random weights, for benchmarks and tests')
    .argument('<shape>', `${Object.keys(SYNTH_SHAPES).join(', ')}, or a config.json`)
    .argument('<folder>', 'a new folder; adapters go to its folder "adapters"')
    .addOption(new Option('--adapters <n>', 'adapters to write').argParser(count).default(0))
    .addOption(
      new Option('--rank <n,...>', 'ranks, taken in turn').argParser(counts).default([16], '16'),
    )
    .addOption(new Option('--targets <module,...>', 'default: all seven').argParser(modules))
    .addOption(new Option('--seed <n>', 'equal seeds, equal files').argParser(count).default(0))
    .addOption(
      new Option('--dtype <type>', 'f32, f16 or bf16').argParser(dtype).default('BF16', 'bf16'),
    )
    .option('--json', 'print one JSON object')
    .action(async (shape: string, folder: string, flags: SynthFlags) => {
      const { seed } = flags;
      const result = await withProgress(async (onProgress) => {
        const model = await synthesizeModel(shape, folder, {
          seed,
          dtype: flags.dtype,
          onProgress,
        });
        const adapters =
          flags.adapters === 0
            ? []
            : await synthesizeAdapters(folder, path.join(folder, 'adapters'), {
                count: flags.adapters,
                ranks: flags.rank,
                seed,
                onProgress,
                ...(flags.targets !== undefined && { targets: flags.targets }),
              });
        return { ...model, adapters };
      });
      if (flags.json) {
        printJson(result);
        return;
      }
      const { dir, parameters, weightBytes, adapters } = result;
      print(`${dir}: ${(parameters / 1e6).toFixed(1)} M parameters, ${formatBytes(weightBytes)}`);
      for (const adapter of adapters) print(`${adapter.dir}: rank ${adapter.rank}`);
    });
}
