// Mixes of adapters in a batch, shared by tests and benchmark (after Punica's tests/test_sgmv.py).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loramux/segmented_lora.h"
#include "test/support.h"

namespace loramux::test {

enum class Mix { kDistinct, kUniform, kIdentical, kZipf, kSkewed, kNone, kEmptySegment };

constexpr Mix kAllMixes[] = {Mix::kDistinct, Mix::kUniform, Mix::kIdentical,   Mix::kZipf,
                             Mix::kSkewed,   Mix::kNone,    Mix::kEmptySegment};
const char* MixName(Mix mix);

// A run of `rows` rows under one adapter; -1 is the base (rows in no segment).
struct MixRun {
  int32_t adapter;
  int32_t rows;
};

// Runs that sum up to `rows`. Adapters are numbered from 0.
std::vector<MixRun> MakeMix(Mix mix, int32_t rows, Random* random);

// One LoRA call with its own memory. Ranks are taken from `ranks` in turn by adapter number.
struct LoraCase {
  int64_t rows = 0, in = 0, out = 0;
  std::vector<MixRun> runs;
  std::vector<std::vector<float>> a, b, bt;  // per adapter
  std::vector<int32_t> rank;                 // per adapter
  std::vector<float> x, y;
  std::vector<LoraSegment> segments;

  SegmentedLoraArgs Args(std::vector<float>* y_out, std::vector<float>* workspace) const;
  // y after the fast kernel.
  std::vector<float> Run(const Parallel& parallel, Isa isa) const;
  std::vector<float> RunReference() const;
};

// transposed: segments carry bt, else b.
LoraCase MakeLoraCase(const std::vector<MixRun>& runs, const std::vector<int32_t>& ranks,
                      int64_t in, int64_t out, bool transposed, Random* random);

}  // namespace loramux::test
