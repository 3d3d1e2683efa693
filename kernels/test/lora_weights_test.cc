#include <cmath>
#include <cstring>
#include <limits>

#include "loramux/cpu_features.h"
#include "test/adapter_mix.h"
#include "test/check.h"

namespace loramux::test {
namespace {

constexpr int64_t kShapes[][2] = {{1, 1},   {2, 31},  {7, 33},   {8, 64},   {15, 100},
                                  {16, 96}, {17, 47}, {33, 2},   {64, 130}, {31, 16}};

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

std::vector<uint16_t> Packed(const std::vector<float>& values, WeightDtype from, int64_t rank,
                             int64_t features, bool is_b, float scale, Isa isa) {
  const std::vector<uint8_t> stored = Stored(values, from);
  const int64_t bytes = is_b ? LoraBytesB(LoraDtype::kBf16, rank, features)
                             : LoraBytesA(LoraDtype::kBf16, rank, features);
  AlignedBytes memory;
  void* to = memory.Reserve(bytes + 64);
  const bool ok =
      is_b ? PackLoraB(stored.data() + 1, from, rank, features, scale, LoraDtype::kBf16, to, isa)
           : PackLoraA(stored.data() + 1, from, rank, features, LoraDtype::kBf16, to, isa);
  CHECK(ok);
  std::vector<uint16_t> halves(static_cast<size_t>(bytes / 2));
  std::memcpy(halves.data(), to, static_cast<size_t>(bytes));
  for (int64_t i = 0; i < 64; ++i) {
    CHECK_THAT(static_cast<const uint8_t*>(to)[bytes + i] == 0xff, "wrote past its end");
  }
  return halves;
}

// The layout, written down a second time.
std::vector<uint16_t> Expected(const std::vector<float>& values, int64_t rank, int64_t features,
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
    return to;
  }
  for (int64_t panel = 0; panel < rank; panel += 16) {
    for (int64_t i = 0; i < (features + 31) / 32 * 32; i += 2) {
      for (int64_t k = panel; k < std::min(rank, panel + 16); ++k) {
        to.push_back(at(k, i, rank, features));
        to.push_back(at(k, i + 1, rank, features));
      }
    }
  }
  return to;
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
          const std::vector<uint16_t> want = Expected(source, rank, features, is_b, scale);
          for (Isa isa : SupportedIsas()) {
            CHECK_THAT(Packed(source, from, rank, features, is_b, scale, isa) == want,
                       Format("%s %s rank %d features %d", IsaName(isa), is_b ? "B" : "A",
                              static_cast<int>(rank), static_cast<int>(features)));
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
  const std::vector<uint16_t> want = Expected(values, kRank, kIn, false, 1.0f);
  for (Isa isa : SupportedIsas()) {
    std::vector<uint16_t> got(want.size());
    CHECK(PackLoraA(stored.data(), WeightDtype::kF16, kRank, kIn, LoraDtype::kBf16, got.data(),
                    isa));
    CHECK_THAT(got == want, IsaName(isa));
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
        const bool finite = trial % 4 == 3 && dtype == LoraDtype::kF32;
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
