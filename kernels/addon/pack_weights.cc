#include "addon/pack_weights.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "addon/errors.h"
#include "addon/js_values.h"
#include "session/weight_packer.h"

namespace loramux::addon {
namespace {

PackedFormat ToFormat(const std::string& name) {
  for (const PackedFormat format :
       {PackedFormat::kBf16, PackedFormat::kInt8, PackedFormat::kInt4}) {
    if (name == PackedFormatName(format)) return format;
  }
  FailType("format", "'bf16', 'int8' or 'int4'");
}

WeightDtype ToDtype(const std::string& name) {
  if (name == "F32") return WeightDtype::kF32;
  if (name == "F16") return WeightDtype::kF16;
  if (name == "BF16") return WeightDtype::kBf16;
  FailType("dtype", "'F32', 'F16' or 'BF16'");
}

PackedShape ToShape(const Napi::Object& object) {
  PackedShape shape;
  shape.format = ToFormat(GetString(object, "format"));
  shape.n = GetInteger(object, "n", 1, kMaxFeatures);
  shape.k = GetInteger(object, "k", 1, kMaxFeatures);
  shape.group = GetInt32(object, "group");
  const Napi::Value zero_points = object.Get("zeroPoints");
  if (!zero_points.IsBoolean()) FailType("zeroPoints", "true or false");
  shape.zero_points = zero_points.As<Napi::Boolean>().Value();
  const Napi::Value rotated = object.Get("rotated");
  if (!rotated.IsUndefined() && !rotated.IsBoolean()) FailType("rotated", "true or false");
  shape.rotated = rotated.IsBoolean() && rotated.As<Napi::Boolean>().Value();
  if (!IsValid(shape)) {
    throw NativeError(ErrorCode::kInvalidArgument, "there are no packed weights of this shape");
  }
  return shape;
}

// Keeps the arrays alive and settles the promise on the JavaScript thread.
class PackWork : public Napi::AsyncWorker {
 public:
  using Body = std::function<PackResult()>;

  PackWork(Napi::Env env, const std::vector<Napi::Value>& arrays)
      : Napi::AsyncWorker(env, "loramux.pack"),
        deferred_(Napi::Promise::Deferred::New(env)),
        site_(env) {
    Napi::Array kept = Napi::Array::New(env, arrays.size());
    for (uint32_t i = 0; i < arrays.size(); ++i) kept.Set(i, arrays[i]);
    arrays_ = Napi::Persistent(kept.As<Napi::Object>());
  }
  Napi::Promise promise() const { return deferred_.Promise(); }
  void set_body(Body body) { body_ = std::move(body); }

 protected:
  void Execute() override {
    try {
      result_ = body_();
    } catch (...) {
      error_ = std::current_exception();
    }
  }
  void OnOK() override {
    const Napi::Env env = Env();
    if (error_ != nullptr) {
      deferred_.Reject(site_.ToError(env, error_));
      return;
    }
    Napi::Object object = Napi::Object::New(env);
    object.Set("finite", result_.finite);
    object.Set("clamped", static_cast<double>(result_.clamped));
    object.Set("oddZeros", static_cast<double>(result_.odd_zeros));
    deferred_.Resolve(object);
  }

 private:
  Napi::Promise::Deferred deferred_;
  CallSite site_;
  Napi::ObjectReference arrays_;
  Body body_;
  PackResult result_;
  std::exception_ptr error_;
};

// Runs `prepare`, which reads the arguments into the work's body, and starts it.
template <typename Prepare>
Napi::Value Start(const Napi::CallbackInfo& info, const std::vector<const char*>& array_keys,
                  Prepare prepare) {
  const Napi::Env env = info.Env();
  try {
    const Napi::Object job = RequireObject(info[0], "job");
    // All properties are read before any memory is looked at: a getter may detach an array.
    std::vector<Napi::Value> arrays;
    for (const char* key : array_keys) arrays.push_back(job.Get(key));
    PackWork::Body body = prepare(job, arrays);
    // Owned by the event loop from Queue on; it deletes itself when it has settled.
    auto* work = new PackWork(env, arrays);
    work->set_body(std::move(body));
    const Napi::Promise promise = work->promise();
    work->Queue();
    return promise;
  } catch (const Napi::Error& error) {
    const auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(error.Value());
    return deferred.Promise();
  } catch (...) {
    const auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(ToError(env, std::current_exception()));
    return deferred.Promise();
  }
}

void CheckBytes(const ArrayView<uint8_t>& array, size_t expected, const char* field) {
  if (array.length == expected) return;
  throw NativeError(ErrorCode::kInvalidArgument,
                    std::string(field) + " has " + std::to_string(array.length) +
                        " bytes, expected " + std::to_string(expected));
}

uint8_t* ToBlob(const Napi::Value& value, const PackedShape& shape) {
  const ArrayView<uint8_t> blob = ToArray<uint8_t>(value, "blob");
  CheckBytes(blob, static_cast<size_t>(LayoutOf(shape).bytes), "blob");
  return const_cast<uint8_t*>(blob.data);
}

}  // namespace

Napi::Value PackWeights(const Napi::CallbackInfo& info) {
  return Start(info, {"weights", "blob"},
               [](const Napi::Object& job, const std::vector<Napi::Value>& arrays) {
                 const PackedShape shape = ToShape(GetObject(job, "shape"));
                 const WeightDtype dtype = ToDtype(GetString(job, "dtype"));
                 const int64_t first_row = GetInteger(job, "firstRow", 0, kMaxFeatures);
                 const int64_t rows = GetInteger(job, "rows", 1, kMaxFeatures);
                 const int32_t threads = GetInt32(job, "threads");
                 const auto weights = ToArray<uint8_t>(arrays[0], "weights");
                 CheckBytes(weights,
                            static_cast<size_t>(rows * shape.k) * WeightDtypeBytes(dtype),
                            "weights");
                 PackSource source;
                 source.weights = weights.data;
                 source.dtype = static_cast<int32_t>(dtype);
                 uint8_t* blob = ToBlob(arrays[1], shape);
                 return [=] { return PackRows(source, shape, first_row, rows, threads, blob); };
               });
}

Napi::Value PackLevels(const Napi::CallbackInfo& info) {
  return Start(
      info, {"qweight", "qzeros", "scales", "blob"},
      [](const Napi::Object& job, const std::vector<Napi::Value>& arrays) {
        const PackedShape shape = ToShape(GetObject(job, "shape"));
        CheckpointLevels source;
        const std::string order = GetString(job, "order");
        if (order != "gptq" && order != "awq") FailType("order", "'gptq' or 'awq'");
        source.order = order == "awq" ? LevelOrder::kAwq : LevelOrder::kGptq;
        source.bits = GetInt32(job, "bits");
        source.n = shape.n;
        source.k = shape.k;
        source.group = GetInteger(job, "group", 1, kMaxFeatures);
        source.zero_offset = static_cast<int32_t>(GetInteger(job, "zeroOffset", 0, 1));
        source.scale_dtype = ToDtype(GetString(job, "scaleDtype"));
        const int32_t threads = GetInt32(job, "threads");
        if (!IsValid(source)) {
          throw NativeError(ErrorCode::kInvalidArgument,
                            "no checkpoint has levels of these bits and sizes");
        }
        const auto qweight = ToArray<uint8_t>(arrays[0], "qweight");
        const auto qzeros = ToArray<uint8_t>(arrays[1], "qzeros");
        const auto scales = ToArray<uint8_t>(arrays[2], "scales");
        CheckBytes(qweight, QweightBytes(source), "qweight");
        CheckBytes(qzeros, QzerosBytes(source), "qzeros");
        CheckBytes(scales, ScalesBytes(source), "scales");
        source.qweight = qweight.data;
        source.qzeros = qzeros.data;
        source.scales = scales.data;
        uint8_t* blob = ToBlob(arrays[3], shape);
        return [=] { return PackCheckpointLevels(source, shape, threads, blob); };
      });
}

}  // namespace loramux::addon
