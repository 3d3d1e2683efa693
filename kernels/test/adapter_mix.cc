#include "test/adapter_mix.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace loramux::test {

const char* MixName(Mix mix) {
  switch (mix) {
    case Mix::kDistinct:
      return "distinct";
    case Mix::kUniform:
      return "uniform";
    case Mix::kIdentical:
      return "identical";
    case Mix::kZipf:
      return "zipf";
    case Mix::kSkewed:
      return "skewed";
    case Mix::kNone:
      return "none";
    case Mix::kEmptySegment:
      return "empty-segment";
    case Mix::kSums:
      return "sums";
  }
  return "unknown";
}

float RoundToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

I8Value RoundToI8(float value, float largest) {
  if (largest < kLoraSmallestI8) return {0, 0.0f};
  return {static_cast<int32_t>(std::nearbyint(value * (kLoraMaxLevel / largest))),
          largest / kLoraMaxLevel};
}

std::vector<float> LargestOfGroups(const std::vector<float>& values, int64_t rows, int64_t columns,
                                   bool across) {
  const int64_t grouped = across ? rows : columns;
  const int64_t beside = across ? columns : rows;
  std::vector<float> largest(static_cast<size_t>((grouped + kLoraGroup - 1) / kLoraGroup * beside));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < columns; ++col) {
      const int64_t group = (across ? row : col) / kLoraGroup;
      float& best = largest[static_cast<size_t>(group * beside + (across ? col : row))];
      best = std::max(best, std::fabs(values[static_cast<size_t>(row * columns + col)]));
    }
  }
  return largest;
}

namespace {

// The matrix as int8 keeps it.
void RoundMatrixToI8(std::vector<float>* values, int64_t rows, int64_t columns, bool across) {
  const std::vector<float> largest = LargestOfGroups(*values, rows, columns, across);
  const int64_t beside = across ? columns : rows;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < columns; ++col) {
      const int64_t group = (across ? row : col) / kLoraGroup;
      float& value = (*values)[static_cast<size_t>(row * columns + col)];
      const I8Value rounded =
          RoundToI8(value, largest[static_cast<size_t>(group * beside + (across ? col : row))]);
      value = static_cast<float>(rounded.level) * rounded.scale;
    }
  }
}

}  // namespace

std::vector<MixRun> MakeMix(Mix mix, int32_t rows, Random* random) {
  std::vector<MixRun> runs;
  const int32_t adapters =
      std::max(1, static_cast<int32_t>(std::sqrt(static_cast<double>(rows)) + 0.5));
  switch (mix) {
    case Mix::kDistinct:
      for (int32_t i = 0; i < rows; ++i) runs.push_back({i, 1});
      break;
    case Mix::kUniform:
      for (int32_t i = 0, left = rows; i < adapters; ++i) {
        const int32_t n = left / (adapters - i);
        runs.push_back({i, n});
        left -= n;
      }
      break;
    case Mix::kIdentical:
      runs.push_back({0, rows});
      break;
    case Mix::kZipf: {
      // Popularity of adapter i is 1 / (i + 1); every row draws one, rows are then sorted.
      std::vector<int32_t> count(static_cast<size_t>(adapters) + 1, 0);
      double total = 0.0;
      for (int32_t i = 0; i <= adapters; ++i) total += 1.0 / (i + 1);
      for (int32_t row = 0; row < rows; ++row) {
        double u = random->Uniform() * total;
        int32_t i = 0;
        while (i < adapters && u >= 1.0 / (i + 1)) u -= 1.0 / (++i);
        ++count[static_cast<size_t>(i)];
      }
      // The first is the base: most traffic wants no adapter.
      for (int32_t i = 0; i <= adapters; ++i) {
        if (count[static_cast<size_t>(i)] > 0)
          runs.push_back({i - 1, count[static_cast<size_t>(i)]});
      }
      break;
    }
    case Mix::kSkewed:
      runs.push_back({0, std::max(1, rows / 2)});
      for (int32_t left = rows - runs[0].rows, i = 1; left > 0; ++i, --left) runs.push_back({i, 1});
      break;
    case Mix::kNone:
      runs.push_back({-1, rows});
      break;
    case Mix::kEmptySegment:
      runs = {{0, 0}, {1, rows / 2}, {2, 0}, {-1, rows - rows / 2}, {3, 0}};
      break;
    case Mix::kSums:
      // One to eight adapters, with the same ones in several runs and alone beside them.
      for (int32_t left = rows, i = 0; left > 0; ++i) {
        const int32_t n = std::min(left, random->Int(1, 6));
        runs.push_back({random->Int(0, 3), n, i % 3 == 2 ? 1 : random->Int(2, 8)});
        left -= n;
      }
      break;
  }
  return runs;
}

LoraCase MakeLoraCase(const std::vector<MixRun>& runs, const std::vector<int32_t>& ranks,
                      int64_t in, int64_t out, LoraDtype dtype, Random* random) {
  LoraCase c;
  c.dtype = dtype;
  c.in = in;
  c.out = out;
  c.runs = runs;
  int32_t adapters = 0;
  for (const MixRun& run : runs) {
    adapters = std::max(adapters, run.adapter + run.sum);
    c.rows += run.rows;
  }
  for (int32_t i = 0; i < adapters; ++i) {
    const int32_t rank = ranks[static_cast<size_t>(i) % ranks.size()];
    const size_t r = static_cast<size_t>(rank);
    const size_t n = static_cast<size_t>(out);
    c.rank.push_back(rank);
    std::vector<float> wa =
        random->Normals(r * static_cast<size_t>(in), 1.0f / std::sqrt(static_cast<float>(in)));
    std::vector<float> wb =
        random->Normals(r * n, 1.0f / std::sqrt(static_cast<float>(std::max(1, rank))));
    if (dtype == LoraDtype::kBf16) {
      for (float& value : wa) value = RoundToBf16(value);
      for (float& value : wb) value = RoundToBf16(value);
    }
    // Packed first: rounded values would be rounded again to scales a hair off.
    PackLoraA(wa.data(), WeightDtype::kF32, rank, in, dtype,
              c.a.emplace_back().Reserve(LoraBytesA(dtype, rank, in)), Isa::kScalar);
    PackLoraB(wb.data(), WeightDtype::kF32, rank, out, 1.0f, dtype,
              c.b.emplace_back().Reserve(LoraBytesB(dtype, rank, out)), Isa::kScalar);
    if (dtype == LoraDtype::kI8) {
      RoundMatrixToI8(&wa, rank, in, false);
      RoundMatrixToI8(&wb, out, rank, true);
    }
    c.plain_b.emplace_back(r * n);
    for (size_t o = 0; o < n; ++o) {
      for (size_t k = 0; k < r; ++k) c.plain_b.back()[k * n + o] = wb[o * r + k];
    }
    c.plain_a.push_back(std::move(wa));
  }
  c.x_stride = in + random->Int(0, 40);
  c.y_stride = out + random->Int(0, 40);
  c.x = random->Normals(static_cast<size_t>(c.rows * c.x_stride), 1.0f);
  c.y = random->Normals(static_cast<size_t>(c.rows * c.y_stride), 1.0f);
  int32_t row = 0;
  for (const MixRun& run : runs) {
    for (int32_t id = run.adapter; id >= 0 && id < run.adapter + run.sum; ++id) {
      const size_t i = static_cast<size_t>(id);
      LoraSegment s;
      s.begin = row;
      s.end = row + run.rows;
      s.rank = c.rank[i];
      s.dtype = dtype;
      s.scale = 0.25f + static_cast<float>(id % 5) * 0.5f;
      s.a = c.a[i].data();
      s.b = c.b[i].data();
      c.segments.push_back(s);
      s.dtype = LoraDtype::kF32;
      s.a = c.plain_a[i].data();
      s.b = c.plain_b[i].data();
      c.plain_segments.push_back(s);
    }
    row += run.rows;
  }
  return c;
}

SegmentedLoraArgs LoraCase::Args(std::vector<float>* y_out, AlignedBytes* workspace) const {
  SegmentedLoraArgs args;
  args.x = x.data();
  args.x_stride = x_stride;
  args.y = y_out->data();
  args.y_stride = y_stride;
  args.rows = rows;
  args.in = in;
  args.out = out;
  args.segments = segments.data();
  args.num_segments = static_cast<int64_t>(segments.size());
  args.workspace = workspace->Reserve(SegmentedLoraWorkspace(args));
  return args;
}

std::vector<float> LoraCase::Run(const Parallel& parallel, Isa isa) const {
  std::vector<float> result = y;
  AlignedBytes workspace;
  SegmentedLora(Args(&result, &workspace), parallel, isa);
  return result;
}

std::vector<float> LoraCase::RunReference() const {
  std::vector<float> result = y;
  AlignedBytes workspace;
  SegmentedLoraArgs args = Args(&result, &workspace);
  args.segments = plain_segments.data();
  reference::SegmentedLora(args);
  return result;
}

}  // namespace loramux::test
