// The engine's errors as public ones.
#pragma once

#include "api/internal.h"

namespace sluice::v1 {

// Throws the public Error for the exception that is being handled if it is the engine's own, else the same
// one again: what a caller's callback threw comes out unchanged.
[[noreturn]] void RethrowTranslated();

template <class Work>
auto Translated(const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (...) {
    RethrowTranslated();
  }
}

}  // namespace sluice::v1
