// Paged attention against what the machine can do at that moment: decode of one long sequence
// against the rate at which memory is read, prefill against the peak of the bf16 tiles. Contenders
// run in turn, round by round; medians count.
//   loramux_attention_bench [--threads N] [--context N] [--layers N] [--rounds N] [--clock cpu]
//                           [--only prefill|decode]
// --clock cpu needs --threads 1.
// Shape: 32 heads, 4 kv heads of 64, that of a Llama of 1.1 billion parameters.
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bench/ceiling_loops.h"
#include "loramux/cpu_features.h"
#include "loramux/paged_attention.h"
#include "session/step_pool.h"
#include "test/support.h"

namespace loramux::bench {
namespace {

constexpr int32_t kHeads = 32;
constexpr int32_t kKvHeads = 4;
constexpr int32_t kHeadSize = 64;
constexpr int32_t kBlockSize = 16;
constexpr int32_t kPrompt = 512;
constexpr size_t kNormals = 100'003;  // different numbers; they repeat
constexpr size_t kPiece = size_t{1} << 20;  // of a read at full rate

struct Options {
  int32_t threads = 2;
  int32_t context = 16384;
  int32_t layers = 22;
  int32_t rounds = 7;
  bool prefill = true, decode = true;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Of the wall, or with --clock cpu of this thread: what a shared machine takes away does not count
// then, but for the bandwidth it takes.
clockid_t timing_clock = CLOCK_MONOTONIC;

double Now() {
  timespec t;
  clock_gettime(timing_clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <typename F>
double Seconds(F&& f) {
  const double start = Now();
  f();
  return Now() - start;
}

uint8_t* Pages(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) {
    std::perror("loramux_attention_bench: mmap");
    std::exit(1);
  }
  madvise(p, bytes, MADV_HUGEPAGE);
  return static_cast<uint8_t*>(p);
}

// One sequence in caches of several layers, its blocks in random order.
class Sequence {
 public:
  Sequence(KvDtype dtype, int32_t context, int32_t tokens, int32_t layers)
      : dtype_(dtype), context_(context), tokens_(tokens) {
    const int32_t blocks = (context + kBlockSize - 1) / kBlockSize;
    cache_bytes_ = static_cast<size_t>(
        blocks * KvBlockBytes(dtype, kBlockSize, kKvHeads, kHeadSize));
    cache_bytes_ = (cache_bytes_ + kPiece - 1) / kPiece * kPiece;
    test::Random random(1);
    for (int32_t b = 0; b < blocks; ++b) table_.push_back(b);
    for (size_t i = table_.size() - 1; i > 0; --i) {
      std::swap(table_[i], table_[static_cast<size_t>(random.Int(0, static_cast<int32_t>(i)))]);
    }
    const size_t width = static_cast<size_t>((kHeads + 2 * kKvHeads) * kHeadSize);
    const std::vector<float> some = random.Normals(kNormals, 1.0f);
    qkv_.resize(static_cast<size_t>(context) * width);
    for (size_t i = 0; i < qkv_.size(); ++i) qkv_[i] = some[i % kNormals];
    out_.resize(static_cast<size_t>(context * kHeads * kHeadSize));
    cos_sin_.assign(static_cast<size_t>(context) * kHeadSize, 0.0f);
    for (size_t i = 0; i < cos_sin_.size(); i += kHeadSize) {
      std::fill_n(cos_sin_.begin() + static_cast<int64_t>(i), kHeadSize / 2, 1.0f);
    }
    for (int32_t p = 0; p < context; ++p) {
      slots_.push_back(table_[static_cast<size_t>(p / kBlockSize)] * kBlockSize + p % kBlockSize);
    }
    for (int32_t layer = 0; layer < 2 * layers; ++layer) caches_.push_back(Pages(cache_bytes_));
  }
  ~Sequence() {
    for (uint8_t* p : caches_) munmap(p, cache_bytes_);
  }
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  // Writes the whole context into one layer, and copies that layer to the others.
  void Fill(const Parallel& parallel, Isa isa) {
    PagedAttentionArgs args = Args(0, 0, context_);
    const int32_t start[2] = {0, 0};
    args.num_sequences = 0;  // keys and values only
    args.query_start = start;
    Run(args, parallel, isa);
    for (size_t i = 2; i < caches_.size(); ++i) {
      std::memcpy(caches_[i], caches_[i % 2], cache_bytes_);
    }
  }
  // The last tokens through all layers.
  void Step(const Parallel& parallel, Isa isa) {
    for (int32_t layer = 0; layer < Layers(); ++layer) {
      PagedAttentionArgs args = Args(layer, context_ - tokens_, tokens_);
      const int32_t start[2] = {0, tokens_};
      args.query_start = start;
      Run(args, parallel, isa);
    }
  }
  int32_t Layers() const { return static_cast<int32_t>(caches_.size() / 2); }
  double KvBytes() const {
    return 2.0 * Layers() * context_ / kBlockSize *
           static_cast<double>(KvBlockBytes(dtype_, kBlockSize, kKvHeads, kHeadSize));
  }
  double Flops() const {
    return 4.0 * Layers() * tokens_ * (context_ - (tokens_ - 1) / 2.0) * kHeads * kHeadSize;
  }
  const std::vector<uint8_t*>& caches() const { return caches_; }
  size_t cache_bytes() const { return cache_bytes_; }
  KvDtype dtype() const { return dtype_; }

 private:
  PagedAttentionArgs Args(int32_t layer, int32_t first, int32_t tokens) {
    const int64_t width = (kHeads + 2 * kKvHeads) * kHeadSize;
    PagedAttentionArgs args;
    args.q = qkv_.data() + first * width;
    args.k = args.q + kHeads * kHeadSize;
    args.v = args.k + kKvHeads * kHeadSize;
    args.q_stride = args.k_stride = args.v_stride = width;
    args.out = out_.data();
    args.num_tokens = tokens;
    args.num_heads = kHeads;
    args.num_kv_heads = kKvHeads;
    args.head_size = kHeadSize;
    args.softmax_scale = 1.0f / std::sqrt(static_cast<float>(kHeadSize));
    args.cos_sin = cos_sin_.data();
    args.rotary_dim = kHeadSize;
    args.k_cache = caches_[static_cast<size_t>(2 * layer)];
    args.v_cache = caches_[static_cast<size_t>(2 * layer + 1)];
    args.kv_dtype = dtype_;
    args.num_blocks = args.max_blocks = static_cast<int32_t>(table_.size());
    args.block_size = kBlockSize;
    args.num_sequences = 1;
    args.context_lens = &context_;
    args.block_tables = table_.data();
    args.slot_mapping = slots_.data() + first;
    return args;
  }
  void Run(PagedAttentionArgs args, const Parallel& parallel, Isa isa) {
    const size_t floats =
        static_cast<size_t>(PagedAttentionWorkspace(args, parallel.threads, isa));
    if (workspace_.size() < floats) workspace_.resize(floats);
    args.workspace = workspace_.data();
    PagedAttention(args, parallel, isa);
  }

  KvDtype dtype_;
  int32_t context_, tokens_;
  size_t cache_bytes_;
  std::vector<uint8_t*> caches_;
  std::vector<int32_t> table_, slots_;
  std::vector<float> qkv_, out_, cos_sin_, workspace_;
};

constexpr KvDtype kDtypes[] = {KvDtype::kF32, KvDtype::kBf16, KvDtype::kI8};

// GB/s of reading a sequence's caches front to back.
double ReadRate(const Sequence& s, const Parallel& parallel, int way) {
  const size_t pieces = s.cache_bytes() / kPiece;
  const double seconds = Seconds([&] {
    parallel.For(pieces * s.caches().size(), [&](size_t i) {
      ReadBytes(s.caches()[i / pieces] + i % pieces * kPiece, kPiece, way);
    });
  });
  return static_cast<double>(s.cache_bytes() * s.caches().size()) / seconds * 1e-9;
}

void BenchDecode(const Options& options, const Parallel& parallel, Isa isa) {
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (KvDtype dtype : kDtypes) {
    sequences.push_back(std::make_unique<Sequence>(dtype, options.context, 1, options.layers));
    sequences.back()->Fill(parallel, isa);
    sequences.back()->Step(parallel, isa);
  }
  std::vector<double> read;
  std::vector<std::vector<double>> seconds(sequences.size()), share(sequences.size());
  for (int32_t round = 0; round < options.rounds; ++round) {
    for (size_t i = 0; i < sequences.size(); ++i) {
      double rate = 0.0;
      for (int way = 0; way < kReadWays; ++way) {
        rate = std::max(rate, ReadRate(*sequences[1], parallel, way));
      }
      const double taken = Seconds([&] { sequences[i]->Step(parallel, isa); });
      read.push_back(rate);
      seconds[i].push_back(taken);
      share[i].push_back(sequences[i]->KvBytes() / taken * 1e-9 / rate);
    }
  }
  std::printf("decode, context %d, %d layers, %s, %d threads; memory reads %.1f GB/s\n",
              options.context, options.layers, IsaName(isa), options.threads, Median(read));
  for (size_t i = 0; i < sequences.size(); ++i) {
    const double taken = Median(seconds[i]);
    std::printf("  %-5s %8.2f ms %6.1f GB/s, %3.0f %% of the read rate, %.2fx of f32\n",
                KvDtypeName(sequences[i]->dtype()), taken * 1e3,
                sequences[i]->KvBytes() / taken * 1e-9, 100.0 * Median(share[i]),
                Median(seconds[0]) / taken);
  }
}

void BenchPrefill(const Options& options, const Parallel& parallel, const std::vector<Isa>& isas) {
  const Loop* peak = nullptr;
  const std::vector<Loop> loops = SupportedLoops();
  for (const Loop& loop : loops) {
    if (std::strcmp(loop.name, "bf16_amx") == 0) peak = &loop;
  }
  constexpr int64_t kTurns = 200'000;
  std::vector<double> peaks;
  struct Contender {
    Isa isa;
    std::unique_ptr<Sequence> sequence;
    std::vector<double> flops;
  };
  std::vector<Contender> contenders;
  for (Isa isa : isas) {
    for (KvDtype dtype : kDtypes) {
      contenders.push_back({isa, std::make_unique<Sequence>(dtype, kPrompt, kPrompt, 2), {}});
    }
  }
  for (int32_t round = 0; round < options.rounds; ++round) {
    if (peak != nullptr) {
      const double taken = Seconds([&] {
        parallel.For(static_cast<size_t>(options.threads), [&](size_t) { peak->run(kTurns); });
      });
      peaks.push_back(peak->ops * kTurns * options.threads / taken);
    }
    for (Contender& c : contenders) {
      const double taken = Seconds([&] { c.sequence->Step(parallel, c.isa); });
      c.flops.push_back(c.sequence->Flops() / taken);
    }
  }
  const double most = peaks.empty() ? 0.0 : Median(peaks);
  std::printf("prefill of %d tokens, %d threads; bf16 tiles reach %.0f GFLOP/s\n", kPrompt,
              options.threads, most * 1e-9);
  for (const Contender& c : contenders) {
    std::printf("  %-11s %-5s %8.1f GFLOP/s", IsaName(c.isa), KvDtypeName(c.sequence->dtype()),
                Median(c.flops) * 1e-9);
    if (most > 0.0) std::printf(", %4.1f %% of the tiles' peak", 100.0 * Median(c.flops) / most);
    std::printf("\n");
  }
}

}  // namespace

void UseCpuClock() { timing_clock = CLOCK_THREAD_CPUTIME_ID; }
bool UsesCpuClock() { return timing_clock != CLOCK_MONOTONIC; }

}  // namespace loramux::bench

int main(int argc, char** argv) {
  loramux::bench::Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    const int32_t value = i + 1 < argc ? std::max(1, std::atoi(argv[i + 1])) : 0;
    if (i + 1 < argc && flag == "--clock" && std::strcmp(argv[i + 1], "cpu") == 0) {
      loramux::bench::UseCpuClock();
    } else if (i + 1 < argc && flag == "--only" && std::strcmp(argv[i + 1], "prefill") == 0) {
      options.decode = false;
    } else if (i + 1 < argc && flag == "--only" && std::strcmp(argv[i + 1], "decode") == 0) {
      options.prefill = false;
    } else if (value > 0 && flag == "--threads") {
      options.threads = value;
    } else if (value > 0 && flag == "--context") {
      options.context = value;
    } else if (value > 0 && flag == "--layers") {
      options.layers = value;
    } else if (value > 0 && flag == "--rounds") {
      options.rounds = value;
    } else {
      std::fprintf(stderr,
                   "usage: %s [--threads N] [--context N] [--layers N] [--rounds N]"
                   " [--clock cpu] [--only prefill|decode]\n",
                   argv[0]);
      return 2;
    }
  }
  if (loramux::bench::UsesCpuClock() && options.threads != 1) {
    std::fprintf(stderr, "--clock cpu needs --threads 1\n");
    return 2;
  }
  const loramux::Isa best = loramux::DetectIsa();
  std::vector<loramux::Isa> isas;
  for (loramux::Isa isa : {loramux::Isa::kAvx2, loramux::Isa::kAvx512, loramux::Isa::kAmx}) {
    if (loramux::IsSupported(isa)) isas.push_back(isa);
  }
  loramux::StepPool pool(options.threads);
  pool.Begin();
  if (options.prefill) loramux::bench::BenchPrefill(options, pool.parallel(), isas);
  if (options.decode) loramux::bench::BenchDecode(options, pool.parallel(), best);
  pool.End();
  return 0;
}
