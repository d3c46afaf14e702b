// The checks that CheckedOps makes of an op's arguments. Every failure is a Bug whose message names the
// op and the argument, and says what is there and what would be right.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace sluice {

class ArgChecker {
 public:
  // `real`: what real-valued tensors must hold.
  ArgChecker(const char* op, DType real) : op_(op), real_(real) {}

  // The view is present, has this type and shape, rows that do not overlap, and memory if it has
  // elements. A view of one axis is contiguous.
  void Real(const char* arg, const TensorView& view, const Shape& shape) const {
    View(arg, view, real_, shape);
  }
  void Int(const char* arg, const TensorView& view, const Shape& shape) const {
    View(arg, view, DType::kI32, shape);
  }
  void View(const char* arg, const TensorView& view, DType dtype, const Shape& shape) const {
    if (view.shape() != shape || !IsSound(view, dtype)) [[unlikely]]
      FailView(arg, view, dtype, shape.ToString());
  }
  // The same where absence is allowed.
  void OptionalReal(const char* arg, const TensorView& view, const Shape& shape) const {
    if (view.present()) Real(arg, view, shape);
  }
  // The same for a tensor whose sizes the others are measured by.
  void RealOfRank(const char* arg, const TensorView& view, int rank) const {
    ViewOfRank(arg, view, real_, rank);
  }
  void IntOfRank(const char* arg, const TensorView& view, int rank) const {
    ViewOfRank(arg, view, DType::kI32, rank);
  }

  // Every element of an int32 view is in [low, high].
  void IntsIn(const char* arg, const TensorView& view, int64_t low, int64_t high) const;
  // An int32 view of one axis never falls.
  void Ascending(const char* arg, const TensorView& view) const;
  // The two views do not begin at the same memory.
  void NoAlias(const char* arg_a, const TensorView& a, const char* arg_b, const TensorView& b) const;
  // `requirement` says what must hold.
  void Require(bool holds, const char* requirement) const {
    if (!holds) [[unlikely]]
      Fail(requirement);
  }

  const char* op() const { return op_; }

 private:
  static bool IsSound(const TensorView& view, DType dtype);
  void ViewOfRank(const char* arg, const TensorView& view, DType dtype, int rank) const;
  [[noreturn]] void FailView(const char* arg, const TensorView& view, DType dtype,
                             const std::string& expected) const;
  [[noreturn]] void Fail(const std::string& what) const;

  const char* op_;
  DType real_;
};

}  // namespace sluice
