// A packed linear call in units of work, for callers that run other work beside it (adapters).
#pragma once

#include "cpu/packed/packed_table.h"
#include "loramux/packed_linear.h"

namespace loramux {

struct KernelTable;

// First every Prepare unit, then, after a barrier, every Multiply unit, each once, in any order and
// from any thread; `worker` in [0, threads) is used by one thread at a time. Borrows args.
class PackedPlan {
 public:
  PackedPlan(const PackedLinearArgs& args, Isa isa);

  int64_t prepare_units() const { return prepare_units_; }
  int64_t multiply_units() const { return multiply_units_; }
  int64_t columns() const { return columns_; }  // of all parts
  // Workers of the parallel region; a hint which weights to fetch ahead.
  void SetThreads(int32_t threads) { threads_ = threads > 1 ? threads : 1; }
  void Prepare(int64_t unit, int64_t worker) const;
  void Multiply(int64_t unit, int64_t worker) const;

  // Hands out units [0, n) to the workers, ascending.
  template <typename F>
  void Run(const Parallel& parallel, int64_t n, F&& f) {
    if (n <= 0) return;
    SetThreads(parallel.threads);
    int64_t next = 0;
    const int64_t workers = n < threads_ ? n : threads_;
    parallel.For(static_cast<size_t>(workers), [&](size_t worker) {
      for (;;) {
        const int64_t unit = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
        if (unit >= n) return;
        f(unit, static_cast<int64_t>(worker));
      }
    });
  }

 private:
  const PackedLinearArgs* args_;
  const packed::PackedTable* table_;
  const KernelTable* kernels_;
  packed::Operand operand_;
  char* worker_base_ = nullptr;
  int64_t worker_bytes_ = 0;
  int64_t prepare_rows_ = 0;   // of a unit
  int64_t multiply_rows_ = 0;  // of a unit
  int64_t prepare_units_ = 0;
  int64_t multiply_units_ = 0;
  int64_t columns_ = 0;
  int32_t threads_ = 1;
  PackedLayout layouts_[kMaxParts];
  int64_t unit_panels_[kMaxParts] = {};
  int64_t panel_units_[kMaxParts] = {};  // of a chunk of rows
  int64_t first_unit_[kMaxParts] = {};
  int64_t first_column_[kMaxParts] = {};
};

}  // namespace loramux
