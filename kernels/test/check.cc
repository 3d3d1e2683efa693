#include "test/check.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace loramux::test {
namespace {

constexpr int kMaxPrintedFailures = 8;  // of one test
int g_failures = 0;                     // of the running test

}  // namespace

std::vector<TestCase>& Registry() {
  static std::vector<TestCase> tests;
  return tests;
}

bool Register(const char* name, void (*run)()) {
  Registry().push_back({name, run});
  return true;
}

bool Check(bool ok, const char* expression, const char* file, int line, const std::string& detail) {
  if (ok) return true;
  if (++g_failures <= kMaxPrintedFailures) {
    std::printf("    %s:%d: %s is false%s%s\n", file, line, expression, detail.empty() ? "" : ": ",
                detail.c_str());
  }
  return false;
}

uint64_t Seed() {
  const char* text = std::getenv("LORAMUX_TEST_SEED");
  return text == nullptr ? 20240601u : std::strtoull(text, nullptr, 10);
}

}  // namespace loramux::test

int main(int argc, char** argv) {
  using loramux::test::g_failures;
  const char* filter = argc > 1 ? argv[1] : "";
  int passed = 0;
  int failed = 0;
  for (const auto& test : loramux::test::Registry()) {
    if (std::strstr(test.name, filter) == nullptr) continue;
    g_failures = 0;
    test.run();
    const bool ok = g_failures == 0;
    ok ? ++passed : ++failed;
    std::printf("%s %s\n", ok ? "ok  " : "FAIL", test.name);
    if (!ok) {
      std::printf("    %d checks failed; LORAMUX_TEST_SEED=%llu\n", g_failures,
                  static_cast<unsigned long long>(loramux::test::Seed()));
    }
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed > 0 || passed == 0 ? 1 : 0;
}
