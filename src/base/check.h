// CHECK macros: they hold in every build and throw Bug with the place and both values.
// (Macros live only here and in the SIMD boilerplate.)
#pragma once

#include <fmt/format.h>

#include "base/error.h"

namespace sluice::internal {

[[noreturn]] void CheckFailed(const char* file, int line, const std::string& what);

template <class A, class B>
[[noreturn]] void CheckOpFailed(const char* file, int line, const char* expression, const A& a, const B& b) {
  CheckFailed(file, line, fmt::format("{} (left is {}, right is {})", expression, a, b));
}

}  // namespace sluice::internal

#define SLUICE_CHECK(condition)                                        \
  do {                                                                 \
    if (!(condition)) [[unlikely]]                                     \
      ::sluice::internal::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

#define SLUICE_CHECK_OP(a, op, b)                                                              \
  do {                                                                                         \
    const auto sluice_check_a = (a);                                                           \
    const auto sluice_check_b = (b);                                                           \
    if (!(sluice_check_a op sluice_check_b)) [[unlikely]]                                      \
      ::sluice::internal::CheckOpFailed(__FILE__, __LINE__, #a " " #op " " #b, sluice_check_a, \
                                        sluice_check_b);                                       \
  } while (false)

#define SLUICE_CHECK_EQ(a, b) SLUICE_CHECK_OP(a, ==, b)
#define SLUICE_CHECK_NE(a, b) SLUICE_CHECK_OP(a, !=, b)
#define SLUICE_CHECK_LT(a, b) SLUICE_CHECK_OP(a, <, b)
#define SLUICE_CHECK_LE(a, b) SLUICE_CHECK_OP(a, <=, b)
#define SLUICE_CHECK_GE(a, b) SLUICE_CHECK_OP(a, >=, b)
