#include "loramux/segmented_lora.h"

#include <vector>

namespace loramux::reference {

void SegmentedLora(const SegmentedLoraArgs& args) {
  for (int64_t i = 0; i < args.num_segments; ++i) {
    const LoraSegment& s = args.segments[i];
    if (s.rank == 0) continue;
    const float* a = static_cast<const float*>(s.a);
    const float* b = static_cast<const float*>(s.b);
    std::vector<double> h(static_cast<size_t>(s.rank));
    for (int64_t row = s.begin; row < s.end; ++row) {
      const float* x = args.x + row * args.x_stride;
      float* y = args.y + row * args.y_stride;
      for (int64_t k = 0; k < s.rank; ++k) {
        double sum = 0.0;
        for (int64_t j = 0; j < args.in; ++j) {
          sum += static_cast<double>(x[j]) * static_cast<double>(a[k * args.in + j]);
        }
        h[static_cast<size_t>(k)] = sum;
      }
      for (int64_t o = 0; o < args.out; ++o) {
        double sum = 0.0;
        for (int64_t k = 0; k < s.rank; ++k) {
          sum += h[static_cast<size_t>(k)] * static_cast<double>(b[k * args.out + o]);
        }
        y[o] = static_cast<float>(static_cast<double>(y[o]) + static_cast<double>(s.scale) * sum);
      }
    }
  }
}

}  // namespace loramux::reference
