#include "loramux/segmented_lora.h"

#include <cstring>
#include <vector>

namespace loramux::reference {
namespace {

double Bf16At(const void* weights, int64_t index) {
  uint16_t half;
  std::memcpy(&half, static_cast<const uint16_t*>(weights) + index, sizeof(half));
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return static_cast<double>(value);
}

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Level `index` times scale `scale` of those that follow `levels` levels.
double I8At(const void* weights, int64_t index, int64_t levels, int64_t scale) {
  const int8_t* bytes = static_cast<const int8_t*>(weights);
  float factor;
  std::memcpy(&factor, bytes + levels + scale * static_cast<int64_t>(sizeof(float)),
              sizeof(factor));
  return static_cast<double>(bytes[index]) * static_cast<double>(factor);
}

// A[k, i] and B[o, k], see lora_weights.h.
double WeightA(const LoraSegment& s, int64_t in, int64_t k, int64_t i) {
  if (s.dtype == LoraDtype::kF32) {
    return static_cast<double>(static_cast<const float*>(s.a)[k * in + i]);
  }
  const int64_t first = k / kLoraPanel * kLoraPanel;
  const int64_t width = s.rank - first < kLoraPanel ? s.rank - first : kLoraPanel;
  if (s.dtype == LoraDtype::kI8) {
    const int64_t padded_in = RoundUp(in, kLoraInputMultipleI8);
    return I8At(s.a, first * padded_in + (i / 4 * width + k - first) * 4 + i % 4,
                s.rank * padded_in, i / kLoraGroup * s.rank + k);
  }
  const int64_t padded_in = RoundUp(in, kLoraInputMultiple);
  return Bf16At(s.a, first * padded_in + (i / 2 * width + k - first) * 2 + i % 2);
}

double WeightB(const LoraSegment& s, int64_t out, int64_t k, int64_t o) {
  if (s.dtype == LoraDtype::kF32) {
    return static_cast<double>(static_cast<const float*>(s.b)[k * out + o]);
  }
  const int64_t panel = o / kLoraPanel;
  if (s.dtype == LoraDtype::kI8) {
    const int64_t padded_rank = RoundUp(s.rank, kLoraRankMultipleI8);
    return I8At(s.b,
                ((panel * (padded_rank / 4) + k / 4) * kLoraPanel + o % kLoraPanel) * 4 + k % 4,
                padded_rank * RoundUp(out, kLoraPanel), o / kLoraGroup * padded_rank + k);
  }
  const int64_t pairs = (s.rank + 1) / 2;
  return Bf16At(s.b, ((panel * pairs + k / 2) * kLoraPanel + o % kLoraPanel) * 2 + k % 2);
}

// delta += scale * B (A x)
void AddDelta(const SegmentedLoraArgs& args, const LoraSegment& s, const float* x, double* delta) {
  std::vector<double> h(static_cast<size_t>(s.rank));
  for (int64_t k = 0; k < s.rank; ++k) {
    double sum = 0.0;
    for (int64_t j = 0; j < args.in; ++j) {
      sum += static_cast<double>(x[j]) * WeightA(s, args.in, k, j);
    }
    h[static_cast<size_t>(k)] = sum;
  }
  for (int64_t o = 0; o < args.out; ++o) {
    double sum = 0.0;
    for (int64_t k = 0; k < s.rank; ++k) {
      sum += h[static_cast<size_t>(k)] * WeightB(s, args.out, k, o);
    }
    delta[o] += static_cast<double>(s.scale) * sum;
  }
}

}  // namespace

void SegmentedLora(const SegmentedLoraArgs& args) {
  std::vector<double> delta(static_cast<size_t>(args.out));
  int64_t next = 0;
  for (int64_t first = 0; first < args.num_segments; first = next) {
    const LoraSegment& s = args.segments[first];
    // Those that follow with the same rows, and the largest rank among them.
    int32_t rank = 0;
    for (next = first; next < args.num_segments; ++next) {
      const LoraSegment& other = args.segments[next];
      if (other.begin != s.begin || other.end != s.end) break;
      if (other.rank > rank) rank = other.rank;
    }
    if (rank == 0) continue;
    for (int64_t row = s.begin; row < s.end; ++row) {
      delta.assign(delta.size(), 0.0);
      for (int64_t i = first; i < next; ++i) {
        AddDelta(args, args.segments[i], args.x + row * args.x_stride, delta.data());
      }
      float* y = args.y + row * args.y_stride;
      for (int64_t o = 0; o < args.out; ++o) {
        y[o] = static_cast<float>(static_cast<double>(y[o]) + delta[static_cast<size_t>(o)]);
      }
    }
  }
}

}  // namespace loramux::reference
