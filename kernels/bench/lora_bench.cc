// SegmentedLora as a decode or prefill step runs it: every layer's q, k, v and o of a 1.1B Llama,
// walking over adapters that no cache holds, beside reading the same memory in the same run.
//   loramux_lora_bench [--isa NAME] [--threads N] [--layers N] [--rounds N] [--filter TEXT]
// A round is one layer, so that it is over before a busy machine takes the core away; contenders
// (element types) run in turn. Medians of the rounds and of each round's fraction of the read
// bandwidth; then the fastest tenth of either; then the median of the rounds' times over those of
// bfloat16.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "loramux/cpu_features.h"
#include "loramux/segmented_lora.h"
#include "session/memory.h"
#include "session/step_pool.h"
#include "test/adapter_mix.h"

namespace loramux::bench {
namespace {

using test::Format;

constexpr int64_t kHidden = 2048;
// q, k, v share an input and run together; o follows.
constexpr int64_t kOut[] = {2048, 256, 256, 2048};
constexpr int64_t kGroups[][2] = {{0, 3}, {3, 4}};

constexpr int32_t kLayersPerRound = 1;

struct Options {
  Isa isa = DetectIsa();
  int32_t threads = 2;
  int32_t layers = 22;
  int32_t rounds = 66;
  std::string filter;
};

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Quantile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(part * static_cast<double>(values.size()))];
}
double Median(std::vector<double> values) { return Quantile(std::move(values), 0.5); }

// An adapter as a slot holds it: one mapping, matrix after matrix in the order of their use.
struct Adapter {
  int32_t rank = 0;
  LoraDtype dtype = LoraDtype::kF32;
  MappedBuffer memory;
  struct Module {
    const void* a;
    const void* b;
  };
  std::vector<Module> modules;  // [layers, 4]

  Adapter(int32_t rank_, LoraDtype dtype_, int32_t layers, test::Random* random)
      : rank(rank_), dtype(dtype_) {
    int64_t bytes = 0;
    for (int64_t out : kOut) {
      bytes += LoraBytesA(dtype, rank, kHidden) + LoraBytesB(dtype, rank, out) + 128;
    }
    memory = MappedBuffer(static_cast<size_t>(bytes * layers), "an adapter");
    // One layer's numbers serve all layers: what counts is where they lie.
    const auto a = random->Normals(static_cast<size_t>(rank * kHidden), 0.02f);
    const auto b = random->Normals(static_cast<size_t>(rank * kHidden), 0.2f);
    auto* at = static_cast<char*>(memory.data());
    const auto take = [&](int64_t size) {
      char* place = at;
      at += (size + 63) / 64 * 64;
      return place;
    };
    for (int32_t layer = 0; layer < layers; ++layer) {
      for (int64_t out : kOut) {
        char* to_a = take(LoraBytesA(dtype, rank, kHidden));
        char* to_b = take(LoraBytesB(dtype, rank, out));
        PackLoraA(a.data(), WeightDtype::kF32, rank, kHidden, dtype, to_a, DetectIsa());
        PackLoraB(b.data(), WeightDtype::kF32, rank, out, 1.0f, dtype, to_b, DetectIsa());
        modules.push_back({to_a, to_b});
      }
    }
  }
};

using Adapters = std::vector<std::unique_ptr<Adapter>>;

struct Scenario {
  std::string name;
  int32_t rows;      // of each segment
  Adapters adapters;  // one segment each; an even number of sets of them alternate
  size_t segments;
};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options), pool_(options.threads) {}

  // Reads the bytes that a round of the scenario reads, as fast as the threads can.
  double Read(const Scenario& scenario, size_t set, int32_t layer) {
    const double begin = Seconds();
    std::vector<std::pair<const char*, size_t>> pieces;
    constexpr size_t kPiece = 256 * 1024;
    for (size_t s = 0; s < scenario.segments; ++s) {
      const MappedBuffer& memory = scenario.adapters[set * scenario.segments + s]->memory;
      const size_t of_layer = memory.bytes() / static_cast<size_t>(options_.layers) / 64 * 64;
      const size_t first = of_layer * static_cast<size_t>(layer);
      const size_t last = first + of_layer * kLayersPerRound;
      for (size_t at = first; at < last; at += kPiece) {
        pieces.push_back(
            {static_cast<const char*>(memory.data()) + at, std::min(kPiece, last - at)});
      }
    }
    PoolAwake awake(&pool_);
    pool_.parallel().For(pieces.size(), [&](size_t i) {
      typedef uint64_t V __attribute__((vector_size(64), aligned(64)));
      V sum[4] = {};
      for (size_t at = 0; at + 256 <= pieces[i].second; at += 256) {
        const V* v = reinterpret_cast<const V*>(pieces[i].first + at);
        __builtin_prefetch(pieces[i].first + at + 4096);
        __builtin_prefetch(pieces[i].first + at + 4096 + 64);
        __builtin_prefetch(pieces[i].first + at + 4096 + 128);
        __builtin_prefetch(pieces[i].first + at + 4096 + 192);
        for (int k = 0; k < 4; ++k) sum[k] ^= v[k];
      }
      sink_.fetch_xor(sum[0][0] ^ sum[1][1] ^ sum[2][2] ^ sum[3][3], std::memory_order_relaxed);
    });
    return Seconds() - begin;
  }

  // A round of a step: all modules of its layers.
  double Run(const Scenario& scenario, size_t set, int32_t first_layer, Isa isa) {
    const auto rows = static_cast<int32_t>(scenario.segments) * scenario.rows;
    const double begin = Seconds();
    PoolAwake awake(&pool_);
    for (int32_t layer = first_layer; layer < first_layer + kLayersPerRound; ++layer) {
      for (const auto& group : kGroups) {
        SegmentedLoraPlan plans[3];
        for (int64_t m = group[0]; m < group[1]; ++m) {
          std::vector<LoraSegment>& segments = segments_[m - group[0]];
          segments.clear();
          for (size_t s = 0; s < scenario.segments; ++s) {
            const Adapter& adapter = *scenario.adapters[set * scenario.segments + s];
            const auto& weights = adapter.modules[static_cast<size_t>(layer * 4 + m)];
            const auto first = static_cast<int32_t>(s) * scenario.rows;
            segments.push_back({first, first + scenario.rows, adapter.rank, adapter.dtype, 0.5f,
                                weights.a, weights.b});
          }
          SegmentedLoraArgs args;
          args.x = x_;
          args.x_stride = args.in = kHidden;
          args.y = y_[m];
          args.y_stride = args.out = kOut[m];
          args.rows = rows;
          args.segments = segments.data();
          args.num_segments = static_cast<int64_t>(segments.size());
          args.workspace = workspace_[m].ReserveBytes(SegmentedLoraWorkspace(args));
          plans[m - group[0]] = PlanSegmentedLora(args, isa);
        }
        Phase(plans, group[1] - group[0], false);
        Phase(plans, group[1] - group[0], true);
      }
    }
    return Seconds() - begin;
  }

  // The same scenario with several element types; the first is what the others are compared with.
  void Measure(const std::vector<Scenario>& contenders, Isa isa) {
    if (contenders.empty()) return;
    const Scenario& any = contenders[0];
    const auto rows = static_cast<size_t>(any.segments) * static_cast<size_t>(any.rows);
    test::Random random(3);
    const auto place = [&](Workspace* memory, int64_t width) {
      const std::vector<float> values = random.Normals(rows * static_cast<size_t>(width), 1.0f);
      float* to = memory->Reserve(static_cast<int64_t>(values.size()));
      std::memcpy(to, values.data(), values.size() * sizeof(float));
      return to;
    };
    x_ = place(&x_memory_, kHidden);
    for (size_t m = 0; m < 4; ++m) y_[m] = place(&y_memory_[m], kOut[m]);
    std::vector<Times> times(contenders.size());
    for (int32_t round = 0; round < options_.rounds; ++round) {
      for (size_t i = 0; i < contenders.size(); ++i) {
        const Scenario& scenario = contenders[i];
        const size_t sets = scenario.adapters.size() / scenario.segments;
        const int32_t parts = options_.layers / kLayersPerRound;
        const size_t set = static_cast<size_t>(round / parts) % sets;
        const int32_t layer = round % parts * kLayersPerRound;
        const double kernel = Run(scenario, set, layer, isa);
        // Of another set: nothing of it is left in a cache.
        const double ceiling = Read(scenario, (set + 1) % sets, layer);
        times[i].kernel.push_back(kernel);
        times[i].ceiling.push_back(ceiling);
        times[i].fraction.push_back(ceiling / kernel);
        times[i].over_first.push_back(kernel / times[0].kernel.back());
      }
    }
    for (size_t i = 0; i < contenders.size(); ++i) Print(contenders[i], times[i], isa);
  }

 private:
  struct Times {
    std::vector<double> kernel, ceiling, fraction, over_first;
  };

  static void Print(const Scenario& scenario, const Times& times, Isa isa) {
    double bytes = 0.0, flops = 0.0;
    for (size_t s = 0; s < scenario.segments; ++s) {
      const Adapter& adapter = *scenario.adapters[s];
      for (int64_t out : kOut) {
        bytes += static_cast<double>(LoraBytesA(adapter.dtype, adapter.rank, kHidden) +
                                     LoraBytesB(adapter.dtype, adapter.rank, out));
        flops += 2.0 * scenario.rows * adapter.rank * static_cast<double>(kHidden + out);
      }
    }
    bytes *= kLayersPerRound;
    flops *= kLayersPerRound;
    const double seconds = Median(times.kernel);
    const double fast = Quantile(times.kernel, 0.1);
    std::printf(
        "%-38s %-6s %9.1f us %6.1f GB/s %4.0f %% of read %8.1f GFLOP/s  "
        "fastest %9.1f us %6.1f GB/s %4.0f %% %8.1f GFLOP/s  %5.2f times bfloat16\n",
        scenario.name.c_str(), IsaName(isa), seconds * 1e6, bytes / seconds * 1e-9,
        100.0 * Median(times.fraction), flops / seconds * 1e-9, fast * 1e6, bytes / fast * 1e-9,
        100.0 * Quantile(times.ceiling, 0.1) / fast, flops / fast * 1e-9,
        Median(times.over_first));
  }

  void Phase(const SegmentedLoraPlan* plans, int64_t count, bool expand) {
    int64_t ends[3] = {};
    int64_t units = 0;
    for (int64_t i = 0; i < count; ++i) {
      units += expand ? plans[i].expand_units : plans[i].shrink_units;
      ends[i] = units;
    }
    std::atomic<int64_t> next{0};
    pool_.parallel().For(static_cast<size_t>(options_.threads), [&](size_t) {
      for (int64_t unit = next++; unit < units; unit = next++) {
        int64_t i = 0, first = 0;
        while (unit >= ends[i]) first = ends[i++];
        expand ? SegmentedLoraExpandUnit(plans[i], unit - first)
               : SegmentedLoraShrinkUnit(plans[i], unit - first);
      }
    });
  }

  Options options_;
  StepPool pool_;
  Workspace x_memory_{"x"};
  Workspace y_memory_[4] = {Workspace("q"), Workspace("k"), Workspace("v"), Workspace("o")};
  const float* x_ = nullptr;
  float* y_[4] = {};
  std::vector<LoraSegment> segments_[3];
  Workspace workspace_[4] = {Workspace("q"), Workspace("k"), Workspace("v"), Workspace("o")};
  std::atomic<uint64_t> sink_{0};
};

Scenario Make(const Options& options, const char* name, LoraDtype dtype,
              const std::vector<int32_t>& ranks, size_t segments, int32_t rows, size_t sets) {
  Scenario scenario;
  scenario.name = Format("%s %s", name, LoraDtypeName(dtype));
  scenario.rows = rows;
  scenario.segments = segments;
  test::Random random(1);
  for (size_t i = 0; i < segments * sets; ++i) {
    scenario.adapters.push_back(
        std::make_unique<Adapter>(ranks[i % ranks.size()], dtype, options.layers, &random));
  }
  return scenario;
}

void RunAll(const Options& options) {
  Bench bench(options);
  const auto run = [&](const char* name, const std::vector<int32_t>& ranks, size_t segments,
                       int32_t rows, size_t sets) {
    if (std::string(name).find(options.filter) == std::string::npos) return;
    std::vector<Scenario> contenders;
    for (LoraDtype dtype : {LoraDtype::kBf16, LoraDtype::kI8, LoraDtype::kF32}) {
      contenders.push_back(Make(options, name, dtype, ranks, segments, rows, sets));
    }
    bench.Measure(contenders, options.isa);
  };
  run("1 row rank 16", {16}, 1, 1, 16);
  run("16 adapters rank 16", {16}, 16, 1, 2);
  run("32 adapters rank 16", {16}, 32, 1, 2);
  run("16 adapters rank 8", {8}, 16, 1, 4);
  run("16 adapters rank 8,16,32,64", {8, 16, 32, 64}, 16, 1, 2);
  run("16 adapters rank 64", {64}, 16, 1, 2);
  run("16 rows of one rank 16", {16}, 1, 16, 16);
  run("512 rows of one rank 16", {16}, 1, 512, 2);
  run("512 rows of one rank 64", {64}, 1, 512, 2);
}

}  // namespace
}  // namespace loramux::bench

int main(int argc, char** argv) {
  loramux::bench::Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const char* value = argv[i + 1];
    if (flag == "--isa") {
      for (loramux::Isa isa : loramux::SupportedIsas()) {
        if (std::strcmp(loramux::IsaName(isa), value) == 0) options.isa = isa;
      }
    } else if (flag == "--threads") {
      options.threads = std::max(1, std::atoi(value));
    } else if (flag == "--layers") {
      options.layers = std::max(loramux::bench::kLayersPerRound, std::atoi(value));
    } else if (flag == "--rounds") {
      options.rounds = std::max(1, std::atoi(value));
    } else if (flag == "--filter") {
      options.filter = value;
    } else {
      std::fprintf(stderr,
                   "usage: %s [--isa NAME] [--threads N] [--layers N] [--rounds N] "
                   "[--filter TEXT]\n",
                   argv[0]);
      return 2;
    }
  }
  loramux::bench::RunAll(options);
  return 0;
}
