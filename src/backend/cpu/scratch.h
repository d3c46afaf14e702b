// Scratch memory of a kernel: aligned, uncleared, kept by the thread from call to call. Each Tag is a
// block of its own; a block is overwritten by the thread's next request under the same Tag.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/tensor.h"

namespace sluice {

// At least `count` floats, 64-byte aligned, valid until this thread asks for this Tag again.
template <class Tag>
float* ThreadScratch(int64_t count) {
  static thread_local Buffer buffer;
  static thread_local int64_t capacity = 0;
  if (count > capacity) {
    buffer = Buffer(DType::kF32, {count});
    capacity = count;
  }
  return count > 0 ? buffer.view().data<float>() : nullptr;
}

}  // namespace sluice
