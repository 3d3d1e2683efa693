// Defines the table of the instruction set this translation unit is compiled for.
#pragma once

#include "cpu/attention/vector_impl.h"
#include "cpu/convert_impl.h"
#include "cpu/kernel_table.h"
#include "cpu/lora/lora_bf16_impl.h"
#include "cpu/lora/lora_i8_impl.h"
#include "cpu/lora/lora_i8_pack_impl.h"
#include "cpu/lora/lora_pack_impl.h"
#include "cpu/prologue_impl.h"
#include "cpu/rotate_impl.h"
#include "cpu/sampler_impl.h"
#include "cpu/segmented_lora_impl.h"

namespace loramux::LORAMUX_SIMD_NS {

const KernelTable kTable = {
    {ShrinkF32, ExpandF32},
    {ShrinkBf16, ExpandBf16},
    {ShrinkI8, ExpandI8},
    {PackLoraBf16A, PackLoraBf16B},
    {PackLoraI8A, PackLoraI8B},
    MaxLogit,
    SumExp,
    CountGreater,
    FindGreater,
    BucketPass,
    FindBucket,
    Weights,
    Convert,
    ConvertTransposed,
    AllFinite,
    ExpArray,
    PrologueRow,
    RotateRow,
};

}  // namespace loramux::LORAMUX_SIMD_NS
