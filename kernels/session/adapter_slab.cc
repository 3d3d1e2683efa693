#include "session/adapter_slab.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "session/error.h"

namespace loramux {
namespace {

// Bytes read at a time; also how often a close is noticed.
constexpr size_t kChunkBytes = size_t{1} << 20;
// Every matrix begins on a cache line.
constexpr int64_t kAlignFloats = 16;

int64_t ElementBytes(TensorDtype dtype) { return dtype == TensorDtype::kF32 ? 4 : 2; }

std::string PairName(const AdapterPair& pair) {
  return "layer " + std::to_string(pair.layer) + " module " + std::to_string(pair.module);
}

[[noreturn]] void FailLoad(const std::string& message) {
  throw NativeError(ErrorCode::kAdapterLoad, message);
}

int64_t Padded(int64_t floats) { return (floats + kAlignFloats - 1) / kAlignFloats * kAlignFloats; }

// Closes on scope exit.
class File {
 public:
  explicit File(const std::string& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) FailLoad("cannot open '" + path + "': " + std::strerror(errno));
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { close(fd_); }

  void RequireSize(const std::string& path, int64_t bytes) const {
    struct stat info {};
    if (fstat(fd_, &info) != 0) FailLoad("cannot stat '" + path + "': " + std::strerror(errno));
    if (!S_ISREG(info.st_mode)) FailLoad("'" + path + "' is not a regular file");
    if (info.st_size != bytes) {
      FailLoad("'" + path + "' has " + std::to_string(info.st_size) + " bytes, expected " +
               std::to_string(bytes));
    }
  }

  void ReadFully(void* to, size_t bytes, int64_t offset) const {
    auto* at = static_cast<char*>(to);
    while (bytes > 0) {
      const ssize_t got = pread(fd_, at, bytes, offset);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) FailLoad(std::string("reading the adapter file failed: ") + strerror(errno));
      if (got == 0) FailLoad("the adapter file ends early; it was cut while being read");
      at += got;
      offset += got;
      bytes -= static_cast<size_t>(got);
    }
  }

 private:
  int fd_;
};

// IEEE half to single: exponent re-biased by a multiplication, which also gets subnormals right.
inline float HalfToFloat(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  float value = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if (magnitude >= 0x7c00u) bits |= 0x7f800000u;
  return std::bit_cast<float>(bits | sign);
}

void Convert(TensorDtype dtype, const void* from, float* to, size_t count) {
  const auto* bytes = static_cast<const unsigned char*>(from);
  for (size_t i = 0; i < count; ++i) {
    uint16_t raw;
    std::memcpy(&raw, bytes + 2 * i, 2);
    to[i] = dtype == TensorDtype::kF16 ? HalfToFloat(raw)
                                       : std::bit_cast<float>(static_cast<uint32_t>(raw) << 16);
  }
}

// Multiplies by `scale`; false when any result is NaN or infinite.
bool ScaleFinite(float* values, size_t count, float scale) {
  uint32_t bad = 0;
  for (size_t i = 0; i < count; ++i) {
    values[i] *= scale;
    bad |= static_cast<uint32_t>((std::bit_cast<uint32_t>(values[i]) & 0x7f800000u) == 0x7f800000u);
  }
  return bad == 0;
}

struct Reader {
  const File& file;
  const std::atomic<bool>& stop;
  std::vector<char> buffer;

  // Reads `count` elements at `offset` as float32, times `scale`.
  void Read(const AdapterPair& pair, const char* tensor, int64_t offset, float* to, int64_t count,
            float scale) {
    const size_t element = static_cast<size_t>(ElementBytes(pair.dtype));
    while (count > 0) {
      if (stop.load(std::memory_order_relaxed)) {
        throw NativeError(ErrorCode::kSessionClosed, "the session closed while an adapter loaded");
      }
      const size_t now = std::min(static_cast<size_t>(count), kChunkBytes / element);
      if (pair.dtype == TensorDtype::kF32) {
        file.ReadFully(to, now * element, offset);
      } else {
        buffer.resize(kChunkBytes);
        file.ReadFully(buffer.data(), now * element, offset);
        Convert(pair.dtype, buffer.data(), to, now);
      }
      if (!ScaleFinite(to, now, scale)) {
        FailLoad(PairName(pair) + " " + tensor + " has NaN or infinite values");
      }
      to += now;
      offset += static_cast<int64_t>(now * element);
      count -= static_cast<int64_t>(now);
    }
  }
};

void ValidatePair(const AdapterPair& pair, int64_t file_bytes, const ModelConfig& model) {
  const auto fail = [&](const std::string& what) {
    throw NativeError(ErrorCode::kInvalidArgument, "adapter image: " + what);
  };
  if (pair.layer < 0 || pair.layer >= model.num_layers) {
    fail("layer " + std::to_string(pair.layer) + " does not exist");
  }
  if (pair.module < 0 || pair.module >= kNumModules) {
    fail("module " + std::to_string(pair.module) + " does not exist");
  }
  if (pair.rank < 1 || pair.rank > kMaxRank) {
    fail(PairName(pair) + " has rank " + std::to_string(pair.rank) + ", allowed are 1 to " +
         std::to_string(kMaxRank));
  }
  if (!std::isfinite(pair.scale)) fail(PairName(pair) + " has a scale that is not finite");
  const int64_t element = ElementBytes(pair.dtype);
  const int64_t bytes_a = element * pair.rank * model.InFeatures(pair.module);
  const int64_t bytes_b = element * pair.rank * model.OutFeatures(pair.module);
  const bool a_inside = pair.offset_a >= 0 && pair.offset_a <= file_bytes - bytes_a;
  const bool b_inside = pair.offset_b >= 0 && pair.offset_b <= file_bytes - bytes_b;
  if (!a_inside || !b_inside) {
    FailLoad(PairName(pair) + (a_inside ? " B" : " A") + " lies outside the file of " +
             std::to_string(file_bytes) + " bytes");
  }
}

}  // namespace

void ValidateImage(const AdapterImage& image, const ModelConfig& model) {
  if (image.path.empty() || image.path[0] != '/') {
    throw NativeError(ErrorCode::kInvalidArgument, "adapter image: path must be absolute");
  }
  std::vector<bool> seen(static_cast<size_t>(model.num_layers) * kNumModules);
  for (const AdapterPair& pair : image.pairs) {
    ValidatePair(pair, image.file_bytes, model);
    const size_t index = static_cast<size_t>(pair.layer) * kNumModules + pair.module;
    if (seen[index]) {
      throw NativeError(ErrorCode::kInvalidArgument,
                        "adapter image: " + PairName(pair) + " appears twice");
    }
    seen[index] = true;
  }
}

std::unique_ptr<AdapterSlab> ReadAdapter(const AdapterImage& image, const ModelConfig& model,
                                         const std::atomic<bool>& stop) {
  const File file(image.path);
  file.RequireSize(image.path, image.file_bytes);
  int64_t floats = 0;
  for (const AdapterPair& pair : image.pairs) {
    floats += Padded(int64_t{pair.rank} * model.InFeatures(pair.module));
    floats += Padded(int64_t{pair.rank} * model.OutFeatures(pair.module));
  }
  auto slab = std::make_unique<AdapterSlab>(
      model.num_layers, MappedBuffer(static_cast<size_t>(floats) * sizeof(float), "an adapter"));
  Reader reader{file, stop, {}};
  float* at = slab->floats();
  int32_t max_rank = 0;
  for (const AdapterPair& pair : image.pairs) {
    const int64_t size_a = int64_t{pair.rank} * model.InFeatures(pair.module);
    const int64_t size_b = int64_t{pair.rank} * model.OutFeatures(pair.module);
    AdapterModule& module = slab->Module(pair.layer, pair.module);
    reader.Read(pair, "A", pair.offset_a, at, size_a, 1.0f);
    module.a = at;
    at += Padded(size_a);
    reader.Read(pair, "B", pair.offset_b, at, size_b, pair.scale);
    module.b = at;
    at += Padded(size_b);
    module.rank = pair.rank;
    max_rank = std::max(max_rank, pair.rank);
  }
  slab->set_max_rank(max_rank);
  return slab;
}

}  // namespace loramux
