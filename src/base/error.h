// The three kinds of failure, one hierarchy. Everything that ends an operation is thrown as one of
// them; expected outcomes ("out of pages", "no prefix") are values, not exceptions.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace sluice {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file, flag or request is wrong. The message says what, where, and what would be right.
class InputError : public Error {
 public:
  using Error::Error;
  template <class... Args>
  explicit InputError(fmt::format_string<Args...> format, Args&&... args)
      : Error(fmt::format(format, std::forward<Args>(args)...)) {}
};

// The operating system (or later a GPU or the network) refused or failed.
class SystemError : public Error {
 public:
  using Error::Error;
  template <class... Args>
  explicit SystemError(fmt::format_string<Args...> format, Args&&... args)
      : Error(fmt::format(format, std::forward<Args>(args)...)) {}
};

// A failed CHECK: a mistake in this program.
class Bug : public Error {
 public:
  using Error::Error;
};

}  // namespace sluice
