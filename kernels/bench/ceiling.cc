// What this machine can do at most, for benchmarks to be compared with: memory bandwidth of reading
// and the peaks of its multiply-add instructions, on N threads at once.
//   loramux_ceiling [--threads N] [--mib MIB per thread]
// Serves one request per line of standard input, "NAME MILLISECONDS", with one line of JSON:
//   {"name": "read", "unit": "GB/s", "median": 18.9, "best": 19.4, "slices": 8}
// "list" names the ceilings of this processor. A burst is cut into slices of a few milliseconds;
// their median is the ceiling of the moment, the best one that of an undisturbed machine. Between
// requests the process sleeps, so that others can be measured in turn with it.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "bench/ceiling_loops.h"

namespace loramux::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kSliceSeconds = 0.01;
constexpr size_t kDefaultMib = 512;
constexpr size_t kReadPiece = 8u << 20;
constexpr int64_t kLoopCount = 20'000;
constexpr double kTrialSeconds = 0.05;

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

struct Burst {
  double median = 0.0, best = 0.0;
  size_t slices = 0;
};

class Ceiling {
 public:
  Ceiling(int threads, size_t mib) : threads_(threads), bytes_(mib << 20) {
    for (int t = 0; t < threads_; ++t) {
      void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (p == MAP_FAILED) {
        std::perror("loramux_ceiling: mmap");
        std::exit(1);
      }
      madvise(p, bytes_, MADV_HUGEPAGE);
      buffers_.push_back(static_cast<uint8_t*>(p));
    }
    Run([this](int t) { std::memset(buffers_[static_cast<size_t>(t)], 1, bytes_); });
    // How far to fetch ahead differs from machine to machine.
    double best = 0.0;
    for (int way = 0; way < kReadWays; ++way) {
      const double rate = Read(way, kTrialSeconds).median;
      if (rate > best) {
        best = rate;
        way_ = way;
      }
    }
  }

  Burst Read(double seconds) { return Read(way_, seconds); }

  Burst Compute(const Loop& loop, double seconds) {
    return Measure(seconds, [&](int, size_t) {
      loop.run(kLoopCount);
      return loop.ops * static_cast<double>(kLoopCount);
    });
  }

 private:
  template <typename F>
  void Run(F&& body) {
    std::vector<std::thread> threads;
    for (int t = 1; t < threads_; ++t) threads.emplace_back([&body, t] { body(t); });
    body(0);
    for (std::thread& thread : threads) thread.join();
  }

  Burst Read(int way, double seconds) {
    return Measure(seconds, [&](int t, size_t turn) {
      const size_t pieces = bytes_ / kReadPiece;
      ReadBytes(buffers_[static_cast<size_t>(t)] + (turn % pieces) * kReadPiece, kReadPiece, way);
      return static_cast<double>(kReadPiece);
    });
  }

  // work(thread, turn) does a piece of work and gives its size. All threads work all the time; the
  // rate of a slice is the sum of the threads' rates in it.
  template <typename F>
  Burst Measure(double seconds, F&& work) {
    const size_t slices = std::max<size_t>(1, static_cast<size_t>(seconds / kSliceSeconds));
    std::vector<double> rates(slices * static_cast<size_t>(threads_), 0.0);
    std::atomic<int> ready{0};
    Run([&](int t) {
      ready.fetch_add(1);
      while (ready.load() < threads_) {
      }
      size_t turn = turn_;
      for (size_t s = 0; s < slices; ++s) {
        const auto start = Clock::now();
        double done = 0.0, elapsed = 0.0;
        do {
          done += work(t, turn++);
          elapsed = Seconds(start);
        } while (elapsed < kSliceSeconds);
        rates[s * static_cast<size_t>(threads_) + static_cast<size_t>(t)] = done / elapsed;
      }
      if (t == 0) turn_ = turn;
    });
    std::vector<double> sums;
    for (size_t s = 0; s < slices; ++s) {
      double sum = 0.0;
      for (int t = 0; t < threads_; ++t) {
        sum += rates[s * static_cast<size_t>(threads_) + static_cast<size_t>(t)];
      }
      sums.push_back(sum);
    }
    std::sort(sums.begin(), sums.end());
    return {sums[slices / 2], sums.back(), slices};
  }

  const int threads_;
  const size_t bytes_;
  std::vector<uint8_t*> buffers_;
  int way_ = 0;
  size_t turn_ = 0;
};

void Print(const char* name, const char* unit, double scale, const Burst& burst) {
  std::printf("{\"name\":\"%s\",\"unit\":\"%s\",\"median\":%.6g,\"best\":%.6g,\"slices\":%zu}\n",
              name, unit, burst.median * scale, burst.best * scale, burst.slices);
}

int Serve(int threads, size_t mib) {
  const std::vector<Loop> loops = SupportedLoops();
  Ceiling ceiling(threads, mib);
  char line[256];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    char name[64] = "";
    double ms = 0.0;
    const int fields = std::sscanf(line, "%63s %lf", name, &ms);
    if (fields == 1 && std::strcmp(name, "list") == 0) {
      std::printf("[\"read\"");
      for (const Loop& loop : loops) std::printf(",\"%s\"", loop.name);
      std::printf("]\n");
    } else if (fields == 2 && ms > 0.0 && std::strcmp(name, "read") == 0) {
      Print("read", "GB/s", 1e-9, ceiling.Read(ms * 1e-3));
    } else {
      const auto loop = std::find_if(loops.begin(), loops.end(), [&](const Loop& l) {
        return std::strcmp(l.name, name) == 0;
      });
      if (fields != 2 || ms <= 0.0 || loop == loops.end()) {
        std::printf("{\"error\":\"unknown ceiling or no milliseconds\"}\n");
      } else {
        Print(loop->name, "Tops", 1e-12, ceiling.Compute(*loop, ms * 1e-3));
      }
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace loramux::bench

int main(int argc, char** argv) {
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  size_t mib = loramux::bench::kDefaultMib;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    const int value = i + 1 < argc ? std::atoi(argv[i + 1]) : 0;
    if (value > 0 && flag == "--threads") {
      threads = value;
    } else if (value >= 8 && flag == "--mib") {
      mib = static_cast<size_t>(value);
    } else {
      std::fprintf(stderr, "usage: %s [--threads N] [--mib N, 8 or more]\n", argv[0]);
      return 2;
    }
  }
  return loramux::bench::Serve(std::max(1, threads), mib);
}
