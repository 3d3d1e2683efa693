// Packing and unpacking. Bounds: half a level of the group's scale for rounded weights, bit for bit
// for bfloat16 sources and for levels that are given.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/packed/half.h"
#include "loramux/convert.h"
#include "test/check.h"
#include "test/packed_case.h"

namespace loramux::test {
namespace {

std::vector<float> Unpack(const PackedShape& shape, const AlignedBytes& blob) {
  std::vector<float> out(static_cast<size_t>(shape.n * shape.k), NAN);
  UnpackPanels({shape, blob.data()}, 0, LayoutOf(shape).panels, out.data());
  return out;
}

bool Pack(const PackedShape& shape, const std::vector<float>& weights, AlignedBytes* blob) {
  const PackedLayout layout = LayoutOf(shape);
  *blob = AlignedBytes(layout.bytes);
  return PackPanels({weights.data(), 0}, shape, 0, layout.panels, blob->data());
}

// Largest error a level may have, in units of the group's range of weights.
double Bound(const PackedShape& shape) {
  switch (shape.format) {
    case PackedFormat::kBf16:
      return 0x1p-8;
    case PackedFormat::kInt8:
      return 0.51 / 127;
    case PackedFormat::kInt4:
      // The opposite end of a symmetric range has one level less: up to a whole level.
      return shape.zero_points ? 1.02 / 15 : 1.01 / 8;
  }
  return 0.0;
}

void CheckRoundTrip(const PackedShape& shape, const std::vector<float>& weights) {
  AlignedBytes blob;
  if (!CHECK_THAT(Pack(shape, weights, &blob), Describe(shape))) return;
  const std::vector<float> got = Unpack(shape, blob);
  const int64_t width = shape.group == 0 ? shape.k : shape.group;
  for (int64_t c = 0; c < shape.n; ++c) {
    for (int64_t begin = 0; begin < shape.k; begin += width) {
      const int64_t end = std::min(begin + width, shape.k);
      double low = 0.0, high = 0.0;
      for (int64_t i = begin; i < end; ++i) {
        low = std::min(low, static_cast<double>(weights[static_cast<size_t>(c * shape.k + i)]));
        high = std::max(high, static_cast<double>(weights[static_cast<size_t>(c * shape.k + i)]));
      }
      const double range = shape.zero_points ? high - low : std::fmax(-low, high);
      for (int64_t i = begin; i < end; ++i) {
        const size_t at = static_cast<size_t>(c * shape.k + i);
        const double want = static_cast<double>(weights[at]);
        const double error = std::fabs(static_cast<double>(got[at]) - want);
        if (!CHECK_THAT(error <= Bound(shape) * range + 0x1p-100,
                        Describe(shape) + Format(" column %d depth %d: %g for %g",
                                                 static_cast<int>(c), static_cast<int>(i),
                                                 static_cast<double>(got[at]), want))) {
          return;
        }
      }
    }
  }
}

LORAMUX_TEST(PackedRoundTripOverSizesAndScales) {
  Random random(Seed());
  const int64_t sizes[][2] = {{1, 1}, {15, 63}, {16, 64}, {17, 65}, {33, 513}, {5, 300}};
  for (const auto& size : sizes) {
    for (const PackedShape& shape : AllPackedKinds(size[0], size[1])) {
      for (float scale : {0x1p-90f, 1e-7f, 0.02f, 1.0f, 1e30f}) {
        std::vector<float> weights =
            random.Normals(static_cast<size_t>(shape.n * shape.k), scale);
        CheckRoundTrip(shape, weights);
        // One-sided groups, and groups far smaller than their neighbours.
        for (size_t i = 0; i < weights.size(); ++i) {
          weights[i] = std::fabs(weights[i]) * (i / 32 % 2 == 0 ? 1.0f : 1e-4f);
        }
        CheckRoundTrip(shape, weights);
      }
    }
  }
}

LORAMUX_TEST(PackedExtremesOfColumnsAreKept) {
  for (const PackedShape& shape : AllPackedKinds(18, 70)) {
    std::vector<float> weights(static_cast<size_t>(shape.n * shape.k), 0.0f);
    CheckRoundTrip(shape, weights);
    weights[3] = -8.0f;  // column 0: exact in every format
    weights[static_cast<size_t>(shape.k) + 69] = 0x1p-149f;
    AlignedBytes blob;
    CHECK(Pack(shape, weights, &blob));
    const std::vector<float> got = Unpack(shape, blob);
    CHECK_THAT(std::fabs(got[3] + 8.0f) <= 8.0f * 0x1p-10f, Describe(shape));
    CHECK_THAT(std::fabs(got[static_cast<size_t>(shape.k) + 69]) <= 0x1p-100f, Describe(shape));
    for (size_t i = 0; i < got.size(); ++i) CHECK(weights[i] != 0.0f || got[i] == 0.0f);
  }
}

LORAMUX_TEST(PackedKeepsBf16SourcesBitForBit) {
  Random random(Seed());
  const PackedShape shape = {PackedFormat::kBf16, 19, 131, 0, false};
  std::vector<uint16_t> source(static_cast<size_t>(shape.n * shape.k));
  for (uint16_t& half : source) {
    do {
      half = static_cast<uint16_t>(random.Next());
    } while ((half & 0x7f80u) == 0x7f80u);
  }
  AlignedBytes blob(LayoutOf(shape).bytes);
  CHECK(PackPanels({source.data(), static_cast<int32_t>(WeightDtype::kBf16)}, shape, 0,
                   LayoutOf(shape).panels, blob.data()));
  const std::vector<float> got = Unpack(shape, blob);
  for (size_t i = 0; i < got.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &got[i], sizeof(bits));
    CHECK(bits == static_cast<uint32_t>(source[i]) << 16);
  }
}

LORAMUX_TEST(PackedHalfSourcesAreRead) {
  Random random(Seed());
  for (const PackedShape& shape : AllPackedKinds(17, 96)) {
    std::vector<uint16_t> halves;
    std::vector<float> floats;
    for (float w : random.Normals(static_cast<size_t>(shape.n * shape.k), 0.1f)) {
      halves.push_back(HalfFromFloat(w));
      floats.push_back(FloatFromHalf(halves.back()));
    }
    AlignedBytes from_halves(LayoutOf(shape).bytes), from_floats;
    CHECK(PackPanels({halves.data(), static_cast<int32_t>(WeightDtype::kF16)}, shape, 0,
                     LayoutOf(shape).panels, from_halves.data()));
    CHECK(Pack(shape, floats, &from_floats));
    CHECK_THAT(std::memcmp(from_halves.data(), from_floats.data(),
                           static_cast<size_t>(from_floats.bytes())) == 0,
               Describe(shape));
  }
}

LORAMUX_TEST(PackedRefusesWeightsThatAreNotFinite) {
  for (const PackedShape& shape : AllPackedKinds(33, 70)) {
    for (float bad : {NAN, INFINITY, -INFINITY}) {
      std::vector<float> weights(static_cast<size_t>(shape.n * shape.k), 0.5f);
      weights[static_cast<size_t>(20 * shape.k + 69)] = bad;
      AlignedBytes blob(LayoutOf(shape).bytes);
      CHECK(PackPanels({weights.data(), 0}, shape, 0, 1, blob.data()));
      CHECK(!PackPanels({weights.data(), 0}, shape, 1, 2, blob.data()));
    }
  }
  // Finite, but not in bfloat16.
  const PackedShape shape = {PackedFormat::kBf16, 1, 1, 0, false};
  AlignedBytes blob(LayoutOf(shape).bytes);
  const float huge = 3.4028235e38f;
  CHECK(!PackPanels({&huge, 0}, shape, 0, 1, blob.data()));
}

LORAMUX_TEST(PackedInt8NeverStoresMinus128) {
  Random random(Seed());
  for (int round = 0; round < 200; ++round) {
    const PackedShape shape = {PackedFormat::kInt8, 16, 64, round % 2 == 0 ? 0 : 32, false};
    std::vector<float> weights(static_cast<size_t>(shape.n * shape.k));
    for (float& w : weights) {
      uint32_t bits = static_cast<uint32_t>(random.Next());
      if ((bits & 0x7f800000u) == 0x7f800000u) bits &= ~0x800000u;
      std::memcpy(&w, &bits, sizeof(w));
    }
    AlignedBytes blob;
    CHECK(Pack(shape, weights, &blob));
    for (int64_t i = 0; i < LayoutOf(shape).panel_bytes; ++i) CHECK(blob.data()[i] != 0x80);
    for (float w : Unpack(shape, blob)) CHECK(std::isfinite(w));
  }
}

// Every float16 scale, subnormal ones too, next to every zero up to 16.
LORAMUX_TEST(PackedLevelsOfOtherToolsStayExact) {
  Random random(Seed());
  for (const PackedShape& shape : AllPackedKinds(37, 1000)) {
    if (shape.format == PackedFormat::kBf16) continue;
    const bool int8 = shape.format == PackedFormat::kInt8;
    const int64_t width = shape.group == 0 ? shape.k : shape.group;
    const int64_t groups = (shape.k + width - 1) / width;
    std::vector<uint8_t> levels(static_cast<size_t>(shape.n * shape.k));
    std::vector<uint8_t> zeros(static_cast<size_t>(shape.n * groups), int8 ? 128 : 8);
    std::vector<float> scales(zeros.size());
    for (uint8_t& l : levels) {
      l = static_cast<uint8_t>(int8 ? random.Int(1, 255) : random.Int(0, 15));
    }
    for (float& s : scales) s = FloatFromHalf(static_cast<uint16_t>(random.Int(0, 0x7bff)));
    scales[0] = kLargestHalf;
    if (shape.zero_points) {
      for (uint8_t& z : zeros) z = static_cast<uint8_t>(random.Int(0, 16));
      zeros[0] = 16;
    }
    AlignedBytes blob(LayoutOf(shape).bytes);
    const PackLevelsSource source = {levels.data(), scales.data(), zeros.data()};
    if (!CHECK_THAT(PackLevels(source, shape, 0, LayoutOf(shape).panels, blob.data()),
                    Describe(shape))) {
      continue;
    }
    const std::vector<float> got = Unpack(shape, blob);
    size_t wrong = 0;
    for (int64_t c = 0; c < shape.n; ++c) {
      for (int64_t i = 0; i < shape.k; ++i) {
        const size_t at = static_cast<size_t>(c * shape.k + i);
        const size_t group = static_cast<size_t>(c * groups + i / width);
        const float want = static_cast<float>(levels[at] - zeros[group]) * scales[group];
        if (got[at] != want) ++wrong;
      }
    }
    CHECK_THAT(wrong == 0, Describe(shape) + Format(" %zu weights differ", wrong));
  }
}

LORAMUX_TEST(PackedLevelsThatDoNotFitAreRefused) {
  const PackedShape plain = {PackedFormat::kInt4, 1, 32, 32, false};
  const PackedShape zeroed = {PackedFormat::kInt4, 1, 32, 32, true};
  const PackedShape int8 = {PackedFormat::kInt8, 1, 32, 32, false};
  const auto pack = [](const PackedShape& shape, uint8_t level, float scale, int zero) {
    std::vector<uint8_t> levels(32, 8);
    if (shape.format == PackedFormat::kInt8) levels.assign(32, 128);
    levels[31] = level;
    const uint8_t zero_byte = static_cast<uint8_t>(zero);
    AlignedBytes blob(LayoutOf(shape).bytes);
    return PackLevels({levels.data(), &scale, zero < 0 ? nullptr : &zero_byte}, shape, 0, 1,
                      blob.data());
  };
  CHECK(pack(plain, 15, 1.0f, -1));
  CHECK(!pack(plain, 16, 1.0f, -1));
  CHECK(pack(plain, 15, 1.0f, 8));
  CHECK(!pack(plain, 15, 1.0f, 7));
  CHECK(!pack(plain, 15, NAN, -1));
  CHECK(!pack(plain, 15, INFINITY, -1));
  CHECK(pack(zeroed, 15, 1.0f, 16));
  CHECK(!pack(zeroed, 15, 1.0f, 17));
  CHECK(pack(int8, 1, 1.0f, -1));
  CHECK(!pack(int8, 0, 1.0f, -1));
  CHECK(pack(int8, 255, 1.0f, 128));
  CHECK(!pack(int8, 255, 1.0f, 127));
}

LORAMUX_TEST(PackedScalesThatNoPackerWritesAreFound) {
  Random random(Seed());
  for (const PackedShape& shape : AllPackedKinds(33, 513)) {
    AlignedBytes blob;
    CHECK(Pack(shape, random.Normals(static_cast<size_t>(shape.n * shape.k), 0.02f), &blob));
    const PackedWeight weight{shape, blob.data()};
    CHECK_THAT(HasUsableScales(weight), Describe(shape));
    const PackedLayout layout = LayoutOf(shape);
    // `bytes` at `at` make the blob one to be refused; put back afterwards.
    const auto refused = [&](int64_t at, const void* bytes, size_t size) {
      uint8_t before[sizeof(float)];
      std::memcpy(before, blob.data() + at, size);
      std::memcpy(blob.data() + at, bytes, size);
      CHECK_THAT(!HasUsableScales(weight),
                 Describe(shape) + Format(" at %d", static_cast<int>(at)));
      std::memcpy(blob.data() + at, before, size);
    };
    if (shape.format != PackedFormat::kBf16) {
      for (const float scale : {NAN, INFINITY, -INFINITY}) {
        refused(layout.column_scale + 4 * 32, &scale, sizeof(scale));
      }
    }
    if (shape.group > 0) {
      const int64_t last = layout.panels * layout.groups * kPanelColumns - 1;
      for (const uint16_t half : {0x7c00, 0xfc00, 0x7e01}) {
        refused(layout.scales + 2 * last, &half, sizeof(half));
      }
      const uint8_t beyond[] = {17, 0xff};
      for (const uint8_t& zero : beyond) {
        if (shape.zero_points) refused(layout.zeros + last, &zero, 1);
      }
    }
    CHECK(HasUsableScales(weight));
  }
}

LORAMUX_TEST(PackedShapesAreChecked) {
  CHECK(IsValid({PackedFormat::kInt4, 1, 1, 32, true}));
  CHECK(IsValid({PackedFormat::kInt8, kMaxPackedFeatures, kMaxPackedFeatures, 768, false}));
  CHECK(!IsValid({PackedFormat::kInt8, kMaxPackedFeatures + 1, 64, 0, false}));
  CHECK(!IsValid({PackedFormat::kInt8, 0, 64, 0, false}));
  CHECK(!IsValid({PackedFormat::kInt8, 16, -1, 0, false}));
  CHECK(!IsValid({PackedFormat::kInt8, 16, 64, 48, false}));
  CHECK(!IsValid({PackedFormat::kInt8, 16, 64, -32, false}));
  CHECK(!IsValid({PackedFormat::kInt8, 16, 64, 32, true}));
  CHECK(!IsValid({PackedFormat::kInt4, 16, 64, 0, true}));
  CHECK(!IsValid({PackedFormat::kBf16, 16, 64, 32, false}));
  CHECK(!IsValid({static_cast<PackedFormat>(3), 16, 64, 0, false}));
  const PackedShape wide = {PackedFormat::kInt8, 16, 64, 768, false};
  CHECK(IsValidActivationGroup(wide, 256) && !IsValidActivationGroup(wide, 512));
  CHECK(!IsValidActivationGroup(wide, 1024) && !IsValidActivationGroup(wide, 0));
  CHECK(!IsValidActivationGroup(wide, 32));
  CHECK(InnerGroup(wide, 256) == 256);
  for (const PackedShape& shape : AllPackedKinds(17, 65)) {
    const PackedLayout layout = LayoutOf(shape);
    CHECK(IsValid(shape) && layout.panels == 2 && layout.padded_k == 128);
    CHECK(layout.bytes % 64 == 0 && layout.scales % 64 == 0 && layout.zeros % 64 == 0);
  }
}

LORAMUX_TEST(HalfFloatsConvertBothWays) {
  for (uint32_t half = 0; half < 0x10000u; ++half) {
    const float value = FloatFromHalf(static_cast<uint16_t>(half));
    if ((half & 0x7c00u) == 0x7c00u && (half & 0x3ffu) != 0) {
      CHECK(std::isnan(value));
    } else {
      CHECK(HalfFromFloat(value) == half);
    }
  }
  CHECK(HalfFromFloat(65519.0f) == 0x7bff && HalfFromFloat(65520.0f) == 0x7c00);
  CHECK(HalfFromFloat(1.0f + 0x1p-11f) == 0x3c00 && HalfFromFloat(1.0f + 0x1.8p-10f) == 0x3c02);
}

}  // namespace
}  // namespace loramux::test
