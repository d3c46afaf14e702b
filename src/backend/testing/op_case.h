// One test case of an op, declared once: named tensors with their values, how to call the op, and what
// it promises. harness.h derives every check from it.
//
// Names tie things together: the gradient with respect to input `x` is the tensor `dx` or `dx_acc`, and
// the gradient of the loss with respect to output `out` is the input `dout`. Values are float32 values
// held in float64, so that every backend starts from exactly the same numbers.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/random.h"
#include "ops/ops.h"

namespace sluice {

// Makes n values. Results are rounded to float32 by the caller.
using Fill = std::function<std::vector<double>(int64_t n, Random& random)>;
Fill Normal(double scale = 1, double mean = 0);
Fill Uniform(double low, double high);
Fill Constant(double value);
Fill Values(std::vector<double> values);

enum class Role {
  kInput,   // The op may not change it.
  kOutput,  // Overwritten: starts as NaN (integers: as -77).
  kInOut,   // Starts with values: accumulators, in-place ops, rows that may stay untouched.
};

struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;  // kF32 stands for the backend's own real type.
  Shape shape;
  Role role = Role::kInput;
  std::vector<double> values = {};  // Row-major.
  bool contiguous = false;          // Laid out without gaps between rows.
  double magnitude = 0;             // Of a float64 scalar, beside |value|.
};

// The tensors of one run, by name.
class Tensors {
 public:
  explicit Tensors(std::vector<std::pair<std::string, TensorView>> views) : views_(std::move(views)) {}
  // Throws Bug if the case has no tensor of that name.
  const TensorView& operator[](std::string_view name) const;
  // An absent view if the case has no tensor of that name.
  TensorView Optional(std::string_view name) const;
  // A float64 scalar output.
  double* Scalar(std::string_view name) const { return (*this)[name].data<double>(); }

 private:
  std::vector<std::pair<std::string, TensorView>> views_;
};

struct OpCase {
  using Run = std::function<void(Ops&, const Tensors&)>;
  using RunRows = std::function<void(Ops&, const Tensors&, int64_t begin, int64_t end)>;

  explicit OpCase(std::string case_name) : name(std::move(case_name)) {}

  OpCase& In(std::string tensor, Shape shape, const Fill& fill = Normal());
  OpCase& Out(std::string tensor, Shape shape);
  OpCase& InOut(std::string tensor, Shape shape, const Fill& fill = Normal());
  OpCase& Ints(std::string tensor, Shape shape, const std::vector<int32_t>& values);
  // Integer outputs must be equal, not close. kF16 and kBF16 are compared by their bits.
  OpCase& IntsOut(std::string tensor, Shape shape, DType dtype = DType::kI32);
  // A float64 scalar; it carries no magnitude of its own, so |value| + `magnitude` stands for it.
  OpCase& ScalarOut(std::string tensor, double magnitude = 0);
  // No gaps between rows of the tensor declared last.
  OpCase& Contiguous();

  const TensorSpec* Find(std::string_view tensor) const;
  TensorSpec* Find(std::string_view tensor);

  std::string name;
  std::vector<TensorSpec> tensors;

  // What is called, in this order. Set `rows` instead of `forward` where the op promises that rows
  // [begin, end) alone get the same bits as all of [0, num_rows) at once.
  Run forward;
  RunRows rows;
  int64_t num_rows = 0;
  Run gradient;

  // Inputs whose gradient is compared with central differences of `forward` (or `rows`).
  std::vector<std::string> differentiable;
  // The loss that `gradient` differentiates; by default Σ dout · out over all outputs with a `dout`.
  std::function<double(const Tensors&)> loss;

  // Inputs and the one output such that a NaN in row r of the input reaches row r of the output only.
  void NanStaysInRow(const std::vector<std::string>& inputs, const std::string& output);
  std::vector<std::string> nan_stays_in_row;
  std::string nan_output;

  // A value passes when |y − y64| <= c · eps_f32 · magnitude. The largest c that any case of any op
  // needed is 0.9 (SwiGlu); most stay below 0.5.
  double c = 2;
  bool reference_may_be_nan = false;
};

}  // namespace sluice
