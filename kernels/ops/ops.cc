#include "ops/ops.h"

#include "ort/ort_library.h"

namespace loramux::ops {

OpSet::OpSet(const ort::OrtApi* api, StepContext* context) : api_(api), domain_(api) {
  for (CustomOp* op : {&lora_, &attention_, &linear_}) {
    op->api = api;
    op->context = context;
    FillCommon(op);
  }
  FillSegmentedLora(&lora_);
  FillPagedAttention(&attention_);
  FillPackedLinear(&linear_);
  const auto check = [&](ort::OrtStatus* status) {
    ort::Check(api_, status, ErrorCode::kModelLoad, "registering operators");
  };
  check(ort::CreateCustomOpDomain::Call(api_, kDomain, domain_.out()));
  check(ort::CustomOpDomainAdd::Call(api_, domain_.get(), &lora_.record));
  check(ort::CustomOpDomainAdd::Call(api_, domain_.get(), &attention_.record));
  check(ort::CustomOpDomainAdd::Call(api_, domain_.get(), &linear_.record));
}

void OpSet::AddTo(ort::OrtSessionOptions* options) {
  ort::Check(api_, ort::AddCustomOpDomain::Call(api_, options, domain_.get()),
             ErrorCode::kModelLoad, "registering operators");
}

}  // namespace loramux::ops
