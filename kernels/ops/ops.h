// The custom operators of domain `loramux`, version 1, bound to one session.
#pragma once

#include "ops/custom_op.h"
#include "ort/ort_handle.h"

namespace loramux::ops {

inline constexpr const char* kDomain = "loramux";

// y = base + scale * B (A x) for the rows of each adapter segment of the running step.
// Inputs x [T, in], base [T, out]; output [T, out]; attributes layer, module.
void FillSegmentedLora(CustomOp* op);

// Rotary embedding, write to the paged cache, grouped-query attention over it.
// Inputs q [T, heads * size], k and v [T, kv_heads * size], optionally q_norm and k_norm [size];
// output [T, heads * size]; attributes layer, num_heads, num_kv_heads, head_size, sliding_window,
// softmax_scale, norm_eps.
void FillPagedAttention(CustomOp* op);

// Linear layers over packed weights (loramux/packed_linear.h), with their adapters.
// Inputs: 0 x [T, k] ([T, 2k] with prologue 2), 1 residual [T, N] optional, 2 norm [k] with
// prologue 1, 3 to 5 weights of `parts` parts: a packed blob (uint8 [bytes]) or a matrix [n, k] of
// float32, float16 or bfloat16 that is packed when the session is made; 6 to 8 biases [n],
// optional.
// Output [T, N], N = n0 + n1 + n2. Attributes layer, module (of the first part, the others follow;
// -1: no adapters), parts, k, n0, n1, n2, format, group, zero_points, rotated (0 when
// absent), activation_group, prologue (0 none, 1 RMS norm, 2 SwiGLU), norm_eps.
void FillPackedLinear(CustomOp* op);

// Must outlive the ONNX Runtime session that it was added to.
class OpSet {
 public:
  OpSet(const ort::OrtApi* api, StepContext* context);
  OpSet(const OpSet&) = delete;
  OpSet& operator=(const OpSet&) = delete;
  void AddTo(ort::OrtSessionOptions* options);

 private:
  const ort::OrtApi* api_;
  CustomOp lora_;
  CustomOp attention_;
  CustomOp linear_;
  ort::DomainHandle domain_;
};

}  // namespace loramux::ops
