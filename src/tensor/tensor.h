// TensorView: a non-owning view of up to 4 dimensions, any stride in all but the last (which is
// contiguous). A default-constructed view is "absent": optional arguments of ops are absent views.
// Buffer owns aligned memory; Arena hands out views that live until it is reset.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "tensor/dtype.h"

namespace sluice {

class Shape {
 public:
  static constexpr int kMaxRank = 4;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return dims_[axis]; }
  int64_t num_elements() const;
  bool operator==(const Shape&) const = default;
  std::string ToString() const;  // "[4, 8]"

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

class TensorView {
 public:
  TensorView() = default;
  // Row-major contiguous.
  TensorView(void* data, DType dtype, Shape shape);
  // `row_stride` in elements, of the first axis; the axes after it are contiguous.
  TensorView(void* data, DType dtype, Shape shape, int64_t row_stride);

  template <class T>
  static TensorView Of(T* data, Shape shape) {
    return TensorView(const_cast<std::remove_const_t<T>*>(data), DTypeOf<std::remove_const_t<T>>::kValue,
                      shape);
  }

  bool present() const { return dtype_known_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int axis) const { return shape_[axis]; }
  int rank() const { return shape_.rank(); }
  int64_t num_elements() const { return shape_.num_elements(); }
  // Elements from one index of the first axis to the next.
  int64_t row_stride() const { return row_stride_; }
  bool contiguous() const;

  // The elements; REQUIRES: T is this view's type (Bug otherwise).
  template <class T>
  T* data() const {
    SLUICE_CHECK_EQ(static_cast<int>(dtype_), static_cast<int>(DTypeOf<std::remove_const_t<T>>::kValue));
    return static_cast<T*>(data_);
  }
  // The elements at index `i` of the first axis.
  template <class T>
  T* row(int64_t i) const {
    return data<T>() + i * row_stride_;
  }
  void* raw() const { return data_; }

  // Rows [begin, end) of the first axis.
  TensorView Rows(int64_t begin, int64_t end) const;
  // The sub-tensor at index `i` of the first axis (rank one less). REQUIRES: contiguous inner axes.
  TensorView At(int64_t i) const;
  // Columns [begin, end) of the last axis of a rank-2 view.
  TensorView Columns(int64_t begin, int64_t end) const;
  // The same elements under another shape. REQUIRES: contiguous, same number of elements.
  TensorView Reshape(Shape shape) const;
  void Zero() const;

 private:
  void* data_ = nullptr;
  Shape shape_;
  int64_t row_stride_ = 0;
  DType dtype_ = DType::kF32;
  bool dtype_known_ = false;
};

// Owned memory, aligned to 64 bytes, zero on construction. Large buffers take memory as they are written to.
class Buffer {
 public:
  Buffer() = default;
  Buffer(DType dtype, Shape shape);
  const TensorView& view() const { return view_; }
  operator const TensorView&() const { return view_; }

 private:
  struct Free {
    Free() : mapped(0) {}
    explicit Free(size_t mapped_bytes) : mapped(mapped_bytes) {}
    size_t mapped;  // Bytes of a mapping of its own; 0: the heap's.
    void operator()(void* pointer) const;
  };
  std::unique_ptr<void, Free> memory_;
  TensorView view_;
};

// A bump allocator of tensor memory. Allocations are 64-byte aligned and NOT cleared. Reset() makes
// all of it free again, in one block as large as the largest use so far; the views are then dangling.
// Mark()/Release(mark) free what came after a point: scratch inside a layer.
class Arena {
 public:
  struct Position {
    size_t block = 0;
    size_t offset = 0;
  };

  TensorView Allocate(DType dtype, Shape shape);
  void Reset();
  Position Mark() const { return position_; }
  void Release(Position position) { position_ = position; }
  // Bytes held from the operating system.
  size_t capacity_bytes() const;

 private:
  struct Block;
  std::vector<std::shared_ptr<Block>> blocks_;
  Position position_;
  size_t peak_bytes_ = 0;  // Largest use so far, block tails that were skipped included.
};

}  // namespace sluice
