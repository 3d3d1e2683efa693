// Linear layers over packed weights: y = prologue(x) W^T + bias (+ residual), W stored once in an
// order that every instruction set reads front to back.
//
// Layout. Columns of the product (rows of a Hugging Face weight, n of them) are taken in panels of
// 16; the last panel is padded with zero weights. The depth k is padded with zeros to a multiple of
// 64. Within a panel, all k of a column quad or pair lie side by side, as dot-product instructions
// (VNNI, AMX) want them:
//   bf16  [panels][k / 2][16 columns][2] bfloat16
//   int8  [panels][k / 4][16 columns][4] int8, -127 to 127 (-128 is not used: AVX2 negates)
//   int4  [panels][k / 8][16 columns][4] bytes; byte j of row r holds level 0 to 15 of depth 8r + j
//         in its low half and of 8r + 4 + j in its high half
// After the weights, each section on a 64-byte boundary:
//   scales        float16 [panels][groups][16], when group > 0
//   zeros         int8    [panels][groups][16], int4 with zero points only, 0 to 16; else level 8
//   column scale  float32 [panels * 16], int8 and int4
// A weight is (level - zero) * scale[group] * column_scale; scales may be negative. One blob holds
// one linear layer.
//
// Groups cover the padded depth: with groups of 32 the last may be padding only. Padding is level 8
// in int4, else 0. It adds nothing: activations are 0 in padded depth, scales in padded columns.
// Where group > 0, the column scale is a power of two that puts the column's largest group scale at
// the top of float16's range: group scales then keep their precision however small or large weights
// are, and scales that another tool stored as float16 stay exact.
//
// Arithmetic. int8 and int4: activations are rounded to int8, symmetric, one scale per row and
// group of `activation_group` inputs: m = max |x|; where m < 2^-100 the group is all zeros with
// scale 0, else scale = m / 127 and q = round-half-even(x * (127 / m)), each operation rounded to
// float32, clamped to +-127. A group with a NaN or infinity has scale NaN, so the row's result is
// NaN. Inner groups are min(group, activation_group) wide (activation_group where group is 0), see
// InnerGroup. With I the exact integer sum of one inner group and acc starting at +0:
//   group > 0:  acc = fma(float(I) * scale, activation_scale, acc)
//   group == 0: acc = fma(float(I), activation_scale, acc)
// in ascending order of groups, then y = acc * column_scale, + bias, + residual. I is exact in
// every order, so all instruction sets and all row counts agree bit for bit in these formats.
// bf16: activations are rounded to bfloat16 (nearest even), products are added up in float32 in an
// order that is fixed per instruction set.
//
// Rotation. A few inputs of a language model are tens of times larger than the rest, and rounding
// to int8 then keeps little of the others in their group. In a `rotated` weight the depth was
// turned by an orthogonal matrix before it was rounded, and rows are turned by the same one between
// prologue and rounding, which leaves products as they were and spreads such inputs over their
// block (QuIP, Chee et al. 2023; QuaRot, Ashkboos et al. 2024). See Rotate.
#pragma once

#include "loramux/types.h"

namespace loramux {

enum class PackedFormat : int32_t { kBf16 = 0, kInt8 = 1, kInt4 = 2 };
const char* PackedFormatName(PackedFormat format);

inline constexpr int64_t kPanelColumns = 16;
inline constexpr int64_t kDepthMultiple = 64;
// Inputs that share an activation scale, of formats that round activations: 64, 128, 256 or 512.
inline constexpr int32_t kActivationGroup = 256;
inline constexpr int32_t kSmallestActivationGroup = 64;
inline constexpr int32_t kLargestActivationGroup = 512;
// Widths of weight groups: 0 (one scale per column), 32, 64, 128, 256 and multiples of 256.
inline constexpr int32_t kSmallestGroup = 32;
// GPTQ stores zero points less one, so that 16 occurs.
inline constexpr int32_t kMaxPackedZero = 16;
// Depth is rotated in blocks of 256; what is left at the end, a multiple of 64, in one of 128 and
// one of 64.
inline constexpr int64_t kRotationBlock = 256;
// Of n and of k. Sums of activations over a row fit 32 bits up to it.
inline constexpr int64_t kMaxPackedFeatures = int64_t{1} << 24;

struct PackedShape {
  PackedFormat format = PackedFormat::kBf16;
  int64_t n = 0;           // output features
  int64_t k = 0;           // input features
  int32_t group = 0;       // inputs per weight scale; 0: whole column. bf16: 0
  bool zero_points = false;  // int4 with group > 0 only
  bool rotated = false;      // int8 and int4
};

// Sizes and places inside a blob, in bytes.
struct PackedLayout {
  int64_t panels = 0;
  int64_t padded_k = 0;
  int64_t groups = 0;       // ceil(padded_k / group) scales per column, 0 where group is 0
  int64_t panel_bytes = 0;  // weights of one panel
  int64_t scales = 0, zeros = 0, column_scale = 0;  // offsets; 0 where there is none
  int64_t bytes = 0;        // of the blob, a multiple of 64
};
// False for a shape that does not exist (n or k outside 1 to kMaxPackedFeatures, group not allowed,
// zero points of another format).
bool IsValid(const PackedShape& shape);
// Of a valid shape.
PackedLayout LayoutOf(const PackedShape& shape);
// False where activations in groups of that many inputs cannot be multiplied with the shape: one of
// the two group widths must divide the other. Formats that do not round by group take any.
bool IsValidActivationGroup(const PackedShape& shape, int32_t activation_group);
// Inputs that share both scales: a power of two, 32 to 512, of a valid pair; 0 for bf16.
int32_t InnerGroup(const PackedShape& shape, int32_t activation_group);

struct PackedWeight {
  PackedShape shape;
  const uint8_t* blob = nullptr;  // LayoutOf(shape).bytes, 64-byte aligned
};

// Rotates a padded row in place, without a scale: every input of a block is mixed with those at a
// distance of a multiple of 4 by a Walsh-Hadamard transform of block / 4 points, which is its own
// inverse but for the factor block / 4. Additions in a fixed order: all instruction sets give the
// same bits. row [padded_k], padded_k a multiple of 64.
void Rotate(float* row, int64_t padded_k, Isa isa);
// Divides each block by its factor, a power of two: Rotate twice and this once change nothing.
void UnscaleRotated(float* row, int64_t padded_k);

// How float weights become levels.
struct PackSource {
  const void* weights = nullptr;  // [n, k] row-major, any alignment
  int32_t dtype = 0;              // WeightDtype (convert.h)
};
// Packs panels [first, last) of a float weight: rounds to nearest in the shape's format (bf16 keeps
// bf16 sources bit for bit). int8: absmax / 127 per column or group. int4: symmetric levels about
// 8, the weight of largest magnitude at level 0 (so that all 16 levels are used; the scale may be
// negative), or with zero points from minimum and maximum. `blob` is the whole blob. Scales are
// rounded to float16 before levels are, so their rounding costs nothing. A column whose weights are
// all below 2^-100 is stored as zeros. Weights must be finite, in bf16 too after rounding: a panel
// with a NaN or infinity makes the result false. Of a rotated shape the weights are rotated first.
bool PackPanels(const PackSource& source, const PackedShape& shape, int64_t first, int64_t last,
                uint8_t* blob);

// Levels that another tool has fixed already (GPTQ, AWQ), to int4 or int8 panels. Groups are those
// that hold weights: ceil(k / group), 1 where group is 0.
struct PackLevelsSource {
  const uint8_t* levels = nullptr;  // [n, k], one byte each
  const float* scales = nullptr;    // [n, groups]
  // [n, groups], or null: 8 for int4, 128 for int8. int8: levels - zeros must fit -127 to 127. int4
  // without zero points: all 8.
  const uint8_t* zeros = nullptr;
};
// False where a level or zero does not fit, or a scale is not finite. Scales that are zero or
// float16 values, as such tools store them, are kept exactly; others are rounded to 11 bits. Scales
// below 2^-27 of the column's largest lose bits of their own. Not for rotated shapes: levels of
// others belong to inputs as they are.
bool PackLevels(const PackLevelsSource& source, const PackedShape& shape, int64_t first,
                int64_t last, uint8_t* blob);
// False where a scale is not finite or a zero point is outside 0 to 16: what no packer writes.
// Levels are not looked at: all of them are some weight.
bool HasUsableScales(const PackedWeight& weight);
// Panels [first, last) back to float32 [n, k] rows of `out` (whole matrix), rotated back.
void UnpackPanels(const PackedWeight& weight, int64_t first, int64_t last, float* out);

// What is done to a row before it is multiplied.
enum class Prologue : int32_t {
  kNone = 0,
  kRmsNorm = 1,  // x * norm / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019)
  kSwiGlu = 2,   // x is [rows, 2k], gate then up: silu(gate) * up (Shazeer 2020)
};

struct PackedPart {
  PackedWeight weight;
  const float* bias = nullptr;  // [n] or null
};

// Up to three weights that share an input (q, k, v; gate, up): columns of the parts lie side by
// side in y. All parts have the same format, k, group and rotation.
inline constexpr int32_t kMaxParts = 3;

struct PackedLinearArgs {
  const float* x = nullptr;  // [rows, x_stride], k used (2k with kSwiGlu)
  int64_t x_stride = 0;
  int64_t rows = 0;
  int64_t k = 0;
  Prologue prologue = Prologue::kNone;
  const float* norm = nullptr;  // [k] with kRmsNorm
  float norm_eps = 0.0f;
  PackedPart parts[kMaxParts];
  int32_t num_parts = 1;
  int32_t activation_group = kActivationGroup;
  const float* residual = nullptr;  // [rows, n of all parts] or null; may be y itself
  float* y = nullptr;               // [rows, n of all parts]
  // Out, optional: rows after the prologue, float32 [rows, k], for adapters.
  float* prepared = nullptr;
  void* workspace = nullptr;  // PackedLinearWorkspace(...) bytes, 64-byte aligned
};

// Bytes of workspace. Reads counts and shapes only. Contents need not be initialised.
int64_t PackedLinearWorkspace(const PackedLinearArgs& args, int32_t threads, Isa isa);

// A row's result depends on that row and the ISA alone (bitwise): not on the other rows, their
// number or the number of threads.
void PackedLinear(const PackedLinearArgs& args, const Parallel& parallel, Isa isa);

namespace reference {
// The same roundings of activations, then double accumulation.
void PackedLinear(const PackedLinearArgs& args);
}  // namespace reference

}  // namespace loramux
