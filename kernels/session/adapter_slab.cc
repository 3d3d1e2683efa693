#include "session/adapter_slab.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <optional>

#include "session/error.h"

namespace loramux {
namespace {

// Every matrix begins on a cache line.
constexpr int64_t kAlignment = 64;

std::string PairName(const AdapterPair& pair) {
  return "layer " + std::to_string(pair.layer) + " module " + std::to_string(pair.module);
}

[[noreturn]] void FailLoad(const std::string& message) {
  throw NativeError(ErrorCode::kAdapterLoad, message);
}

int64_t Padded(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Closes on scope exit.
class File {
 public:
  // Not blocking: opening a pipe would otherwise wait for its writer, and close() for this thread.
  explicit File(const std::string& path)
      : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
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

// The stored bytes of an image: borrowed memory, or an open file that is read piece by piece.
class ImageSource {
 public:
  explicit ImageSource(const AdapterImage& image) : bytes_(image.bytes) {
    if (bytes_ != nullptr) return;
    file_.emplace(image.path);
    file_->RequireSize(image.path, image.file_bytes);
  }

  // Valid until the next call.
  const void* At(int64_t offset, size_t bytes) {
    if (bytes_ != nullptr) return bytes_ + offset;
    if (stage_.size() < bytes) stage_.resize(bytes);
    file_->ReadFully(stage_.data(), bytes, offset);
    return stage_.data();
  }

 private:
  const uint8_t* bytes_;
  std::optional<File> file_;
  std::vector<char> stage_;  // as large as the largest tensor of the adapter
};

// Reads stored tensors into their places in a slab.
class TensorReader {
 public:
  TensorReader(const AdapterImage& image, LoraDtype dtype, Isa isa, const std::atomic<bool>& stop)
      : source_(image), dtype_(dtype), isa_(isa), stop_(stop) {}

  void ReadA(const AdapterPair& pair, int64_t in, void* to) {
    const void* from = Stage(pair, pair.offset_a, pair.rank * in);
    RequireFinite(PackLoraA(from, pair.dtype, pair.rank, in, dtype_, to, isa_), pair, "A");
  }

  void ReadB(const AdapterPair& pair, int64_t out, float scale, void* to) {
    const void* from = Stage(pair, pair.offset_b, pair.rank * out);
    RequireFinite(PackLoraB(from, pair.dtype, pair.rank, out, scale, dtype_, to, isa_), pair, "B");
  }

 private:
  const void* Stage(const AdapterPair& pair, int64_t offset, int64_t elements) {
    if (stop_.load(std::memory_order_relaxed)) {
      throw NativeError(ErrorCode::kSessionClosed, "the session closed while an adapter loaded");
    }
    return source_.At(offset, static_cast<size_t>(elements) * WeightDtypeBytes(pair.dtype));
  }

  void RequireFinite(bool finite, const AdapterPair& pair, const char* tensor) const {
    if (finite) return;
    FailLoad(PairName(pair) + " " + tensor + " has NaN or infinite values in " +
             LoraDtypeName(dtype_));
  }

  ImageSource source_;
  LoraDtype dtype_;
  Isa isa_;
  const std::atomic<bool>& stop_;
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
  const int64_t element = static_cast<int64_t>(WeightDtypeBytes(pair.dtype));
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
                                         LoraDtype dtype, Isa isa, const std::atomic<bool>& stop) {
  TensorReader reader(image, dtype, isa, stop);
  int64_t bytes = 0;
  for (const AdapterPair& pair : image.pairs) {
    bytes += Padded(LoraBytesA(dtype, pair.rank, model.InFeatures(pair.module)));
    bytes += Padded(LoraBytesB(dtype, pair.rank, model.OutFeatures(pair.module)));
  }
  auto slab = std::make_unique<AdapterSlab>(
      model.num_layers, MappedBuffer(static_cast<size_t>(bytes), "an adapter"));
  auto* at = static_cast<char*>(slab->data());
  for (const AdapterPair& pair : image.pairs) {
    const int64_t in = model.InFeatures(pair.module);
    const int64_t out = model.OutFeatures(pair.module);
    AdapterModule& module = slab->Module(pair.layer, pair.module);
    module.dtype = dtype;
    // Multiplied into B as float32, where that rounds no more than the product itself; beside it
    // else, so that B of a bfloat16 file stays what it is in bfloat16.
    const bool folded = dtype == LoraDtype::kF32;
    module.scale = folded ? 1.0f : pair.scale;
    reader.ReadA(pair, in, at);
    module.a = at;
    at += Padded(LoraBytesA(dtype, pair.rank, in));
    reader.ReadB(pair, out, folded ? pair.scale : 1.0f, at);
    module.b = at;
    at += Padded(LoraBytesB(dtype, pair.rank, out));
    module.rank = pair.rank;
  }
  return slab;
}

}  // namespace loramux
