// Weight conversion, vector exp, and what the processor offers.
#include "loramux/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/kernel_table.h"
#include "loramux/cpu_features.h"
#include "test/check.h"

namespace loramux::test {
namespace {

uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// The value of a half by its definition.
double HalfValue(uint16_t h) {
  const double sign = (h & 0x8000) != 0 ? -1.0 : 1.0;
  const int exponent = (h >> 10) & 31;
  const int mantissa = h & 1023;
  if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

LORAMUX_TEST(ConvertIsExactForEveryHalf) {
  std::vector<uint8_t> bytes(2 * 65536 + 1);
  uint8_t* unaligned = bytes.data() + 1;
  for (uint32_t h = 0; h < 65536; ++h) {
    const uint16_t half = static_cast<uint16_t>(h);
    std::memcpy(unaligned + 2 * h, &half, 2);
  }
  std::vector<float> out(65536);
  for (Isa isa : SupportedIsas()) {
    ConvertToF32(unaligned, WeightDtype::kF16, 65536, out.data(), 1.0f, isa);
    for (uint32_t h = 0; h < 65536; ++h) {
      const double want = HalfValue(static_cast<uint16_t>(h));
      const bool ok =
          std::isnan(want) ? std::isnan(out[h]) : Bits(out[h]) == Bits(static_cast<float>(want));
      CHECK_THAT(ok, Format("%s f16 %04x gives %g", IsaName(isa), h, static_cast<double>(out[h])));
    }
    ConvertToF32(unaligned, WeightDtype::kBf16, 65536, out.data(), 1.0f, isa);
    for (uint32_t h = 0; h < 65536; ++h) {
      float want;
      const uint32_t bits = h << 16;
      std::memcpy(&want, &bits, 4);
      const bool ok = std::isnan(want) ? std::isnan(out[h]) : Bits(out[h]) == bits;
      CHECK_THAT(ok, Format("%s bf16 %04x", IsaName(isa), h));
    }
  }
}

LORAMUX_TEST(ConvertHandlesEveryLengthAndScale) {
  Random random(Seed());
  const std::vector<float> src = random.Normals(100, 3.0f);
  for (Isa isa : SupportedIsas()) {
    for (size_t count = 0; count <= 70; ++count) {
      std::vector<float> out(count + 1, 123.0f);
      ConvertToF32(src.data(), WeightDtype::kF32, count, out.data(), 0.75f, isa);
      for (size_t i = 0; i < count; ++i) CHECK(Bits(out[i]) == Bits(src[i] * 0.75f));
      CHECK_THAT(out[count] == 123.0f, Format("%s wrote past %zu", IsaName(isa), count));
    }
  }
}

LORAMUX_TEST(ConvertTransposedEqualsConvertThenTranspose) {
  Random random(Seed());
  for (WeightDtype dtype : {WeightDtype::kF32, WeightDtype::kF16, WeightDtype::kBf16}) {
    for (const auto& [rows, cols] : {std::pair{1, 1}, {37, 5}, {64, 16}, {130, 33}, {7, 256}}) {
      const size_t n = static_cast<size_t>(rows * cols);
      std::vector<uint8_t> src(n * WeightDtypeBytes(dtype));
      for (uint8_t& byte : src) byte = static_cast<uint8_t>(random.Next());
      if (dtype == WeightDtype::kF32)
        std::memcpy(src.data(), random.Normals(n, 1.0f).data(), n * 4);
      for (Isa isa : SupportedIsas()) {
        std::vector<float> plain(n);
        std::vector<float> transposed(n + 1, 7.0f);
        ConvertToF32(src.data(), dtype, n, plain.data(), 1.5f, isa);
        ConvertTransposedToF32(src.data(), dtype, rows, cols, transposed.data(), 1.5f, isa);
        for (int r = 0; r < rows; ++r) {
          for (int c = 0; c < cols; ++c) {
            const float a = plain[static_cast<size_t>(r * cols + c)];
            const float b = transposed[static_cast<size_t>(c * rows + r)];
            CHECK(Bits(a) == Bits(b) || (std::isnan(a) && std::isnan(b)));
          }
        }
        CHECK(transposed[n] == 7.0f);
      }
    }
  }
}

LORAMUX_TEST(AllFiniteFindsOneBadValueAnywhere) {
  for (Isa isa : SupportedIsas()) {
    std::vector<float> v(67, 3.4e38f);
    CHECK(AllFinite(v.data(), v.size(), isa));
    CHECK(AllFinite(v.data(), 0, isa));
    for (size_t i = 0; i < v.size(); ++i) {
      for (float bad : {NAN, INFINITY, -INFINITY}) {
        v[i] = bad;
        CHECK_THAT(!AllFinite(v.data(), v.size(), isa), Format("%s at %zu", IsaName(isa), i));
        CHECK(AllFinite(v.data(), i, isa));
      }
      v[i] = -0.0f;
    }
  }
}

// Every 61st float of [-87.3, -0]: relative error at most 1.2e-7 (two ulp at worst).
LORAMUX_TEST(ExpIsAccurate) {
  std::vector<float> x;
  for (uint32_t bits = Bits(-0.0f); bits <= Bits(-87.3f); bits += 61) {
    float v;
    std::memcpy(&v, &bits, 4);
    x.push_back(v);
  }
  std::vector<double> want(x.size());
  for (size_t i = 0; i < x.size(); ++i) want[i] = std::exp(static_cast<double>(x[i]));
  std::vector<float> got(x.size());
  for (Isa isa : SupportedIsas()) {
    KernelsFor(isa).exp_non_positive(x.data(), static_cast<int64_t>(x.size()), got.data());
    double worst = 0.0;
    for (size_t i = 0; i < x.size(); ++i) {
      worst = std::max(worst, std::fabs(static_cast<double>(got[i]) - want[i]) / want[i]);
    }
    CHECK_THAT(worst <= 1.2e-7, Format("%s relative error %g", IsaName(isa), worst));
    const float edges[] = {0.0f, -0.0f, -87.31f, -100.0f, -INFINITY, NAN, -1e30f};
    float out[7];
    KernelsFor(isa).exp_non_positive(edges, 7, out);
    CHECK(out[0] == 1.0f && out[1] == 1.0f);
    CHECK(out[2] == 0.0f && out[3] == 0.0f && out[4] == 0.0f && out[6] == 0.0f);
    CHECK(std::isnan(out[5]));
    // NaN of every payload in the low bits, of either sign.
    for (uint32_t bits = 0; bits < 1024; ++bits) {
      const uint32_t pattern = (bits % 2 << 31) | 0x7fc00000u | bits / 2;
      float nan;
      std::memcpy(&nan, &pattern, 4);
      float result = 0.0f;
      KernelsFor(isa).exp_non_positive(&nan, 1, &result);
      CHECK_THAT(std::isnan(result), Format("%s of NaN %08x is %g", IsaName(isa), pattern, result));
    }
  }
}

// The sampler's double weights: the same bits on every instruction set.
LORAMUX_TEST(SamplerWeightsAreTheSameBitsEverywhere) {
  Random random(Seed());
  std::vector<float> logits = random.Normals(100003, 8.0f);
  logits[5] = -INFINITY;
  const float max = *std::max_element(logits.begin(), logits.end());
  std::vector<double> first(logits.size());
  KernelsFor(Isa::kScalar)
      .weights(logits.data(), static_cast<int64_t>(logits.size()), max, 1.25, first.data());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double want =
        std::exp((static_cast<double>(logits[i]) - static_cast<double>(max)) * 1.25);
    CHECK(std::fabs(first[i] - want) <= 1e-14 * want);
  }
  for (Isa isa : SupportedIsas()) {
    std::vector<double> got(logits.size());
    KernelsFor(isa).weights(logits.data(), static_cast<int64_t>(logits.size()), max, 1.25,
                            got.data());
    CHECK_THAT(std::memcmp(got.data(), first.data(), got.size() * sizeof(double)) == 0,
               IsaName(isa));
  }
}

LORAMUX_TEST(ProcessorFeaturesAreConsistent) {
  const std::vector<Isa> isas = SupportedIsas();
  CHECK(isas.front() == Isa::kScalar);
  CHECK(isas.back() == DetectIsa());
  const std::vector<std::string> features = CpuFeatures();
  const auto has = [&](const char* name) {
    return std::find(features.begin(), features.end(), name) != features.end();
  };
  const bool wide = std::find(isas.begin(), isas.end(), Isa::kAvx512) != isas.end();
  CHECK(!wide || (has("avx512f") && has("avx512bw") && has("avx512vl") && has("avx512dq")));
  const bool avx2 = std::find(isas.begin(), isas.end(), Isa::kAvx2) != isas.end();
  CHECK(!avx2 || (has("avx2") && has("fma") && has("f16c")));
  const bool neon = std::find(isas.begin(), isas.end(), Isa::kNeon) != isas.end();
  CHECK(neon == has("neon"));
  const bool dotprod = std::find(isas.begin(), isas.end(), Isa::kNeonDotprod) != isas.end();
  CHECK(dotprod == has("dotprod"));
  std::string joined;
  for (const std::string& f : features) joined += " " + f;
  std::printf("    processor:%s; kernels up to %s\n", joined.c_str(), IsaName(DetectIsa()));
}

}  // namespace
}  // namespace loramux::test
