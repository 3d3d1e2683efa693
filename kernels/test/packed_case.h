// Packed linear layers for tests and benchmark: seeded weights and rows, and ways to run them.
#pragma once

#include <string>
#include <vector>

#include "cpu/packed/packed_table.h"
#include "test/support.h"

namespace loramux::test {

std::string Describe(const PackedShape& shape);

// Every format with every kind of group: what a kernel must be tested with.
std::vector<PackedShape> AllPackedKinds(int64_t n, int64_t k);
// Groups of activations that fit the shape.
std::vector<int32_t> ActivationGroups(const PackedShape& shape);

// Float weights [n, k], packed; or random levels of the whole range where `levels`.
AlignedBytes PackRandom(const PackedShape& shape, bool levels, Random* random);

// One weight and rows to multiply with it.
struct PackedCase {
  PackedShape shape;
  AlignedBytes blob;
  int64_t rows = 0;
  int32_t activation_group = kActivationGroup;
  std::vector<float> x;         // [rows, k]
  std::vector<float> bias;      // [n] or empty
  std::vector<float> residual;  // [rows, n] or empty

  PackedWeight Weight() const { return {shape, blob.data()}; }
  // Rows [first, first + count) as a case of their own (the blob is copied).
  PackedCase Rows(int64_t first, int64_t count) const;
  // [rows, n], by the table of an instruction set, panels in units of `unit` (0: all at once).
  std::vector<float> RunTable(Isa isa, int64_t unit) const;
  std::vector<float> RunReference() const;
  // Sum of magnitudes of a row's products, the measure of rounding errors: [rows, n].
  std::vector<double> Magnitudes() const;
};

PackedCase MakePackedCase(const PackedShape& shape, int64_t rows, int32_t activation_group,
                          Random* random);

}  // namespace loramux::test
