/** Public surface of the importer. */
export type { Divergence } from './accuracy/divergence.ts';
export {
  type AccuracyFormat,
  DEFAULT_ACCURACY_FORMATS,
  parseAccuracyFormats,
} from './accuracy/formats.ts';
export { countPositions, type FormatAccuracy, measureAccuracy } from './accuracy/measure.ts';
export { readSequences, type TextSequence } from './accuracy/texts.ts';
export {
  type ImportOptions,
  importModel,
  openConfig,
} from './import.ts';
export { describeModules, modulePath, moduleShape } from './modules.ts';
export { type PackModelOptions, type PackModelResult, packModel } from './packing/pack-model.ts';
export {
  parseSafetensorsHeader,
  readSafetensorsHeader,
  type SafetensorsDtype,
  type SafetensorsHeader,
  type SafetensorsTensor,
  tensorBytes,
} from './safetensors/header.ts';
export { SafetensorsWriter, type TensorSpec } from './safetensors/writer.ts';
export {
  type SynthAdapter,
  type SynthAdapterOptions,
  synthesizeAdapters,
} from './synth/adapters.ts';
export { type SynthModelOptions, type SynthModelResult, synthesizeModel } from './synth/model.ts';
export { SYNTH_SHAPES, type SynthShape } from './synth/shapes.ts';
export type * from './types.ts';
