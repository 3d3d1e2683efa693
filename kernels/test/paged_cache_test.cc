// What attention leaves in its cache, and the table of rotations that it reads.
#include <cmath>
#include <cstring>

#include "loramux/cpu_features.h"
#include "loramux/paged_attention.h"
#include "test/check.h"
#include "test/paged_case.h"

namespace loramux::test {
namespace {

constexpr KvDtype kDtypes[] = {KvDtype::kF32, KvDtype::kBf16, KvDtype::kI8};

LORAMUX_TEST(AttentionCacheHoldsNearestLevels) {
  AttentionShape shape;
  shape.kv_dtype = KvDtype::kI8;
  shape.rotary_dim = 0;
  shape.num_heads = shape.num_kv_heads = 1;
  shape.head_size = 6;
  for (Isa isa : AttentionIsas()) {
    Random random(Seed() + 13);
    PagedCase c(shape, {3}, &random);
    SequenceData& s = c.sequence(0);
    const float in[] = {-254.0f, 1.0f, 3.0f, 253.0f, 0.9f, -1.1f,  // scale 2, ties to even
                        0.0f,    0.0f, 0.0f, 0.0f,   0.0f, 0.0f,   //
                        1.0f,    2.0f, NAN,  3.0f,   4.0f, 5.0f};
    const int8_t want[] = {-127, 0, 2, 126, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    for (size_t i = 0; i < 18; ++i) s.v[i] = in[i];
    c.Step({{0, 0, 3}}, Parallel{}, &isa);
    const uint8_t* head = c.v_cache().data() + static_cast<size_t>(s.blocks[0] * c.BlockBytes());
    for (size_t i = 0; i < 18; ++i) {
      CHECK_THAT(static_cast<int8_t>(head[i]) == want[i],
                 Format("%s %zu: %d", IsaName(isa), i, static_cast<int8_t>(head[i])));
    }
    float scales[3];
    std::memcpy(scales, head + KvScaleOffset(shape.kv_dtype, shape.block_size, 6), 12);
    CHECK(scales[0] == 2.0f && scales[1] == 0.0f && std::isnan(scales[2]));
  }
}

// In quads a group of 16 tokens is an operand: keys [head / 4][16][4], values [4][head][4].
LORAMUX_TEST(AttentionCacheLiesInQuads) {
  AttentionShape shape;
  shape.kv_dtype = KvDtype::kI8;
  shape.rotary_dim = 0;
  shape.num_heads = shape.num_kv_heads = 1;
  shape.head_size = 36;
  shape.block_size = 32;
  CHECK(KvInQuads(shape.kv_dtype, shape.block_size, shape.head_size));
  CHECK(!KvInQuads(shape.kv_dtype, 8, 36) && !KvInQuads(shape.kv_dtype, 16, 34));
  CHECK(!KvInQuads(KvDtype::kBf16, 16, 36));
  const size_t d = 36;
  for (Isa isa : AttentionIsas()) {
    Random random(Seed() + 14);
    PagedCase c(shape, {32}, &random);
    SequenceData& s = c.sequence(0);
    for (size_t t = 0; t < 32; ++t) {
      for (size_t i = 0; i < d; ++i) {
        s.k[t * d + i] = static_cast<float>((t * 7 + i * 3) % 127);
        s.v[t * d + i] = -static_cast<float>((t * 5 + i) % 127);
      }
      s.k[t * d] = s.v[t * d] = 127.0f;  // scale 1
    }
    c.Step({{0, 0, 32}}, Parallel{}, &isa);
    const size_t at = static_cast<size_t>(s.blocks[0] * c.BlockBytes());
    int wrong = 0;
    for (size_t t = 0; t < 32; ++t) {
      for (size_t i = 0; i < d; ++i) {
        const size_t group = t / 16 * 16 * d;
        const size_t k = group + i / 4 * 64 + t % 16 * 4 + i % 4;
        const size_t v = group + t % 16 / 4 * 4 * d + i * 4 + t % 4;
        wrong += static_cast<int8_t>(c.k_cache()[at + k]) != static_cast<int>(s.k[t * d + i]);
        wrong += static_cast<int8_t>(c.v_cache()[at + v]) != static_cast<int>(s.v[t * d + i]);
      }
    }
    CHECK_THAT(wrong == 0, Format("%s: %d", IsaName(isa), wrong));
  }
}

LORAMUX_TEST(AttentionCacheHoldsNearestBf16) {
  AttentionShape shape;
  shape.kv_dtype = KvDtype::kBf16;
  shape.rotary_dim = 0;
  shape.num_heads = shape.num_kv_heads = 1;
  shape.head_size = 32;
  for (Isa isa : AttentionIsas()) {
    Random random(Seed() + 9);
    PagedCase c(shape, {1}, &random);
    SequenceData& s = c.sequence(0);
    // Ties go to the even neighbour; the largest float rounds to infinity.
    const float in[] = {1.00390625f,   1.01171875f, 1.00390637f, -1.00390625f,
                        3.4028235e38f, 1e-40f,      -0.0f};
    const uint16_t want[] = {0x3f80, 0x3f82, 0x3f81, 0xbf80, 0x7f80, 0x0001, 0x8000};
    for (size_t i = 0; i < 7; ++i) s.v[i] = in[i];
    c.Step({{0, 0, 1}}, Parallel{}, &isa);
    for (size_t i = 0; i < 7; ++i) {
      uint16_t got;
      std::memcpy(
          &got, c.v_cache().data() + static_cast<size_t>(s.blocks[0] * c.BlockBytes()) + 2 * i, 2);
      CHECK_THAT(got == want[i], Format("%s %zu: %04x", IsaName(isa), i, got));
    }
  }
}

LORAMUX_TEST(CopyKvBlocksCopiesBothHalves) {
  for (KvDtype dtype : kDtypes) {
    AttentionShape shape;
    shape.kv_dtype = dtype;
    Random random(Seed() + 10);
    PagedCase c(shape, {64}, &random);
    for (uint8_t& byte : c.k_cache()) byte = static_cast<uint8_t>(random.Next());
    for (uint8_t& byte : c.v_cache()) byte = static_cast<uint8_t>(random.Next());
    const std::vector<uint8_t> k = c.k_cache();
    const std::vector<uint8_t> v = c.v_cache();
    const int32_t pairs[] = {0, 3, 2, 2, 3, 5};  // in order: block 5 becomes the old block 0
    CopyKvBlocks(c.k_cache().data(), c.v_cache().data(), dtype, shape.block_size,
                 shape.num_kv_heads, shape.head_size, pairs, 3);
    const size_t bytes = static_cast<size_t>(c.BlockBytes());
    const size_t source[] = {0, 1, 2, 0, 4, 0, 6};
    for (size_t b = 0; b < 7; ++b) {
      CHECK(std::memcmp(c.k_cache().data() + b * bytes, k.data() + source[b] * bytes, bytes) == 0);
      CHECK(std::memcmp(c.v_cache().data() + b * bytes, v.data() + source[b] * bytes, bytes) == 0);
    }
  }
}

LORAMUX_TEST(RopeTableRotatesByPosition) {
  const std::vector<float> inv_freq = {1.0f, 0.1f, 0.001f};
  const std::vector<int32_t> positions = {0, 1, 7, 4095, 131071};
  RopeConfig config;
  config.inv_freq = inv_freq.data();
  config.rotary_dim = 6;
  config.attention_scaling = 1.25f;
  std::vector<float> table(30);
  RopeTable(config, positions.data(), nullptr, 5, table.data());
  for (size_t t = 0; t < 5; ++t) {
    for (size_t i = 0; i < 3; ++i) {
      const double angle = static_cast<double>(static_cast<float>(positions[t]) * inv_freq[i]);
      CHECK(std::fabs(static_cast<double>(table[t * 6 + i]) - 1.25 * std::cos(angle)) < 2e-7);
      CHECK(std::fabs(static_cast<double>(table[t * 6 + 3 + i]) - 1.25 * std::sin(angle)) < 2e-7);
    }
  }
}

LORAMUX_TEST(RopeTableDynamicScalingStartsPastTheLimit) {
  const int32_t d = 8;
  std::vector<float> inv_freq;
  for (int32_t i = 0; i < d / 2; ++i) {
    inv_freq.push_back(1.0f /
                       std::pow(10000.0f, static_cast<float>(2 * i) / static_cast<float>(d)));
  }
  RopeConfig config;
  config.inv_freq = inv_freq.data();
  config.rotary_dim = d;
  config.dynamic_base = 10000.0;
  config.dynamic_factor = 2.0;
  config.dynamic_max_positions = 64;
  const std::vector<int32_t> positions = {63, 63, 63, 63};
  const std::vector<int32_t> lengths = {64, 65, 200, 64};
  std::vector<float> table(4 * 8);
  RopeTable(config, positions.data(), lengths.data(), 4, table.data());
  for (size_t t = 0; t < 4; ++t) {
    double base = 10000.0;
    if (lengths[t] > 64) base *= std::pow(2.0 * lengths[t] / 64.0 - 1.0, 8.0 / 6.0);
    for (size_t i = 0; i < 4; ++i) {
      const double angle = 63.0 / std::pow(base, static_cast<double>(i) / 4.0);
      CHECK_THAT(std::fabs(static_cast<double>(table[t * 8 + i]) - std::cos(angle)) < 2e-5,
                 Format("token %zu pair %zu", t, i));
    }
  }
}

}  // namespace
}  // namespace loramux::test
