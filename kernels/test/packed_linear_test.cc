// Packed linear layers as a whole: parts, prologues, threads. A row after its prologue agrees with
// the reference's to 4e-6 of its largest element (float32 against double); what is made of it is
// the same, bit for bit, as without a prologue, which is compared with the reference to the
// tolerances of packed_tables_test.cc.
#include <algorithm>
#include <cmath>

#include "loramux/cpu_features.h"
#include "test/check.h"
#include "test/packed_case.h"

namespace loramux::test {
namespace {

constexpr double kPrologueTolerance = 4e-6;

// A layer of up to three parts and its input.
struct Layer {
  std::vector<PackedCase> parts;  // x of the first is everybody's
  Prologue prologue = Prologue::kNone;
  int64_t rows = 0, k = 0, columns = 0;
  std::vector<float> x, norm, residual;

  int64_t Stride() const { return prologue == Prologue::kSwiGlu ? 2 * k : k; }
};

struct Outcome {
  std::vector<float> y, prepared;
};

Layer MakeLayer(const PackedShape& kind, Prologue prologue, int64_t rows, int parts,
                Random* random) {
  Layer layer;
  layer.prologue = prologue;
  layer.rows = rows;
  layer.k = kind.k;
  for (int p = 0; p < parts; ++p) {
    PackedShape shape = kind;
    if (p > 0) shape.n = random->Int(1, 40);
    layer.parts.push_back(MakePackedCase(shape, 1, kActivationGroup, random));
    layer.columns += shape.n;
  }
  layer.x = random->Normals(static_cast<size_t>(rows * layer.Stride()), 2.0f);
  layer.norm = random->Normals(static_cast<size_t>(kind.k), 1.0f);
  if (random->Int(0, 1) == 1) {
    layer.residual = random->Normals(static_cast<size_t>(rows * layer.columns), 1.0f);
  }
  return layer;
}

// Rows [first, first + count) of a layer.
Layer Slice(const Layer& layer, int64_t first, int64_t count) {
  Layer part = layer;
  part.rows = count;
  const auto rows = [&](const std::vector<float>& v, int64_t stride) {
    return std::vector<float>(v.begin() + first * stride, v.begin() + (first + count) * stride);
  };
  part.x = rows(layer.x, layer.Stride());
  if (!layer.residual.empty()) part.residual = rows(layer.residual, layer.columns);
  return part;
}

// On an instruction set, or by the reference where there is none.
Outcome Run(const Layer& layer, const Isa* isa, const Parallel& parallel, bool in_place) {
  Outcome out;
  out.prepared.assign(static_cast<size_t>(layer.rows * layer.k), NAN);
  out.y.assign(static_cast<size_t>(layer.rows * layer.columns), NAN);
  PackedLinearArgs args;
  args.x = layer.x.data();
  args.x_stride = layer.Stride();
  args.rows = layer.rows;
  args.k = layer.k;
  args.prologue = layer.prologue;
  args.norm = layer.norm.data();
  args.norm_eps = 1e-5f;
  args.num_parts = static_cast<int32_t>(layer.parts.size());
  for (size_t p = 0; p < layer.parts.size(); ++p) {
    const PackedCase& part = layer.parts[p];
    args.parts[p] = {part.Weight(), part.bias.empty() ? nullptr : part.bias.data()};
  }
  args.residual = layer.residual.empty() ? nullptr : layer.residual.data();
  if (in_place && !layer.residual.empty()) {
    out.y = layer.residual;
    args.residual = out.y.data();
  }
  args.y = out.y.data();
  args.prepared = out.prepared.data();
  if (isa == nullptr) {
    reference::PackedLinear(args);
    return out;
  }
  AlignedBytes workspace(PackedLinearWorkspace(args, parallel.threads, *isa));
  std::fill_n(workspace.data(), workspace.bytes(), uint8_t{0xa5});
  args.workspace = workspace.data();
  PackedLinear(args, parallel, *isa);
  return out;
}

std::string Where(const Layer& layer, Isa isa) {
  return Describe(layer.parts[0].shape) +
         Format(" rows %d parts %zu prologue %d %s", static_cast<int>(layer.rows),
                layer.parts.size(), static_cast<int>(layer.prologue), IsaName(isa));
}

// The largest error in units of the sums of magnitudes of products of `layer`'s rows as they are.
double WorstError(const Layer& layer, const std::vector<float>& got,
                  const std::vector<float>& want) {
  double worst = 0.0;
  int64_t first = 0;
  for (const PackedCase& part : layer.parts) {
    PackedCase c = part;
    c.rows = layer.rows;
    c.x = layer.x;
    c.residual.clear();
    const std::vector<double> sizes = c.Magnitudes();
    for (int64_t r = 0; r < layer.rows; ++r) {
      for (int64_t i = 0; i < part.shape.n; ++i) {
        const size_t at = static_cast<size_t>(r * layer.columns + first + i);
        double size = sizes[static_cast<size_t>(r * part.shape.n + i)] + 1e-30;
        if (!layer.residual.empty()) size += std::fabs(static_cast<double>(layer.residual[at]));
        const double error =
            std::fabs(static_cast<double>(got[at]) - static_cast<double>(want[at])) / size;
        worst = error <= worst ? worst : error;
      }
    }
    first += part.shape.n;
  }
  return worst;
}

void CheckLayer(const Layer& layer) {
  ThreadPool pool(3);
  const Outcome want = Run(layer, nullptr, Parallel{}, false);
  double largest = 0.0;
  for (float v : want.prepared) largest = std::max(largest, std::fabs(static_cast<double>(v)));
  for (Isa isa : SupportedIsas()) {
    const Outcome got = Run(layer, &isa, Parallel{}, false);
    const double prologue = MaxAbsError(got.prepared, want.prepared);
    CHECK_THAT(prologue <= kPrologueTolerance * largest,
               Where(layer, isa) + Format(" prologue error %g of %g", prologue, largest));
    Layer plain = layer;
    plain.prologue = Prologue::kNone;
    plain.x = got.prepared;
    CHECK_THAT(FirstDifference(Run(plain, &isa, Parallel{}, false).y, got.y) == 0,
               Where(layer, isa) + " differs from its prepared rows");
    const double error = WorstError(plain, got.y, Run(plain, nullptr, Parallel{}, false).y);
    CHECK_THAT(error <= 0x1p-18, Where(layer, isa) + Format(" error %g", error));
    CHECK_THAT(FirstDifference(Run(layer, &isa, pool.Get(), false).y, got.y) == 0,
               Where(layer, isa) + " differs on three threads");
    CHECK_THAT(FirstDifference(Run(layer, &isa, pool.Get(), true).y, got.y) == 0,
               Where(layer, isa) + " differs in place of the residual");
  }
}

LORAMUX_TEST(PackedLinearMatchesReference) {
  Random random(Seed());
  for (Prologue prologue : {Prologue::kNone, Prologue::kRmsNorm, Prologue::kSwiGlu}) {
    for (int parts = 1; parts <= kMaxParts; ++parts) {
      for (const PackedShape& kind : AllPackedKinds(random.Int(1, 50), random.Int(1, 600))) {
        CheckLayer(MakeLayer(kind, prologue, random.Int(1, 70), parts, &random));
      }
    }
  }
}

LORAMUX_TEST(PackedLinearTakesNoRows) {
  Random random(Seed());
  Layer layer = MakeLayer({PackedFormat::kInt8, 20, 100, 0, false}, Prologue::kRmsNorm, 1, 2,
                          &random);
  layer = Slice(layer, 0, 0);
  for (Isa isa : SupportedIsas()) CHECK(Run(layer, &isa, Parallel{}, false).y.empty());
}

LORAMUX_TEST(PackedLinearGivesRowsTheSameBitsInEveryBatch) {
  Random random(Seed());
  ThreadPool pool(2);
  constexpr int64_t kRows = 70;
  for (const PackedShape& kind : AllPackedKinds(35, 320)) {
    const Prologue prologue = static_cast<Prologue>(random.Int(0, 2));
    const Layer layer = MakeLayer(kind, prologue, kRows, random.Int(1, kMaxParts), &random);
    for (Isa isa : SupportedIsas()) {
      const std::vector<float> all = Run(layer, &isa, Parallel{}, false).y;
      for (int64_t count : {1, 2, 5, 15, 16, 17, 31, 32, 33, 49, 69}) {
        for (int64_t first : {int64_t{0}, kRows - count}) {
          const Layer part = Slice(layer, first, count);
          const std::vector<float> want(all.begin() + first * layer.columns,
                                        all.begin() + (first + count) * layer.columns);
          CHECK_THAT(FirstDifference(Run(part, &isa, pool.Get(), false).y, want) == 0,
                     Where(part, isa) + Format(" from %d", static_cast<int>(first)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace loramux::test
