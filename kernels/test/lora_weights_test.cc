#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "loramux/cpu_features.h"
#include "test/adapter_mix.h"
#include "test/check.h"

namespace loramux::test {
namespace {

constexpr int64_t kShapes[][2] = {{1, 1},   {2, 31},  {7, 33},   {8, 64},   {15, 100}, {16, 96},
                                  {17, 47}, {33, 2},  {64, 130}, {31, 16},  {3, 1027}, {258, 2050}};

uint16_t Bf16Bits(float value) {
  uint32_t bits;
  const float rounded = RoundToBf16(value);
  std::memcpy(&bits, &rounded, sizeof(bits));
  return static_cast<uint16_t>(bits >> 16);
}

// Values as a stored tensor of 16 or 32 bits per element, one byte off any alignment.
std::vector<uint8_t> Stored(const std::vector<float>& values, WeightDtype dtype) {
  std::vector<uint8_t> bytes(1 + values.size() * WeightDtypeBytes(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = Bf16Bits(values[i]);
    if (dtype == WeightDtype::kF32) {
      std::memcpy(bytes.data() + 1 + 4 * i, &values[i], 4);
    } else {
      std::memcpy(bytes.data() + 1 + 2 * i, &half, 2);
    }
  }
  return bytes;
}

std::vector<uint8_t> Packed(const std::vector<float>& values, WeightDtype from, int64_t rank,
                            int64_t features, bool is_b, float scale, LoraDtype dtype, Isa isa) {
  const std::vector<uint8_t> stored = Stored(values, from);
  const int64_t bytes =
      is_b ? LoraBytesB(dtype, rank, features) : LoraBytesA(dtype, rank, features);
  AlignedBytes memory;
  void* to = memory.Reserve(bytes + 64);
  const bool ok =
      is_b ? PackLoraB(stored.data() + 1, from, rank, features, scale, dtype, to, isa)
           : PackLoraA(stored.data() + 1, from, rank, features, dtype, to, isa);
  CHECK(ok);
  for (int64_t i = 0; i < 64; ++i) {
    CHECK_THAT(static_cast<const uint8_t*>(to)[bytes + i] == 0xff, "wrote past its end");
  }
  const auto* packed = static_cast<const uint8_t*>(to);
  return {packed, packed + bytes};
}

template <typename T>
std::vector<uint8_t> BytesOf(const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return {bytes, bytes + values.size() * sizeof(T)};
}

// The layouts, written down a second time.
std::vector<uint8_t> ExpectedBf16(const std::vector<float>& values, int64_t rank, int64_t features,
                                  bool is_b, float scale) {
  std::vector<uint16_t> to;
  const auto at = [&](int64_t row, int64_t col, int64_t rows, int64_t cols) -> uint16_t {
    if (row >= rows || col >= cols) return 0;
    return Bf16Bits(values[static_cast<size_t>(row * cols + col)] * scale);
  };
  if (is_b) {
    for (int64_t panel = 0; panel < features; panel += 16) {
      for (int64_t k = 0; k < rank; k += 2) {
        for (int64_t o = panel; o < panel + 16; ++o) {
          to.push_back(at(o, k, features, rank));
          to.push_back(at(o, k + 1, features, rank));
        }
      }
    }
    return BytesOf(to);
  }
  for (int64_t panel = 0; panel < rank; panel += 16) {
    for (int64_t i = 0; i < (features + 31) / 32 * 32; i += 2) {
      for (int64_t k = panel; k < std::min(rank, panel + 16); ++k) {
        to.push_back(at(k, i, rank, features));
        to.push_back(at(k, i + 1, rank, features));
      }
    }
  }
  return BytesOf(to);
}

std::vector<uint8_t> ExpectedI8(std::vector<float> values, int64_t rank, int64_t features,
                                bool is_b, float scale) {
  for (float& value : values) value *= scale;
  const int64_t rows = is_b ? features : rank;
  const int64_t cols = is_b ? rank : features;
  const std::vector<float> largest = LargestOfGroups(values, rows, cols, is_b);
  std::vector<uint8_t> to;
  const auto push = [&](int64_t k, int64_t i) {
    const int64_t row = is_b ? i : k;
    const int64_t col = is_b ? k : i;
    if (row >= rows || col >= cols) return to.push_back(0);
    const float best = largest[static_cast<size_t>(i / 1024 * rank + k)];
    const float value = values[static_cast<size_t>(row * cols + col)];
    to.push_back(static_cast<uint8_t>(RoundToI8(value, best).level));
  };
  const int64_t padded_rank = is_b ? (rank + 3) / 4 * 4 : rank;
  if (is_b) {
    for (int64_t panel = 0; panel < features; panel += 16) {
      for (int64_t k = 0; k < rank; k += 4) {
        for (int64_t o = panel; o < panel + 16; ++o) {
          for (int64_t j = 0; j < 4; ++j) push(k + j, o);
        }
      }
    }
  } else {
    for (int64_t panel = 0; panel < rank; panel += 16) {
      for (int64_t i = 0; i < (features + 63) / 64 * 64; i += 4) {
        for (int64_t k = panel; k < std::min(rank, panel + 16); ++k) {
          for (int64_t j = 0; j < 4; ++j) push(k, i + j);
        }
      }
    }
  }
  std::vector<float> scales;
  for (int64_t group = 0; group < (features + 1023) / 1024; ++group) {
    for (int64_t k = 0; k < padded_rank; ++k) {
      scales.push_back(
          k < rank ? RoundToI8(0.0f, largest[static_cast<size_t>(group * rank + k)]).scale : 0.0f);
    }
  }
  const std::vector<uint8_t> bytes = BytesOf(scales);
  to.insert(to.end(), bytes.begin(), bytes.end());
  return to;
}

std::vector<uint8_t> Expected(const std::vector<float>& values, int64_t rank, int64_t features,
                              bool is_b, float scale, LoraDtype dtype) {
  return dtype == LoraDtype::kI8 ? ExpectedI8(values, rank, features, is_b, scale)
                                 : ExpectedBf16(values, rank, features, is_b, scale);
}

LORAMUX_TEST(LoraWeightsArePackedInOrder) {
  Random random(Seed());
  for (const auto& shape : kShapes) {
    const int64_t rank = shape[0];
    const int64_t features = shape[1];
    const std::vector<float> values = random.Normals(static_cast<size_t>(rank * features), 1.0f);
    for (bool is_b : {false, true}) {
      for (float scale : {1.0f, 0.7f}) {
        if (!is_b && scale != 1.0f) continue;
        for (WeightDtype from : {WeightDtype::kF32, WeightDtype::kBf16}) {
          std::vector<float> source = values;
          if (from == WeightDtype::kBf16) {
            for (float& value : source) value = RoundToBf16(value);
          }
          for (LoraDtype dtype : {LoraDtype::kBf16, LoraDtype::kI8}) {
            const auto want = Expected(source, rank, features, is_b, scale, dtype);
            for (Isa isa : SupportedIsas()) {
              CHECK_THAT(Packed(source, from, rank, features, is_b, scale, dtype, isa) == want,
                         Format("%s %s %s rank %d features %d", IsaName(isa), LoraDtypeName(dtype),
                                is_b ? "B" : "A", static_cast<int>(rank),
                                static_cast<int>(features)));
            }
          }
        }
      }
    }
  }
}

// Half floats have bits that bfloat16 has not: rounded once, to nearest even.
LORAMUX_TEST(LoraWeightsRoundHalfFloats) {
  constexpr int64_t kRank = 4, kIn = 1 << 14;
  std::vector<uint16_t> stored;
  for (uint32_t bits = 0; bits < 1u << 16; ++bits) {
    stored.push_back(static_cast<uint16_t>((bits & 0x7c00u) == 0x7c00u ? 0u : bits));
  }
  std::vector<float> values(stored.size());
  ConvertToF32(stored.data(), WeightDtype::kF16, stored.size(), values.data(), 1.0f, Isa::kScalar);
  for (LoraDtype dtype : {LoraDtype::kBf16, LoraDtype::kI8}) {
    const std::vector<uint8_t> want = Expected(values, kRank, kIn, false, 1.0f, dtype);
    for (Isa isa : SupportedIsas()) {
      std::vector<float> got(want.size() / sizeof(float));
      CHECK(PackLoraA(stored.data(), WeightDtype::kF16, kRank, kIn, dtype, got.data(), isa));
      CHECK_THAT(BytesOf(got) == want, Format("%s %s", IsaName(isa), LoraDtypeName(dtype)));
    }
  }
}

// What is lost is half a level at most, and a group of zeros stays one.
LORAMUX_TEST(LoraWeightsAsInt8AreNear) {
  Random random(Seed());
  constexpr int64_t kRank = 5, kFeatures = 1100;
  std::vector<float> values = random.Normals(static_cast<size_t>(kRank * kFeatures), 0.02f);
  std::fill(values.begin(), values.begin() + 1024, 0.0f);
  std::fill(values.begin() + kFeatures, values.begin() + kFeatures + 1024, 1e-40f);
  const std::vector<uint8_t> packed =
      Packed(values, WeightDtype::kF32, kRank, kFeatures, false, 1.0f, LoraDtype::kI8, DetectIsa());
  constexpr int64_t kLevels = kRank * 1152;
  for (int64_t k = 0; k < kRank; ++k) {
    for (int64_t i = 0; i < kFeatures; ++i) {
      float scale;
      std::memcpy(&scale, packed.data() + kLevels + (i / 1024 * kRank + k) * 4, sizeof(scale));
      const auto level =
          static_cast<int8_t>(packed[static_cast<size_t>((i / 4 * kRank + k) * 4 + i % 4)]);
      const float value = values[static_cast<size_t>(k * kFeatures + i)];
      if (k < 2 && i < 1024) {
        CHECK(level == 0 && scale == 0.0f);
      } else {
        CHECK(std::fabs(static_cast<float>(level) * scale - value) <= 0.501f * scale);
        CHECK(std::abs(level) <= 127 && scale < 0.1f / 127);
      }
    }
  }
}

LORAMUX_TEST(LoraWeightsThatAreNotFiniteAreFound) {
  Random random(Seed());
  const float bad[] = {NAN, INFINITY, -INFINITY, std::numeric_limits<float>::max()};
  for (const auto& shape : kShapes) {
    const int64_t rank = shape[0];
    const int64_t features = shape[1];
    for (LoraDtype dtype : kAllLoraDtypes) {
      std::vector<float> values = random.Normals(static_cast<size_t>(rank * features), 1.0f);
      std::vector<uint8_t> to(static_cast<size_t>(
          std::max(LoraBytesA(dtype, rank, features), LoraBytesB(dtype, rank, features))));
      for (int trial = 0; trial < 8; ++trial) {
        const size_t at = static_cast<size_t>(
            random.Int(0, static_cast<int32_t>(values.size()) - 1));
        const float good = values[at];
        values[at] = bad[trial % 4];
        // The largest float32 is finite, but no bfloat16.
        const bool finite = trial % 4 == 3 && dtype != LoraDtype::kBf16;
        for (Isa isa : SupportedIsas()) {
          CHECK_THAT(PackLoraA(values.data(), WeightDtype::kF32, rank, features, dtype, to.data(),
                               isa) == finite,
                     IsaName(isa));
          CHECK_THAT(PackLoraB(values.data(), WeightDtype::kF32, rank, features, 1.0f, dtype,
                               to.data(), isa) == finite,
                     IsaName(isa));
        }
        values[at] = good;
      }
      CHECK(PackLoraA(values.data(), WeightDtype::kF32, rank, features, dtype, to.data(),
                      Isa::kScalar));
    }
  }
}

}  // namespace
}  // namespace loramux::test
