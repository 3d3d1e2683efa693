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
  ort::DomainHandle domain_;
};

}  // namespace loramux::ops
