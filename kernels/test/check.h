// A test harness in one header: named tests, checks that say where and what, seeds that can be
// given back (LORAMUX_TEST_SEED), an optional name filter as the first argument.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "test/support.h"

namespace loramux::test {

struct TestCase {
  const char* name;
  void (*run)();
};

// Test registration runs before main; this is the test program's only global state.
std::vector<TestCase>& Registry();
bool Register(const char* name, void (*run)());

// Counts a failure of the running test and prints it. Returns ok.
bool Check(bool ok, const char* expression, const char* file, int line, const std::string& detail);

uint64_t Seed();

}  // namespace loramux::test

#define LORAMUX_TEST(name)                               \
  static void Test##name();                              \
  [[maybe_unused]] static const bool registered_##name = \
      ::loramux::test::Register(#name, Test##name);      \
  static void Test##name()
#define CHECK(condition) CHECK_THAT(condition, std::string())
#define CHECK_THAT(condition, detail) \
  ::loramux::test::Check(static_cast<bool>(condition), #condition, __FILE__, __LINE__, detail)
