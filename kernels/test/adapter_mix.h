// Mixes of adapters in a batch, shared by tests and benchmark (after Punica's tests/test_sgmv.py).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loramux/segmented_lora.h"
#include "test/support.h"

namespace loramux::test {

enum class Mix { kDistinct, kUniform, kIdentical, kZipf, kSkewed, kNone, kEmptySegment, kSums };

constexpr Mix kAllMixes[] = {Mix::kDistinct, Mix::kUniform, Mix::kIdentical,    Mix::kZipf,
                             Mix::kSkewed,   Mix::kNone,    Mix::kEmptySegment, Mix::kSums};
const char* MixName(Mix mix);

inline constexpr LoraDtype kAllLoraDtypes[] = {LoraDtype::kF32, LoraDtype::kBf16, LoraDtype::kI8};

// Nearest bfloat16, ties to even.
float RoundToBf16(float value);

// What a value is as int8 where the largest of its group is `largest`: the level and its scale.
struct I8Value {
  int32_t level;
  float scale;
};
I8Value RoundToI8(float value, float largest);
// The largest of each int8 group by magnitude, from a matrix [rows, columns] whose columns, or with
// `across` whose rows, are grouped: [groups][rows], or [groups][columns].
std::vector<float> LargestOfGroups(const std::vector<float>& values, int64_t rows, int64_t columns,
                                   bool across);

// A run of `rows` rows under one adapter; -1 is the base (rows in no segment). With `sum` above 1
// under that many adapters, numbered from the first.
struct MixRun {
  int32_t adapter;
  int32_t rows;
  int32_t sum = 1;
};

// Runs that sum up to `rows`. Adapters are numbered from 0.
std::vector<MixRun> MakeMix(Mix mix, int32_t rows, Random* random);

// One LoRA call with its own memory. Ranks are taken from `ranks` in turn by adapter number.
struct LoraCase {
  int64_t rows = 0, in = 0, out = 0;
  LoraDtype dtype = LoraDtype::kF32;
  std::vector<MixRun> runs;
  int64_t x_stride = 0, y_stride = 0;     // wider than in and out: x and y are column slices
  std::vector<int32_t> rank;              // per adapter
  // Per adapter, as the kernel reads them.
  std::vector<AlignedBytes> a, b;
  // The same values as float32: A [rank, in], B transposed [rank, out].
  std::vector<std::vector<float>> plain_a, plain_b;
  std::vector<float> x, y;  // [rows, x_stride], [rows, y_stride]
  std::vector<LoraSegment> segments;
  std::vector<LoraSegment> plain_segments;

  SegmentedLoraArgs Args(std::vector<float>* y_out, AlignedBytes* workspace) const;
  // y after the fast kernel, with what lies between its rows.
  std::vector<float> Run(const Parallel& parallel, Isa isa) const;
  // y after the reference over the plain weights.
  std::vector<float> RunReference() const;
};

// Values of bfloat16 and int8 adapters are rounded before they are used.
LoraCase MakeLoraCase(const std::vector<MixRun>& runs, const std::vector<int32_t>& ranks,
                      int64_t in, int64_t out, LoraDtype dtype, Random* random);

}  // namespace loramux::test
