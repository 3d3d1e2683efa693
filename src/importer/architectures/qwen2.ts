/** Qwen2ForCausalLM (Qwen2, Qwen2.5): biases on q, k and v; a window in the upper layers. */
import type { ConfigReader } from '../config-reader.ts';
import { type FamilyRules, MAX_SLIDING_WINDOW } from './family.ts';

/** What transformers assumes when the keys are absent. */
const DEFAULT_SLIDING_WINDOW = 4_096;
const DEFAULT_MAX_WINDOW_LAYERS = 28;
export const QWEN_DEFAULT_NUM_KV_HEADS = 32;

export const qwen2: FamilyRules = {
  defaultNumKvHeads: QWEN_DEFAULT_NUM_KV_HEADS,
  read(reader, numLayers) {
    return {
      bias: { qkv: true, o: false, mlp: false },
      slidingWindows: readLayerWindows(reader, numLayers),
      qkNorm: false,
    };
  },
};

/**
 * Per layer, the window or 0. `sliding_window` counts only with `use_sliding_window`; then
 * `layer_types` names the layers, or those from `max_window_layers` on have it.
 */
export function readLayerWindows(reader: ConfigReader, numLayers: number): number[] {
  const enabled = reader.boolean('use_sliding_window', false);
  const none = reader.raw('sliding_window') === null;
  const window = reader.integer('sliding_window', {
    fallback: DEFAULT_SLIDING_WINDOW,
    min: 0,
    max: MAX_SLIDING_WINDOW,
  });
  const firstLayer = reader.integer('max_window_layers', {
    fallback: DEFAULT_MAX_WINDOW_LAYERS,
    min: 0,
  });
  const active = enabled && !none ? window : 0;
  if (enabled && !none && window === 0) throw reader.unsupported('sliding_window', 'must not be 0');

  const types = reader.raw('layer_types');
  if (types === undefined || types === null) {
    return Array.from({ length: numLayers }, (_, layer) => (layer >= firstLayer ? active : 0));
  }
  if (!Array.isArray(types) || types.length !== numLayers) {
    throw reader.unsupported('layer_types', `must list ${numLayers} layers`);
  }
  return types.map((type) => {
    if (type === 'full_attention') return 0;
    if (type !== 'sliding_attention') {
      throw reader.unsupported(
        'layer_types',
        'only full_attention and sliding_attention are known',
      );
    }
    if (active === 0) {
      throw reader.unsupported('layer_types', 'it names sliding_attention but no window is set');
    }
    return active;
  });
}
