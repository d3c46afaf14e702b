// The checks themselves; what they promise is in arg_checker.h.
#include "ops/arg_checker.h"

#include <fmt/format.h>

#include "base/error.h"

namespace sluice {
namespace {

int64_t RowSize(const TensorView& view) {
  int64_t size = 1;
  for (int axis = 1; axis < view.rank(); ++axis) size *= view.dim(axis);
  return size;
}

}  // namespace

bool ArgChecker::IsSound(const TensorView& view, DType dtype) {
  if (!view.present() || view.dtype() != dtype) return false;
  if (view.raw() == nullptr && view.num_elements() > 0) return false;
  if (view.rank() == 0 || view.dim(0) <= 1) return true;
  return view.rank() == 1 ? view.row_stride() == 1 : view.row_stride() >= RowSize(view);
}

void ArgChecker::ViewOfRank(const char* arg, const TensorView& view, DType dtype, int rank) const {
  if (view.rank() != rank || !IsSound(view, dtype)) [[unlikely]] {
    FailView(arg, view, dtype, fmt::format("a shape of {} axes", rank));
  }
}

void ArgChecker::IntsIn(const char* arg, const TensorView& view, int64_t low, int64_t high) const {
  if (view.num_elements() == 0) return;
  const int64_t size = RowSize(view);
  for (int64_t r = 0; r < view.dim(0); ++r) {
    const int32_t* row = view.row<int32_t>(r);
    for (int64_t i = 0; i < size; ++i) {
      if (row[i] < low || row[i] > high) [[unlikely]] {
        Fail(fmt::format("{}[{}, {}] is {}, outside [{}, {}]", arg, r, i, row[i], low, high));
      }
    }
  }
}

void ArgChecker::Ascending(const char* arg, const TensorView& view) const {
  const int32_t* x = view.data<int32_t>();
  for (int64_t i = 1; i < view.dim(0); ++i) {
    if (x[i] < x[i - 1]) [[unlikely]] {
      Fail(fmt::format("{}[{}] is {}, below the {} before it", arg, i, x[i], x[i - 1]));
    }
  }
}

void ArgChecker::NoAlias(const char* arg_a, const TensorView& a, const char* arg_b,
                         const TensorView& b) const {
  if (a.raw() == b.raw() && a.num_elements() > 0 && b.num_elements() > 0) [[unlikely]] {
    Fail(fmt::format("{} and {} may not be the same memory", arg_a, arg_b));
  }
}

void ArgChecker::FailView(const char* arg, const TensorView& view, DType dtype,
                          const std::string& expected) const {
  if (!view.present()) Fail(fmt::format("{} is absent, expected {} {}", arg, NameOf(dtype), expected));
  std::string found = fmt::format("{} {}", NameOf(view.dtype()), view.shape().ToString());
  if (view.rank() > 0) found += fmt::format(", rows {} elements apart", view.row_stride());
  if (view.raw() == nullptr) found += ", without memory";
  Fail(fmt::format("{} is {}, expected {} {}", arg, found, NameOf(dtype), expected));
}

void ArgChecker::Fail(const std::string& what) const {
  throw Bug(fmt::format("{}: {}", op_, what));
}

}  // namespace sluice
