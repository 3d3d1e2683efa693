// A step's kernels work in the memory they are given: on every instruction set and with the step's
// own threads, the second run of the same call allocates nothing.
#include "loramux/cpu_features.h"
#include "session/step_pool.h"
#include "test/adapter_mix.h"
#include "test/check.h"
#include "test/packed_case.h"
#include "test/paged_case.h"

namespace loramux::test {
namespace {

constexpr int32_t kThreads = 2;

// `run` once to warm up, then once counted.
template <typename Run>
void CheckAllocatesNothing(const std::string& what, const Run& run) {
  run();
  const int64_t before = Allocations();
  run();
  const int64_t count = Allocations() - before;
  CHECK_THAT(count == 0, what + Format(": %lld allocations", static_cast<long long>(count)));
}

// One row, as when a lone sequence decodes; a full batch; a prompt.
constexpr int64_t kRows[] = {1, 16, 70};

LORAMUX_TEST(AllocationsOfPackedLinear) {
  Random random(Seed());
  StepPool pool(kThreads);
  const Parallel parallel = pool.parallel();
  for (const PackedShape& shape : AllPackedKinds(67, 577)) {
    for (const int64_t rows : kRows) {
      const PackedCase c = MakePackedCase(shape, rows, kActivationGroup, &random);
      const std::vector<float> norm = random.Normals(static_cast<size_t>(shape.k), 1.0f);
      std::vector<float> y(static_cast<size_t>(rows * shape.n));
      std::vector<float> prepared(static_cast<size_t>(rows * shape.k));
      PackedLinearArgs args;
      args.x = c.x.data();
      args.x_stride = args.k = shape.k;
      args.rows = rows;
      args.prologue = Prologue::kRmsNorm;
      args.norm = norm.data();
      args.parts[0].weight = c.Weight();
      args.y = y.data();
      args.prepared = prepared.data();
      for (const Isa isa : SupportedIsas()) {
        AlignedBytes workspace(PackedLinearWorkspace(args, kThreads, isa));
        args.workspace = workspace.data();
        CheckAllocatesNothing(Describe(shape) + " " + IsaName(isa), [&] {
          const PoolAwake awake(&pool);
          PackedLinear(args, parallel, isa);
        });
      }
    }
  }
}

LORAMUX_TEST(AllocationsOfSegmentedLora) {
  Random random(Seed());
  StepPool pool(kThreads);
  const Parallel parallel = pool.parallel();
  for (const LoraDtype dtype : kAllLoraDtypes) {
    for (const Mix mix : kAllMixes) {
      const LoraCase c =
          MakeLoraCase(MakeMix(mix, 40, &random), {8, 16, 3}, 130, 200, dtype, &random);
      for (const Isa isa : SupportedIsas()) {
        std::vector<float> y = c.y;
        AlignedBytes workspace;
        const SegmentedLoraArgs args = c.Args(&y, &workspace);
        CheckAllocatesNothing(std::string(MixName(mix)) + " " + IsaName(isa), [&] {
          const PoolAwake awake(&pool);
          SegmentedLora(args, parallel, isa);
        });
      }
    }
  }
}

LORAMUX_TEST(AllocationsOfPagedAttention) {
  Random random(Seed());
  StepPool pool(kThreads);
  const Parallel parallel = pool.parallel();
  for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kBf16, KvDtype::kI8}) {
    AttentionShape shape;
    shape.kv_dtype = dtype;
    shape.norm = true;
    PagedCase c(shape, {700, 50, 3}, &random);
    const std::vector<Chunk> prompts = {{0, 0, 699}, {1, 0, 49}, {2, 0, 2}};
    const std::vector<Chunk> tokens = {{0, 699, 700}, {1, 49, 50}, {2, 2, 3}};
    for (const Isa isa : SupportedIsas()) {
      for (const std::vector<Chunk>& chunks : {prompts, tokens}) {
        const PreparedStep step = c.Prepare(chunks, kThreads, isa);
        CheckAllocatesNothing(Format("cache %d %s", static_cast<int>(dtype), IsaName(isa)), [&] {
          const PoolAwake awake(&pool);
          PagedAttention(step.args, parallel, isa);
        });
      }
    }
  }
}

}  // namespace
}  // namespace loramux::test
