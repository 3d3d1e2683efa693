// ONNX Runtime's MatMulNBits with the weights of an int4 packed linear layer, to be timed beside
// it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "loramux/packed_linear.h"

namespace loramux::bench {

class OrtMatMul {
 public:
  // Opens the library at an absolute path and makes `copies` layers, each with weights of its own.
  // The shape is int4 with groups of 16 or more and no zero points. Spinning stays on, as ONNX
  // Runtime has it. Throws NativeError.
  OrtMatMul(const std::string& library, const PackedWeight& weight, int64_t rows, int32_t threads,
            int64_t copies);
  ~OrtMatMul();
  // x [rows, k] to y [rows, n], by layer `copy`.
  void Run(const float* x, float* y, int64_t copy);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace loramux::bench
