// Times the kernels over the adapter mixes and shapes of the tests. Every case is compared with its
// double-precision reference first; one that is wrong is not timed.
//   loramux_kernel_bench [--isa scalar|avx2|avx512] [--threads N] [--filter TEXT]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "loramux/cpu_features.h"
#include "loramux/sampler.h"
#include "test/adapter_mix.h"
#include "test/paged_case.h"

namespace loramux::bench {
namespace {

using test::Format;

constexpr double kSecondsPerCase = 0.3;
constexpr double kLoraTolerance = 5e-5;
constexpr double kAttentionTolerance = 1e-4;
constexpr double kAttentionToleranceBf16 = 2e-2;

struct Options {
  std::vector<Isa> isas;
  int32_t threads = 1;
  std::string filter;
};

// A pool whose threads wait between runs, as an inference runtime's do.
class Bench {
 public:
  explicit Bench(const Options& options) : options_(options), pool_(options.threads) {}

  Parallel parallel() { return options_.threads > 1 ? pool_.Get() : Parallel{}; }
  const std::vector<Isa>& isas() const { return options_.isas; }
  bool Wanted(const std::string& name) const {
    return name.find(options_.filter) != std::string::npos;
  }
  bool ok() const { return ok_; }

  void Refuse(const std::string& name, Isa isa, double error) {
    std::printf("%-44s %-7s WRONG: error %g\n", name.c_str(), IsaName(isa), error);
    ok_ = false;
  }

  // bytes and flops of one call of run(i); the shortest of many calls counts.
  template <typename Run>
  void Time(const std::string& name, Isa isa, double bytes, double flops, Run&& run) {
    using Clock = std::chrono::steady_clock;
    double best = 1e30;
    const auto start = Clock::now();
    for (size_t i = 0;
         i < 5 || Clock::now() - start < std::chrono::duration<double>(kSecondsPerCase); ++i) {
      const auto begin = Clock::now();
      run(i);
      best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
    }
    std::printf("%-44s %-7s %10.1f us %8.1f GB/s %8.1f GFLOP/s\n", name.c_str(), IsaName(isa),
                best * 1e6, bytes / best * 1e-9, flops / best * 1e-9);
  }

 private:
  Options options_;
  test::ThreadPool pool_;
  bool ok_ = true;
};

void BenchLora(Bench* bench, test::Mix mix, int32_t rows, int32_t rank, int64_t in, int64_t out) {
  const std::string name =
      Format("lora %s rows %d rank %d %lldx%lld", test::MixName(mix), rows, rank,
             static_cast<long long>(in), static_cast<long long>(out));
  if (!bench->Wanted(name)) return;
  test::Random random(1);
  // Several layers in turn, so that weights do not stay in the second-level cache.
  constexpr size_t kLayers = 8;
  std::vector<test::LoraCase> layers;
  const std::vector<test::MixRun> runs = test::MakeMix(mix, rows, &random);
  for (size_t i = 0; i < kLayers; ++i) {
    layers.push_back(test::MakeLoraCase(runs, {rank}, in, out, LoraDtype::kF32, &random));
  }
  double weights = 0.0;
  double row_ranks = 0.0;
  for (const LoraSegment& s : layers[0].segments) {
    weights += 4.0 * s.rank * static_cast<double>(in + out);
    row_ranks += static_cast<double>(s.end - s.begin) * s.rank;
  }
  const std::vector<float> want = layers[0].RunReference();
  for (Isa isa : bench->isas()) {
    const double error = test::MaxAbsError(layers[0].Run(bench->parallel(), isa), want);
    if (!(error <= kLoraTolerance)) {
      bench->Refuse(name, isa, error);
      continue;
    }
    std::vector<float> y = layers[0].y;
    test::AlignedBytes workspace;
    std::vector<SegmentedLoraArgs> args;
    for (const test::LoraCase& layer : layers) {
      y.resize(std::max(y.size(), layer.y.size()));
      args.push_back(layer.Args(&y, &workspace));
    }
    for (SegmentedLoraArgs& a : args) {
      a.y = y.data();
      a.workspace = args.back().workspace;
    }
    bench->Time(name, isa, weights, 2.0 * row_ranks * static_cast<double>(in + out),
                [&](size_t i) { SegmentedLora(args[i % kLayers], bench->parallel(), isa); });
  }
}

void BenchAttention(Bench* bench, const char* kind, int32_t sequences, int32_t context,
                    int32_t queries, int32_t heads, int32_t kv_heads, int32_t head_size,
                    KvDtype dtype) {
  const std::string name =
      Format("attention %s %d seq ctx %d heads %d/%d size %d %s", kind, sequences, context, heads,
             kv_heads, head_size, dtype == KvDtype::kBf16 ? "bf16" : "f32");
  if (!bench->Wanted(name)) return;
  test::AttentionShape shape;
  shape.num_heads = heads;
  shape.num_kv_heads = kv_heads;
  shape.head_size = head_size;
  shape.rotary_dim = head_size;
  shape.kv_dtype = dtype;
  test::Random random(2);
  test::PagedCase c(shape, std::vector<int32_t>(static_cast<size_t>(sequences), context), &random);
  std::vector<test::Chunk> before, step;
  for (int32_t s = 0; s < sequences; ++s) {
    before.push_back({s, 0, context - queries});
    step.push_back({s, context - queries, context});
  }
  const Isa best = bench->isas().back();
  if (context > queries) c.Step(before, bench->parallel(), &best);
  const std::vector<float> want = c.Step(step, Parallel{}, nullptr);
  const double tokens = static_cast<double>(sequences) * queries;
  const double keys = context - (queries - 1) / 2.0;
  const double pairs = tokens * keys;
  const double bytes = static_cast<double>(sequences) * context * kv_heads * head_size * 2.0 *
                       (dtype == KvDtype::kBf16 ? 2.0 : 4.0);
  for (Isa isa : bench->isas()) {
    const double error = test::MaxAbsError(c.Step(step, bench->parallel(), &isa), want);
    if (!(error <= (dtype == KvDtype::kBf16 ? kAttentionToleranceBf16 : kAttentionTolerance))) {
      bench->Refuse(name, isa, error);
      continue;
    }
    test::PreparedStep prepared = c.Prepare(step, bench->parallel().threads, isa);
    bench->Time(name, isa, bytes, 4.0 * pairs * heads * head_size,
                [&](size_t) { PagedAttention(prepared.args, bench->parallel(), isa); });
  }
}

void BenchSampler(Bench* bench, const char* kind, int32_t vocab, float spread, SamplerRow row) {
  const std::string name =
      Format("sampler %s vocab %d spread %g", kind, vocab, static_cast<double>(spread));
  if (!bench->Wanted(name)) return;
  test::Random random(3);
  const std::vector<float> logits = random.Normals(static_cast<size_t>(vocab), spread);
  row.logits = logits.data();
  int32_t ids[kMaxTopLogprobs];
  float logprobs[kMaxTopLogprobs];
  SamplerOutput want, got;
  want.top_ids = got.top_ids = ids;
  want.top_logprobs = got.top_logprobs = logprobs;
  reference::SampleRow(row, vocab, &want);
  SamplerScratch* scratch = CreateSamplerScratch(vocab);
  for (Isa isa : bench->isas()) {
    SampleRow(row, vocab, scratch, &got, isa);
    if (got.token_id != want.token_id) {
      bench->Refuse(name, isa, got.token_id - want.token_id);
      continue;
    }
    bench->Time(name, isa, 4.0 * vocab, 0.0, [&](size_t i) {
      row.sample_index = static_cast<int32_t>(i % 1000);
      SampleRow(row, vocab, scratch, &got, isa);
    });
    row.sample_index = 0;
  }
  DestroySamplerScratch(scratch);
}

void RunAll(Bench* bench) {
  for (int32_t rows : {1, 16, 64}) {
    for (int32_t rank : {8, 16, 64}) {
      BenchLora(bench, test::Mix::kDistinct, rows, rank, 2048, 2048);
    }
  }
  BenchLora(bench, test::Mix::kZipf, 64, 16, 2048, 2048);
  BenchLora(bench, test::Mix::kUniform, 64, 16, 2048, 5632);
  for (int32_t rank : {16, 64, 256}) {
    BenchLora(bench, test::Mix::kIdentical, 512, rank, 2048, 2048);
  }
  for (KvDtype dtype : {KvDtype::kF32, KvDtype::kBf16}) {
    BenchAttention(bench, "decode", 16, 1024, 1, 32, 4, 64, dtype);
    BenchAttention(bench, "decode", 16, 1024, 1, 8, 8, 128, dtype);
    BenchAttention(bench, "prefill", 1, 512, 512, 32, 4, 64, dtype);
    BenchAttention(bench, "prefill", 1, 512, 512, 8, 8, 128, dtype);
  }
  for (int32_t vocab : {32000, 151936}) {
    for (float spread : {1.0f, 4.0f}) {
      SamplerRow row;
      BenchSampler(bench, "greedy", vocab, spread, row);
      row.temperature = 0.8f;
      BenchSampler(bench, "temperature", vocab, spread, row);
      row.top_p = 0.95f;
      BenchSampler(bench, "top-p", vocab, spread, row);
      row.top_k = 50;
      BenchSampler(bench, "top-k top-p", vocab, spread, row);
    }
  }
}

}  // namespace
}  // namespace loramux::bench

int main(int argc, char** argv) {
  loramux::bench::Options options;
  options.isas = loramux::SupportedIsas();
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (value != nullptr && flag == "--isa") {
      std::erase_if(options.isas, [&](loramux::Isa isa) {
        return std::strcmp(loramux::IsaName(isa), value) != 0;
      });
    } else if (value != nullptr && flag == "--threads") {
      options.threads = std::max(1, std::atoi(value));
    } else if (value != nullptr && flag == "--filter") {
      options.filter = value;
    } else {
      std::fprintf(stderr, "usage: %s [--isa NAME] [--threads N] [--filter TEXT]\n", argv[0]);
      return 2;
    }
  }
  if (options.isas.empty()) {
    std::fprintf(stderr, "This processor does not run the requested instruction set.\n");
    return 2;
  }
  loramux::bench::Bench bench(options);
  loramux::bench::RunAll(&bench);
  return bench.ok() ? 0 : 1;
}
