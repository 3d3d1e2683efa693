#include "bench/ort_matmul.h"

#include <cstring>

#include "cpu/packed/half.h"
#include "ort/ort_handle.h"
#include "ort/ort_library.h"

namespace loramux::bench {
namespace {

// As much of Protocol Buffers as a ModelProto with one node needs. Field numbers: onnx.proto.
class Message {
 public:
  Message& Int(int field, uint64_t value) {
    Varint(static_cast<uint64_t>(field) << 3);
    Varint(value);
    return *this;
  }
  Message& Bytes(int field, const std::string& bytes) {
    Varint((static_cast<uint64_t>(field) << 3) | 2);
    Varint(bytes.size());
    text_ += bytes;
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  void Varint(uint64_t value) {
    for (; value >= 128; value >>= 7) text_ += static_cast<char>((value & 127) | 128);
    text_ += static_cast<char>(value);
  }
  std::string text_;
};

constexpr uint64_t kFloat = 1;
constexpr uint64_t kUint8 = 2;

std::string Tensor(const char* name, uint64_t type, const std::vector<int64_t>& dims,
                   const std::string& raw) {
  Message m;
  for (int64_t d : dims) m.Int(1, static_cast<uint64_t>(d));
  return m.Int(2, type).Bytes(8, name).Bytes(9, raw).text();
}
std::string Value(const char* name, int64_t rows, int64_t columns) {
  Message shape;
  for (int64_t d : {rows, columns}) {
    shape.Bytes(1, Message().Int(1, static_cast<uint64_t>(d)).text());
  }
  const std::string tensor = Message().Int(1, kFloat).Bytes(2, shape.text()).text();
  return Message().Bytes(1, name).Bytes(2, Message().Bytes(1, tensor).text()).text();
}
std::string IntAttribute(const char* name, int64_t value) {
  return Message().Bytes(1, name).Int(3, static_cast<uint64_t>(value)).Int(20, 2).text();
}

// Levels two to a byte, [n][groups][group / 2], and scales [n][groups].
struct NBits {
  std::string levels, scales;
  int64_t groups = 0;
};
NBits ToNBits(const PackedWeight& weight) {
  const PackedShape& shape = weight.shape;
  const PackedLayout layout = LayoutOf(shape);
  NBits out;
  out.groups = (shape.k + shape.group - 1) / shape.group;
  out.levels.assign(static_cast<size_t>(shape.n * out.groups * shape.group / 2), '\x88');
  for (int64_t c = 0; c < shape.n; ++c) {
    const uint8_t* panel = weight.blob + c / kPanelColumns * layout.panel_bytes;
    const int64_t lane = c % kPanelColumns;
    for (int64_t d = 0; d < shape.k; ++d) {
      const uint8_t byte = panel[((d / 8) * kPanelColumns + lane) * 4 + d % 4];
      const int level = d % 8 < 4 ? byte & 15 : byte >> 4;
      char& at = out.levels[static_cast<size_t>((c * out.groups * shape.group + d) / 2)];
      at = static_cast<char>(d % 2 == 0 ? (at & 0xf0) | level : (at & 0x0f) | (level << 4));
    }
    float column_scale;
    std::memcpy(&column_scale, weight.blob + layout.column_scale + c * 4, 4);
    for (int64_t g = 0; g < out.groups; ++g) {
      const int64_t cell = (c / kPanelColumns * layout.groups + g) * kPanelColumns + lane;
      uint16_t half;
      std::memcpy(&half, weight.blob + layout.scales + cell * 2, 2);
      const float scale = FloatFromHalf(half) * column_scale;
      out.scales.append(reinterpret_cast<const char*>(&scale), 4);
    }
  }
  return out;
}

std::string Model(const PackedWeight& weight, int64_t rows) {
  const PackedShape& shape = weight.shape;
  const NBits bits = ToNBits(weight);
  Message node;
  node.Bytes(1, "x").Bytes(1, "levels").Bytes(1, "scales").Bytes(2, "y").Bytes(3, "product");
  node.Bytes(4, "MatMulNBits").Bytes(7, "com.microsoft");
  node.Bytes(5, IntAttribute("K", shape.k)).Bytes(5, IntAttribute("N", shape.n));
  node.Bytes(5, IntAttribute("bits", 4)).Bytes(5, IntAttribute("block_size", shape.group));
  node.Bytes(5, IntAttribute("accuracy_level", 4));
  Message graph;
  graph.Bytes(1, node.text()).Bytes(2, "matmul");
  graph.Bytes(5, Tensor("levels", kUint8, {shape.n, bits.groups, shape.group / 2}, bits.levels));
  graph.Bytes(5, Tensor("scales", kFloat, {shape.n * bits.groups}, bits.scales));
  graph.Bytes(11, Value("x", rows, shape.k)).Bytes(12, Value("y", rows, shape.n));
  Message model;
  model.Int(1, 10).Bytes(7, graph.text());
  model.Bytes(8, Message().Bytes(1, "").Int(2, 21).text());
  model.Bytes(8, Message().Bytes(1, "com.microsoft").Int(2, 1).text());
  return model.text();
}

}  // namespace

struct OrtMatMul::State {
  const ort::OrtApi* api = nullptr;
  ort::EnvHandle env;
  std::vector<ort::SessionHandle> sessions;
  ort::MemoryInfoHandle memory;
  int64_t rows = 0, k = 0, n = 0;

  void Check(ort::OrtStatus* status, const char* what) const {
    ort::Check(api, status, ErrorCode::kModelLoad, what);
  }
};

OrtMatMul::OrtMatMul(const std::string& library, const PackedWeight& weight, int64_t rows,
                     int32_t threads, int64_t copies)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.api = ort::OpenLibrary(library).api;
  s.rows = rows;
  s.k = weight.shape.k;
  s.n = weight.shape.n;
  s.env = ort::EnvHandle(s.api);
  s.memory = ort::MemoryInfoHandle(s.api);
  s.Check(ort::CreateEnv::Call(s.api, ort::kLogFatal, "bench", s.env.out()), "environment");
  s.Check(ort::CreateCpuMemoryInfo::Call(s.api, ort::kDeviceAllocator, ort::kMemTypeDefault,
                                         s.memory.out()),
          "memory");
  ort::SessionOptionsHandle options(s.api);
  s.Check(ort::CreateSessionOptions::Call(s.api, options.out()), "options");
  s.Check(ort::SetIntraOpNumThreads::Call(s.api, options.get(), threads), "threads");
  s.Check(ort::SetGraphOptimizationLevel::Call(s.api, options.get(), ort::kOptimizeAll), "level");
  const std::string model = Model(weight, rows);
  for (int64_t i = 0; i < copies; ++i) {
    s.sessions.emplace_back(s.api);
    s.Check(ort::CreateSessionFromArray::Call(s.api, s.env.get(), model.data(), model.size(),
                                              options.get(), s.sessions.back().out()),
            "session");
  }
}

OrtMatMul::~OrtMatMul() = default;

void OrtMatMul::Run(const float* x, float* y, int64_t copy) {
  State& s = *state_;
  const auto tensor = [&](const float* data, int64_t columns) {
    const int64_t dims[] = {s.rows, columns};
    ort::ValueHandle value(s.api);
    s.Check(ort::CreateTensorWithData::Call(s.api, s.memory.get(), const_cast<float*>(data),
                                            static_cast<size_t>(s.rows * columns) * sizeof(float),
                                            dims, 2, ort::kElementFloat, value.out()),
            "tensor");
    return value;
  };
  const ort::ValueHandle in = tensor(x, s.k);
  const ort::ValueHandle out = tensor(y, s.n);
  const char* in_name = "x";
  const char* out_name = "y";
  const ort::OrtValue* in_value = in.get();
  ort::OrtValue* out_value = out.get();
  const size_t session = static_cast<size_t>(copy) % s.sessions.size();
  s.Check(ort::Run::Call(s.api, s.sessions[session].get(), nullptr, &in_name, &in_value, 1,
                         &out_name, 1, &out_value),
          "run");
}

}  // namespace loramux::bench
