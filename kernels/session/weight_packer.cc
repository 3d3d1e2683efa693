#include "session/weight_packer.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "session/error.h"

namespace loramux {
namespace {

[[noreturn]] void FailArgument(const char* message) {
  throw NativeError(ErrorCode::kInvalidArgument, message);
}

void CheckShape(const PackedShape& shape, int32_t threads) {
  if (!IsValid(shape)) FailArgument("there are no packed weights of this shape");
  if (threads < 1 || threads > kMaxPackThreads) FailArgument("threads must be 1 to 64");
}

// Calls body(worker, panel) for each panel of [first, last), worker in [0, threads) never on two
// threads at once. body must not throw.
template <typename Body>
void ForPanels(int64_t first, int64_t last, int32_t threads, const Body& body) {
  std::atomic<int64_t> next{first};
  const auto work = [&](int32_t worker) {
    for (int64_t panel = next.fetch_add(1); panel < last; panel = next.fetch_add(1)) {
      body(worker, panel);
    }
  };
  std::vector<std::thread> helpers;
  const auto wanted = static_cast<int32_t>(std::min<int64_t>(threads, last - first));
  try {
    for (int32_t i = 1; i < wanted; ++i) helpers.emplace_back(work, i);
  } catch (const std::system_error&) {
    // Fewer threads do the same work.
  }
  work(0);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace

PackResult PackRows(const PackSource& weights, const PackedShape& shape, int64_t first_row,
                    int64_t rows, int32_t threads, uint8_t* blob) {
  CheckShape(shape, threads);
  const int64_t end = first_row + rows;
  if (first_row < 0 || rows < 1 || end > shape.n || first_row % kPanelColumns != 0 ||
      (end % kPanelColumns != 0 && end != shape.n)) {
    FailArgument("rows must be whole panels of the weight");
  }
  const auto dtype = static_cast<WeightDtype>(weights.dtype);
  // PackPanels counts rows from the beginning of the matrix.
  const auto skipped = static_cast<size_t>(first_row * shape.k) * WeightDtypeBytes(dtype);
  PackSource whole = weights;
  whole.weights = static_cast<const uint8_t*>(weights.weights) - skipped;
  std::atomic<bool> finite{true};
  ForPanels(first_row / kPanelColumns, (end + kPanelColumns - 1) / kPanelColumns, threads,
            [&](int32_t, int64_t panel) {
              if (!PackPanels(whole, shape, panel, panel + 1, blob)) finite = false;
            });
  PackResult result;
  result.finite = finite;
  return result;
}

PackResult PackCheckpointLevels(const CheckpointLevels& source, const PackedShape& shape,
                                int32_t threads, uint8_t* blob) {
  CheckShape(shape, threads);
  const bool same_format = shape.format == (source.bits == 8 ? PackedFormat::kInt8
                                                             : PackedFormat::kInt4);
  const bool one_group = source.group >= source.k && (shape.group == 0 || shape.group >= shape.k);
  const bool same_groups = shape.group == source.group || one_group;
  if (!IsValid(source) || !same_format || !same_groups || shape.n != source.n ||
      shape.k != source.k) {
    FailArgument("the levels do not fit the packed shape");
  }
  const int64_t groups = GroupsOf(source);
  const auto middle = static_cast<uint8_t>(1 << (source.bits - 1));
  struct Scratch {
    std::vector<uint8_t> levels, zeros;
    std::vector<float> scales;
  };
  std::vector<Scratch> scratches(static_cast<size_t>(threads));
  for (Scratch& scratch : scratches) {
    scratch.levels.resize(static_cast<size_t>(kPanelColumns * shape.k));
    scratch.zeros.assign(static_cast<size_t>(kPanelColumns * groups), middle);
    scratch.scales.assign(static_cast<size_t>(kPanelColumns * groups), 0.0f);
  }
  std::atomic<bool> finite{true};
  std::atomic<int64_t> clamped{0};
  std::atomic<int64_t> odd_zeros{0};
  const int64_t panels = (shape.n + kPanelColumns - 1) / kPanelColumns;
  ForPanels(0, panels, threads, [&](int32_t worker, int64_t panel) {
    const int64_t first = panel * kPanelColumns;
    const int64_t count = std::min(kPanelColumns, shape.n - first);
    auto& [levels, zeros, scales] = scratches[static_cast<size_t>(worker)];
    UnpackColumns(source, first, count, levels.data(), groups, zeros.data(), scales.data());
    if (!shape.zero_points) {
      odd_zeros += std::count_if(zeros.begin(), zeros.begin() + count * groups,
                                 [&](uint8_t zero) { return zero != middle; });
    }
    if (source.bits == 8) {
      clamped += std::count(levels.begin(), levels.begin() + count * shape.k, 0);
      std::replace(levels.begin(), levels.begin() + count * shape.k, uint8_t{0}, uint8_t{1});
    }
    // PackLevels counts rows from the beginning of the matrix.
    PackLevelsSource fixed;
    fixed.levels = levels.data() - first * shape.k;
    fixed.scales = scales.data() - first * groups;
    fixed.zeros = zeros.data() - first * groups;
    if (!PackLevels(fixed, shape, panel, panel + 1, blob)) finite = false;
  });
  PackResult result;
  result.finite = finite;
  result.clamped = clamped;
  result.odd_zeros = odd_zeros;
  return result;
}

}  // namespace loramux
