/** Bodies of the adapter routes that vLLM and SGLang have. */
import { type Static, type TSchema, Type } from 'typebox';
import { MODEL_NAME_LENGTH_MAX, PATH_LENGTH_MAX } from './limits.ts';
import { nullableBoolean, nullableInteger, nullableString } from './nullable.ts';

const CLOSED = { additionalProperties: false };

// vllm.ts refuses empty texts earlier, in vLLM's words.
const loraName = Type.String({
  description: 'Name of the adapter.',
  minLength: 1,
  maxLength: MODEL_NAME_LENGTH_MAX,
});
const loraPath = Type.String({
  description: 'A PEFT folder below the adapter root, or a Hugging Face repository, owner/name.',
  minLength: 1,
  maxLength: PATH_LENGTH_MAX,
});
const expectedGeneration = Type.Optional(
  Type.Unsafe<string | null>({
    type: ['string', 'null'],
    description: 'Generation that must be current; otherwise generation_mismatch.',
    pattern: '^[0-9a-f]{64}$',
  } as TSchema),
);
const notUsed = 'Accepted for compatibility; it changes nothing.';

export const LoadLoraSchema = Type.Object(
  {
    lora_name: loraName,
    lora_path: loraPath,
    load_inplace: nullableBoolean('Replace an adapter that has the name.', false),
    expected_generation: expectedGeneration,
    base_model_name: nullableString('Only the base model of this server.', {
      maxLength: MODEL_NAME_LENGTH_MAX,
    }),
    is_3d_lora_weight: nullableBoolean('Only false: there are no expert layers.', false),
  },
  CLOSED,
);
export type LoadLora = Static<typeof LoadLoraSchema>;

export const UnloadLoraSchema = Type.Object(
  {
    lora_name: loraName,
    // Some clients derive it from a 64-bit hash.
    lora_int_id: nullableInteger(notUsed, { minimum: 0 }),
    expected_generation: expectedGeneration,
  },
  CLOSED,
);
export type UnloadLora = Static<typeof UnloadLoraSchema>;

const loraId = nullableString(notUsed, { maxLength: MODEL_NAME_LENGTH_MAX });

export const SglangLoadSchema = Type.Object(
  {
    lora_name: loraName,
    lora_path: loraPath,
    pinned: nullableBoolean('Keep it resident on every server with room.', false),
    lora_id: loraId,
  },
  CLOSED,
);

export const SglangUnloadSchema = Type.Object({ lora_name: loraName, lora_id: loraId }, CLOSED);

export const SglangUpdateSchema = Type.Object({
  success: Type.Boolean(),
  error_message: Type.String({ description: 'Empty on success.' }),
  loaded_adapters: Type.Record(Type.String(), Type.String(), {
    description: 'Where every registered adapter came from, by name.',
  }),
});
export type WireSglangUpdate = Static<typeof SglangUpdateSchema>;
