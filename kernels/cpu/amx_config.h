// Shapes of the AMX tiles, as the processor reads them. Included by files compiled for AMX alone.
#pragma once

#include <cstdint>

namespace loramux {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  inline __attribute__((always_inline)) void Set(int tile, int64_t tile_rows, int64_t bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
  inline __attribute__((always_inline)) void Load() const {
    __asm__ volatile("ldtilecfg %0" : : "m"(*this) : "memory");
  }
};
static_assert(sizeof(TileConfig) == 64, "as the processor reads it");

}  // namespace
}  // namespace loramux
