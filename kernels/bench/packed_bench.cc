// Times packed linear layers: every instruction set in turn in one run, beside what reading the
// same weights takes. Each set's result is compared with the reference first; a wrong one is not
// timed.
//   loramux_packed_bench [--isa NAME] [--threads N] [--format bf16|int8|int4] [--group N]
//                        [--rows N] [--n N] [--k N] [--seconds S] [--ort LIBRARY]
// --ort names a libonnxruntime.so.1: its MatMulNBits (4 bits, accuracy level 4) takes turns with
// the same int4 weights, on instructions of its own choice. Without --rows: 1, 4, 16, 64 and 512.
// One thread is timed by its processor time, so that neighbours only cost it their share of the
// caches; more are timed by the clock.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "bench/ort_matmul.h"
#include "loramux/cpu_features.h"
#include "session/step_pool.h"
#include "test/packed_case.h"

namespace loramux::bench {
namespace {

// More than the last-level cache of a large server, so that few rows read from memory.
constexpr int64_t kWeightBytes = 256 << 20;
constexpr double kTolerance = 0x1p-17;
constexpr double kOrtTolerance = 0x1p-6;  // it rounds activations in other groups
// With ONNX Runtime's layers, which keep a pool of threads each.
constexpr int64_t kOrtCopies = 4;
// Its threads spin for a while after a run; the next contender waits until they sleep.
constexpr long kOrtPauseNs = 5'000'000;

struct Options {
  std::string isa;
  int32_t threads = 1;
  std::map<std::string, int64_t> numbers = {{"--group", 128}, {"--rows", 0}, {"--n", 2048},
                                            {"--k", 2048}};
  std::string format;
  std::string ort;
  double seconds = 0.5;  // per case and contender
};

double Now(bool cpu) {
  timespec t;
  clock_gettime(cpu ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

double Median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<int64_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

// Adds up all bytes, four streams side by side, in loops that the compiler makes vectors of.
uint64_t ReadAll(const uint8_t* bytes, int64_t count) {
  constexpr int kStreams = 4;
  constexpr int kWords = 8;  // a cache line
  constexpr int64_t kAhead = 2048;
  uint64_t sums[kStreams][kWords] = {};
  const int64_t stream = count / kStreams / 64 * 64;
  for (int64_t i = 0; i < stream; i += 64) {
    for (int s = 0; s < kStreams; ++s) {
      const uint8_t* at = bytes + s * stream + i;
      __builtin_prefetch(at + kAhead);
      for (int j = 0; j < kWords; ++j) {
        uint64_t word;
        std::memcpy(&word, at + j * 8, 8);
        sums[s][j] += word;
      }
    }
  }
  uint64_t sum = 0;
  for (const auto& lane : sums) {
    for (uint64_t s : lane) sum += s;
  }
  return sum;
}

struct Contender {
  std::string name;
  Isa isa = Isa::kScalar;
  bool reads = false;  // reads the weights, no more
  bool ort = false;
  std::vector<double> seconds;
};

void BenchShape(const Options& options, const PackedShape& shape, int64_t rows) {
  test::Random random(1);
  const PackedLayout layout = LayoutOf(shape);
  test::PackedCase one = test::MakePackedCase(shape, rows, kActivationGroup, &random);
  one.bias.clear();
  one.residual.clear();
  std::vector<test::AlignedBytes> copies;
  const bool with_ort = !options.ort.empty() && shape.format == PackedFormat::kInt4;
  const int64_t count =
      with_ort ? kOrtCopies : std::max<int64_t>(1, kWeightBytes / layout.bytes);
  for (int64_t i = 0; i < count; ++i) copies.push_back(one.blob);

  StepPool pool(options.threads);
  const Parallel parallel = options.threads > 1 ? pool.parallel() : Parallel{};
  std::vector<float> y(static_cast<size_t>(rows * shape.n));
  PackedLinearArgs args;
  args.x = one.x.data();
  args.x_stride = shape.k;
  args.rows = rows;
  args.k = shape.k;
  args.parts[0].weight = one.Weight();
  args.activation_group = one.activation_group;
  args.y = y.data();

  std::vector<Contender> contenders = {{"read", Isa::kScalar, true, false, {}}};
  const int64_t checked = std::min<int64_t>(rows, 3);
  const std::vector<float> want = one.Rows(rows - checked, checked).RunReference();
  const std::vector<double> sizes = one.Rows(rows - checked, checked).Magnitudes();
  const auto worst_error = [&] {
    double worst = 0.0;
    for (size_t i = 0; i < want.size(); ++i) {
      const float got = y[static_cast<size_t>((rows - checked) * shape.n) + i];
      const double error = std::fabs(static_cast<double>(got) - static_cast<double>(want[i]));
      if (!(error / sizes[i] <= worst)) worst = error / sizes[i];
    }
    return worst;
  };
  const auto admit = [&](const Contender& c, double tolerance) {
    const double worst = worst_error();
    if (worst <= tolerance) return contenders.push_back(c);
    std::printf("%-12s WRONG: error %g\n", c.name.c_str(), worst);
  };
  for (Isa isa : SupportedIsas()) {
    if (options.isa.empty() ? isa == Isa::kScalar : options.isa != IsaName(isa)) continue;
    test::AlignedBytes workspace(PackedLinearWorkspace(args, options.threads, isa));
    args.workspace = workspace.data();
    PackedLinear(args, parallel, isa);
    admit({IsaName(isa), isa, false, false, {}}, kTolerance);
  }
  std::unique_ptr<OrtMatMul> ort;
  if (with_ort) {
    ort = std::make_unique<OrtMatMul>(options.ort, one.Weight(), rows, options.threads, count);
    ort->Run(args.x, args.y, 0);
    admit({"onnxruntime", Isa::kScalar, false, true, {}}, kOrtTolerance);
  }

  uint64_t sink = 0;
  size_t next = 0;
  const double end = Now(false) + options.seconds * static_cast<double>(contenders.size());
  for (int round = 0; round < 5 || Now(false) < end; ++round) {
    for (Contender& c : contenders) {
      const int64_t copy = static_cast<int64_t>(next++ % copies.size());
      const test::AlignedBytes& blob = copies[static_cast<size_t>(copy)];
      test::AlignedBytes workspace(PackedLinearWorkspace(args, options.threads, c.isa));
      args.workspace = workspace.data();
      args.parts[0].weight.blob = blob.data();
      const timespec pause = {0, kOrtPauseNs};
      if (with_ort) nanosleep(&pause, nullptr);
      if (!c.ort) pool.Begin();
      const double begin = Now(options.threads == 1);
      if (c.ort) {
        ort->Run(args.x, args.y, copy);
      } else if (c.reads) {
        constexpr int64_t kPieces = 16;
        uint64_t sums[kPieces] = {};
        parallel.For(kPieces, [&](size_t i) {
          const int64_t piece = blob.bytes() / kPieces;
          sums[i] = ReadAll(blob.data() + static_cast<int64_t>(i) * piece, piece);
        });
        for (uint64_t s : sums) sink += s;
      } else {
        PackedLinear(args, parallel, c.isa);
      }
      c.seconds.push_back(Now(options.threads == 1) - begin);
      if (!c.ort) pool.End();
    }
  }
  const double read = Median(contenders[0].seconds);
  for (const Contender& c : contenders) {
    const double t = Median(c.seconds);
    std::printf("%-34s rows %-4lld %-12s %10.1f us %7.2f GB/s %5.2f of reading %8.1f GOPS\n",
                test::Describe(shape).c_str(), static_cast<long long>(rows), c.name.c_str(),
                t * 1e6, static_cast<double>(layout.bytes) / t * 1e-9, read / t,
                c.reads ? 0.0
                        : 2e-9 * static_cast<double>(rows * shape.n) *
                              static_cast<double>(shape.k) / t);
  }
  if (sink == 42) std::printf("\n");  // keeps the reading
}

}  // namespace
}  // namespace loramux::bench

int main(int argc, char** argv) {
  using loramux::PackedFormat;
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
  loramux::bench::Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (value != nullptr && flag == "--isa") {
      options.isa = value;
    } else if (value != nullptr && flag == "--format") {
      options.format = value;
    } else if (value != nullptr && flag == "--ort") {
      options.ort = value;
    } else if (value != nullptr && flag == "--seconds") {
      options.seconds = std::atof(value);
    } else if (value != nullptr && flag == "--threads") {
      options.threads = std::max(1, std::atoi(value));
    } else if (value != nullptr && options.numbers.count(flag) > 0) {
      options.numbers[flag] = std::atoll(value);
    } else {
      std::fprintf(stderr,
                   "usage: %s [--isa NAME] [--threads N] [--format NAME] [--group N] [--rows N] "
                   "[--n N] [--k N] [--seconds S] [--ort LIBRARY]\n",
                   argv[0]);
      return 2;
    }
  }
  for (PackedFormat format : {PackedFormat::kBf16, PackedFormat::kInt8, PackedFormat::kInt4}) {
    if (!options.format.empty() && options.format != loramux::PackedFormatName(format)) continue;
    loramux::PackedShape shape = {format, options.numbers["--n"], options.numbers["--k"],
                                  static_cast<int32_t>(options.numbers["--group"]), false};
    if (format == PackedFormat::kBf16) shape.group = 0;
    if (!loramux::IsValid(shape)) {
      std::fprintf(stderr, "There is no such shape.\n");
      return 2;
    }
    std::vector<int64_t> rows = {1, 4, 16, 64, 512};
    if (options.numbers["--rows"] > 0) rows = {options.numbers["--rows"]};
    for (int64_t r : rows) loramux::bench::BenchShape(options, shape, r);
  }
  return 0;
}
