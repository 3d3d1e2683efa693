#include "addon/convert.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "addon/js_values.h"
#include "loramux/sampler.h"

namespace loramux::addon {
namespace {

constexpr int64_t kMaxSafeInteger = (int64_t{1} << 53) - 1;

KvDtype ToKvDtype(const std::string& name) {
  if (name == "f32") return KvDtype::kF32;
  if (name == "bf16") return KvDtype::kBf16;
  if (name == "int8") return KvDtype::kI8;
  FailType("kvDtype", "'f32', 'bf16' or 'int8'");
}

LoraDtype ToLoraDtype(const Napi::Object& options) {
  if (options.Get("loraDtype").IsUndefined()) return LoraDtype::kF32;
  const std::string name = GetString(options, "loraDtype");
  for (const LoraDtype dtype : {LoraDtype::kF32, LoraDtype::kBf16, LoraDtype::kI8}) {
    if (name == LoraDtypeName(dtype)) return dtype;
  }
  FailType("loraDtype", "'float32', 'bfloat16' or 'int8'");
}

Isa ToIsa(const Napi::Object& options) {
  const Napi::Value value = options.Get("isa");
  if (value.IsUndefined()) return DetectIsa();
  const std::string name = GetString(options, "isa");
  for (const Isa isa : kAllIsas) {
    if (name == IsaName(isa)) return isa;
  }
  std::string known;
  for (const Isa isa : kAllIsas) known += std::string(known.empty() ? "" : ", ") + IsaName(isa);
  FailType("isa", ("one of " + known).c_str());
}

WeightDtype ToWeightDtype(const std::string& name) {
  if (name == "F32") return WeightDtype::kF32;
  if (name == "F16") return WeightDtype::kF16;
  if (name == "BF16") return WeightDtype::kBf16;
  FailType("dtype", "'F32', 'F16' or 'BF16'");
}

void ReadRope(const Napi::Object& rope, ModelConfig* model) {
  const ArrayView<float> inv_freq = GetArray<float>(rope, "invFreq");
  if (inv_freq.length > static_cast<size_t>(kMaxHeadSize)) {
    FailType("rope.invFreq", "at most 4096 entries long");
  }
  model->inv_freq.assign(inv_freq.data, inv_freq.data + inv_freq.length);
  model->attention_scaling = static_cast<float>(GetNumber(rope, "attentionScaling"));
  if (rope.Get("dynamic").IsUndefined()) return;
  const Napi::Object dynamic = GetObject(rope, "dynamic");
  model->dynamic_rope = true;
  model->dynamic_base = GetNumber(dynamic, "base");
  model->dynamic_factor = GetNumber(dynamic, "factor");
  model->dynamic_max_positions = GetInt32(dynamic, "maxPositions");
}

void ReadModel(const Napi::Object& object, ModelConfig* model) {
  const ArrayView<uint8_t> bytes = GetArray<uint8_t>(object, "modelBytes");
  model->model_bytes.assign(bytes.data, bytes.data + bytes.length);
  model->external_data_dir = GetString(object, "externalDataDir");
  model->num_layers = GetInt32(object, "numLayers");
  model->num_heads = GetInt32(object, "numHeads");
  model->num_kv_heads = GetInt32(object, "numKvHeads");
  model->head_size = GetInt32(object, "headSize");
  model->hidden_size = GetInt32(object, "hiddenSize");
  model->vocab_size = GetInt32(object, "vocabSize");
  const ArrayView<int32_t> shapes = GetArray<int32_t>(object, "moduleShapes");
  if (shapes.length != model->module_shapes.size()) {
    FailType("moduleShapes", "14 entries long: [in, out] of each module");
  }
  std::copy(shapes.data, shapes.data + shapes.length, model->module_shapes.begin());
  model->packed_weights = GetFlag(object, "packedWeights");
  ReadRope(GetObject(object, "rope"), model);
}

// In memory that JavaScript shares between threads; who keeps the configuration keeps the array.
MaskMemory ToMaskMemory(const Napi::Value& value, Napi::Value* words) {
  MaskMemory masks;
  *words = value;
  if (value.IsUndefined()) return masks;
  const Napi::Object object = RequireObject(value, "tokenMasks");
  masks.slots = GetInt32(object, "slots");
  masks.stride = GetInt32(object, "stride");
  masks.wait_ms = GetInt32(object, "waitMs");
  // Last, when no getter can run any more.
  *words = object.Get("words");
  const ArrayView<int32_t> view = ToArray<int32_t>(*words, "tokenMasks.words");
  if (masks.slots < 1 || masks.stride < 1 ||
      view.length != static_cast<size_t>(masks.slots) * static_cast<size_t>(masks.stride)) {
    FailType("tokenMasks.words", "an Int32Array of slots * stride words");
  }
  masks.words = const_cast<int32_t*>(view.data);
  return masks;
}

template <typename T>
struct Field {
  const char* key;
  ArrayView<T> StepPacketView::*member;
};
using View = StepPacketView;

constexpr Field<int32_t> kPacketInts[] = {
    {"inputIds", &View::input_ids},         {"positions", &View::positions},
    {"ropeLengths", &View::rope_lengths},   {"queryStart", &View::query_start},
    {"contextLens", &View::context_lens},   {"blockTables", &View::block_tables},
    {"slotMapping", &View::slot_mapping},   {"blockCopies", &View::block_copies},
    {"segmentStart", &View::segment_start}, {"segmentAdapterStart", &View::segment_adapter_start},
    {"adapterSlot", &View::adapter_slot},   {"logitRows", &View::logit_rows},
};
constexpr Field<float> kPacketFloats[] = {{"adapterScale", &View::adapter_scale}};
constexpr Field<int32_t> kSamplingInts[] = {
    {"targetIds", &View::target_ids},
    {"topK", &View::top_k},
    {"sampleIndex", &View::sample_index},
    {"numTopLogprobs", &View::num_top_logprobs},
    {"historyStart", &View::history_start},
    {"history", &View::history},
    {"historyPromptLength", &View::history_prompt_length},
    {"biasStart", &View::bias_start},
    {"biasIds", &View::bias_ids},
    {"maskSlots", &View::mask_slots},
    {"maskStamps", &View::mask_stamps},
};
constexpr Field<float> kSamplingFloats[] = {
    {"temperature", &View::temperature},
    {"topP", &View::top_p},
    {"minP", &View::min_p},
    {"repetitionPenalty", &View::repetition_penalty},
    {"presencePenalty", &View::presence_penalty},
    {"frequencyPenalty", &View::frequency_penalty},
    {"biasValues", &View::bias_values},
};
constexpr Field<uint32_t> kSamplingWords[] = {{"seed", &View::seed}};

// Reading a property may run a getter, which may detach an array read before; so all properties
// are read first, and only then the memory of the arrays is looked at.
template <typename T, size_t kCount>
std::array<Napi::Value, kCount> GetAll(const Napi::Object& object,
                                       const Field<T> (&fields)[kCount]) {
  std::array<Napi::Value, kCount> values;
  for (size_t i = 0; i < kCount; ++i) values[i] = object.Get(fields[i].key);
  return values;
}

template <typename T, size_t kCount>
void ToArrays(const std::array<Napi::Value, kCount>& values, const Field<T> (&fields)[kCount],
              StepPacketView* view) {
  for (size_t i = 0; i < kCount; ++i) {
    view->*fields[i].member = ToArray<T>(values[i], fields[i].key);
  }
}

}  // namespace

SessionConfig ToSessionConfig(const Napi::Value& value, Napi::Value* mask_words) {
  const Napi::Object options = RequireObject(value, "options");
  SessionConfig config;
  config.ort_library_path = GetString(options, "ortLibraryPath");
  ReadModel(GetObject(options, "model"), &config.model);
  config.intra_op_threads = GetInt32(options, "intraOpThreads");
  config.num_blocks = GetInt32(options, "numBlocks");
  config.block_size = GetInt32(options, "blockSize");
  config.kv_dtype = ToKvDtype(GetString(options, "kvDtype"));
  config.max_slots = GetInt32(options, "maxSlots");
  config.lora_dtype = ToLoraDtype(options);
  config.max_tokens_per_step = GetInt32(options, "maxTokensPerStep");
  config.max_rows_per_step = GetInt32(options, "maxLogitRowsPerStep");
  config.isa = ToIsa(options);
  config.masks = ToMaskMemory(options.Get("tokenMasks"), mask_words);
  return config;
}

StepPacketView ToPacketView(const Napi::Value& value) {
  const Napi::Object packet = RequireObject(value, "packet");
  StepPacketView view;
  view.num_tokens = GetInt32(packet, "numTokens");
  view.num_sequences = GetInt32(packet, "numSequences");
  view.num_segments = GetInt32(packet, "numSegments");
  view.num_rows = GetInt32(packet, "numRows");
  view.max_blocks = GetInt32(packet, "maxBlocksPerSequence");
  view.num_block_copies = GetInt32(packet, "numBlockCopies");
  const Napi::Object sampling = GetObject(packet, "sampling");
  const auto packet_ints = GetAll(packet, kPacketInts);
  const auto packet_floats = GetAll(packet, kPacketFloats);
  const auto sampling_ints = GetAll(sampling, kSamplingInts);
  const auto sampling_floats = GetAll(sampling, kSamplingFloats);
  const auto sampling_words = GetAll(sampling, kSamplingWords);
  ToArrays(packet_ints, kPacketInts, &view);
  ToArrays(packet_floats, kPacketFloats, &view);
  ToArrays(sampling_ints, kSamplingInts, &view);
  ToArrays(sampling_floats, kSamplingFloats, &view);
  ToArrays(sampling_words, kSamplingWords, &view);
  return view;
}

AdapterImage ToAdapterImage(const Napi::Value& value, Napi::Value* bytes) {
  const Napi::Object object = RequireObject(value, "image");
  AdapterImage image;
  image.path = GetString(object, "path");
  image.file_bytes = GetInteger(object, "fileBytes", 0, kMaxSafeInteger);
  const Napi::Value list = object.Get("pairs");
  if (!list.IsArray()) FailType("pairs", "an array");
  const Napi::Array pairs = list.As<Napi::Array>();
  const uint32_t count = pairs.Length();
  if (count > kMaxPairs) FailType("pairs", "at most 65536 entries long");
  image.pairs.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    const Napi::HandleScope scope(value.Env());
    const Napi::Object entry = RequireObject(pairs.Get(i), "pairs[i]");
    AdapterPair pair;
    pair.layer = GetInt32(entry, "layer");
    pair.module = GetInt32(entry, "module");
    pair.rank = GetInt32(entry, "rank");
    pair.scale = static_cast<float>(GetNumber(entry, "scale"));
    pair.dtype = ToWeightDtype(GetString(entry, "dtype"));
    pair.offset_a = GetInteger(entry, "offsetA", 0, kMaxSafeInteger);
    pair.offset_b = GetInteger(entry, "offsetB", 0, kMaxSafeInteger);
    image.pairs.push_back(pair);
  }
  *bytes = object.Get("bytes");
  if (bytes->IsUndefined()) return image;
  // Last, when no getter can run any more: see GetAll.
  const ArrayView<uint8_t> view = ToArray<uint8_t>(*bytes, "bytes");
  if (view.data == nullptr || view.length != static_cast<size_t>(image.file_bytes)) {
    FailType("bytes", "a Uint8Array of fileBytes bytes");
  }
  image.bytes = view.data;
  return image;
}

Napi::Object FromInfo(Napi::Env env, const SessionConfig& config, const SessionInfo& info) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("ortVersion", info.ort_version);
  object.Set("isa", IsaName(config.isa));
  object.Set("kvBytes", static_cast<double>(info.kv_bytes));
  object.Set("loadMs", info.load_ms);
  return object;
}

Napi::Object FromOutput(Napi::Env env, StepOutput* output, int32_t vocab) {
  const size_t rows = static_cast<size_t>(output->num_rows);
  // One buffer for all arrays of the result: far fewer garbage-collected objects per step.
  const size_t top_bytes = rows * kMaxTopLogprobs * sizeof(float);
  const size_t row_bytes = rows * sizeof(float);
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, 3 * row_bytes + 2 * top_bytes + rows);
  auto* bytes = static_cast<char*>(buffer.Data());
  size_t at = 0;
  const auto place = [&](const void* from, size_t size) {
    const size_t begin = at;
    if (size > 0) std::memcpy(bytes + begin, from, size);
    at += size;
    return begin;
  };
  Napi::Object object = Napi::Object::New(env);
  const auto set_ints = [&](const char* key, const std::vector<int32_t>& values) {
    const size_t begin = place(values.data(), values.size() * sizeof(int32_t));
    object.Set(key, Napi::Int32Array::New(env, values.size(), buffer, begin));
  };
  const auto set_floats = [&](const char* key, const std::vector<float>& values) {
    const size_t begin = place(values.data(), values.size() * sizeof(float));
    object.Set(key, Napi::Float32Array::New(env, values.size(), buffer, begin));
  };
  set_ints("tokenIds", output->token_ids);
  set_floats("logprobs", output->logprobs);
  set_ints("ranks", output->ranks);
  set_ints("topIds", output->top_ids);
  set_floats("topLogprobs", output->top_logprobs);
  const size_t status = place(output->row_status.data(), rows);
  const auto& row_status = output->row_status;
  if (std::any_of(row_status.begin(), row_status.end(),
                  [](RowStatus row) { return row != RowStatus::kOk; })) {
    object.Set("rowStatus", Napi::Uint8Array::New(env, rows, buffer, status));
  }
  object.Set("nativeMs", output->native_ms);
  object.Set("gapMs", output->gap_ms);
  object.Set("maskWaitMs", output->mask_wait_ms);
  if (output->logits != nullptr) {
    const size_t count = rows * static_cast<size_t>(vocab);
    float* data = output->logits.release();
    Napi::ArrayBuffer logits = Napi::ArrayBuffer::New(
        env, data, count * sizeof(float),
        [](Napi::Env, void* memory) { delete[] static_cast<float*>(memory); });
    object.Set("logits", Napi::Float32Array::New(env, count, logits, 0));
  }
  return object;
}

}  // namespace loramux::addon
