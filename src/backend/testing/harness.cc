// The checks of harness.h. The backend under test is "cpu"; the oracles are "reference-tracked" for values
// with magnitudes and "reference" for gradients in float64.
#include "backend/testing/harness.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "backend/backend.h"
#include "backend/cpu/targets.h"
#include "backend/testing/compare.h"
#include "base/threads.h"

namespace sluice {
namespace {

// Central differences: x ± kStep. Truncation is about kStep² / 6 · f''' = 4e-11 f''', rounding
// 1e-16 / kStep = 7e-12 · f, both far below kGradientTolerance.
constexpr double kStep = 0x1p-16;
constexpr double kGradientTolerance = 1e-6;
// Elements of each input that are differenced: all up to here, else a random sample of this size.
constexpr int64_t kMaxDifferences = 48;

Ops& Tested() {
  static const std::unique_ptr<Ops> ops = MakeOps("cpu");
  return *ops;
}
Ops& Float64() {
  static const std::unique_ptr<Ops> ops = MakeOps("reference");
  return *ops;
}
Ops& Oracle() {
  static const std::unique_ptr<Ops> ops = MakeOps("reference-tracked");
  return *ops;
}

// One of the kernels' targets for a scope.
class ScopedCpuTarget {
 public:
  explicit ScopedCpuTarget(const std::string& target) { UseCpuTarget(target); }
  ~ScopedCpuTarget() { UseCpuTarget(""); }
  ScopedCpuTarget(const ScopedCpuTarget&) = delete;
  ScopedCpuTarget& operator=(const ScopedCpuTarget&) = delete;
};

std::string Report(const OpCase& op_case, std::string_view check, const std::string& what) {
  return what.empty() ? "" : fmt::format("[{}] {}: {}\n", op_case.name, check, what);
}

Results RunAll(const OpCase& op_case, Ops& ops, Layout layout = {}) {
  OpRun run(op_case, ops.dtype(), layout);
  run.Forward(ops);
  run.Gradient(ops);
  return run.Outputs();
}

// A reference output that stays NaN would let an untouched output pass.
std::string CheckNoNan(const OpCase& op_case, const Results& reference) {
  if (op_case.reference_may_be_nan) return "";
  for (const Result& result : reference)
    for (size_t i = 0; i < result.value.size(); ++i)
      if (std::isnan(result.value[i])) return fmt::format("reference {}, element {} is NaN", result.name, i);
  return "";
}

std::string GradientName(const OpCase& op_case, const std::string& input) {
  for (const std::string& name : {"d" + input, "d" + input + "_acc"})
    if (op_case.Find(name) != nullptr) return name;
  throw Bug(fmt::format("[{}] has no gradient d{} or d{}_acc", op_case.name, input, input));
}

double Loss(const OpCase& op_case, const OpRun& run) {
  if (op_case.loss) return op_case.loss(run.tensors());
  double loss = 0;
  for (const TensorSpec& spec : op_case.tensors) {
    if (spec.role == Role::kInput || spec.dtype != DType::kF32) continue;
    const std::string name =
        spec.name.ends_with("_acc") ? spec.name.substr(0, spec.name.size() - 4) : spec.name;
    const TensorSpec* seed = op_case.Find("d" + name);
    if (seed == nullptr || seed->role != Role::kInput) continue;
    const int64_t n = spec.shape.num_elements();
    for (int64_t i = 0; i < n; ++i) loss += run.Get("d" + name, i) * run.Get(spec.name, i);
  }
  return loss;
}

std::set<int64_t> ElementsToDifference(int64_t n, Random& random) {
  std::set<int64_t> elements;
  if (n <= kMaxDifferences) {
    for (int64_t i = 0; i < n; ++i) elements.insert(i);
    return elements;
  }
  elements = {0, n - 1};
  while (static_cast<int64_t>(elements.size()) < kMaxDifferences)
    elements.insert(static_cast<int64_t>(random.Below(static_cast<uint64_t>(n))));
  return elements;
}

double CentralDifference(const OpCase& op_case, OpRun& run, const std::string& input, int64_t element) {
  run.Reset();
  const double x = run.Get(input, element);
  double losses[2];
  for (int side = 0; side < 2; ++side) {
    run.Reset();
    run.Set(input, element, side == 0 ? x + kStep : x - kStep);
    run.Forward(Float64());
    losses[side] = Loss(op_case, run);
  }
  return (losses[0] - losses[1]) / (2 * kStep);
}

OpCase WithValue(const OpCase& op_case, const std::string& tensor, int64_t element, double value) {
  OpCase changed = op_case;
  changed.Find(tensor)->values[static_cast<size_t>(element)] = value;
  changed.reference_may_be_nan = true;
  return changed;
}

std::string CheckSpoiledRow(const OpCase& op_case, const std::string& input, int64_t row, double spoil) {
  const TensorSpec& spec = *op_case.Find(input);
  const int64_t row_size = spec.shape.num_elements() / spec.shape[0];
  OpCase clean = op_case;
  clean.gradient = nullptr;
  const OpCase spoiled = WithValue(clean, input, row * row_size + row_size / 2, spoil);
  if (std::string what = CheckAgainstReference(spoiled); !what.empty()) return what;
  const Results before = RunAll(clean, Tested());
  const Results after = RunAll(spoiled, Tested());
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i].name != op_case.nan_output) continue;
    Result expected = before[i];
    Result rest = after[i];
    const auto begin = row * rest.row_size;
    bool any_nan = false;
    for (int64_t j = begin; j < begin + rest.row_size; ++j) {
      const auto at = static_cast<size_t>(j);
      any_nan = any_nan || std::isnan(rest.value[at]);
      rest.value[at] = expected.value[at];
    }
    if (std::isnan(spoil) && !any_nan)
      return fmt::format("NaN in {} row {} does not reach {}", input, row, op_case.nan_output);
    if (std::string what = CompareBits({expected}, {rest}); !what.empty())
      return fmt::format("{} in {} row {} changed another row: {}", spoil, input, row, what);
  }
  return "";
}

}  // namespace

std::string CheckAgainstReference(const OpCase& op_case) {
  const Results reference = RunAll(op_case, Oracle());
  if (std::string what = CheckNoNan(op_case, reference); !what.empty()) return what;
  for (const std::string& target : CpuTargets()) {
    const ScopedCpuTarget scoped(target);
    const std::string what = CompareWithBound(RunAll(op_case, Tested()), reference, op_case.c);
    if (!what.empty()) return fmt::format("target {}: {}", target, what);
  }
  for (const Layout layout : {Layout{0, 0}, Layout{1, 0}, Layout{3, 5}}) {
    OpRun run(op_case, Tested().dtype(), layout);
    run.Forward(Tested());
    run.Gradient(Tested());
    const Results tested = run.Outputs();
    std::string what = CompareWithBound(tested, reference, op_case.c);
    if (what.empty()) what = run.CheckUntouched();
    if (what.empty()) what = CheckMutationsAreNoticed(tested, reference, op_case.c);
    if (!what.empty()) return fmt::format("offset {}, row gap {}: {}", layout.offset, layout.row_gap, what);
  }
  // Both oracles follow the same formulas: their values agree to float64 rounding.
  Results float64 = RunAll(op_case, Float64());
  Results tight = reference;
  for (Result& result : tight)
    for (size_t i = 0; i < result.value.size(); ++i)
      result.magnitude[i] = 1e-9 / kEpsF32 * (result.magnitude[i] + std::abs(result.value[i]));
  const std::string what = CompareWithBound(float64, tight, 1);
  return what.empty() ? "" : "the two references differ: " + what;
}

std::string CheckRepeatability(const OpCase& op_case) {
  const int threads = NumThreads();
  SetNumThreads(1);
  const Results first = RunAll(op_case, Tested());
  std::string what = CompareBits(first, RunAll(op_case, Tested()));
  if (!what.empty()) what = "run twice: " + what;
  SetNumThreads(2);
  if (what.empty()) {
    what = CompareBits(first, RunAll(op_case, Tested()));
    if (!what.empty()) what = "1 and 2 threads: " + what;
  }
  SetNumThreads(threads);
  return what;
}

std::string CheckRowInvariance(const OpCase& op_case) {
  if (!op_case.rows) return "";
  OpRun run(op_case, Tested().dtype());
  run.Forward(Tested());
  const Results all = run.Outputs();
  for (const int64_t chunk : {1, 3, 8}) {
    run.Reset();
    for (int64_t begin = 0; begin < op_case.num_rows; begin += chunk)
      op_case.rows(Tested(), run.tensors(), begin, std::min(op_case.num_rows, begin + chunk));
    if (std::string what = CompareBits(all, run.Outputs()); !what.empty())
      return fmt::format("all rows at once and by {}: {}", chunk, what);
  }
  return "";
}

std::string CheckNanStaysInRow(const OpCase& op_case) {
  for (const std::string& input : op_case.nan_stays_in_row) {
    const TensorSpec& spec = *op_case.Find(input);
    if (spec.shape.num_elements() == 0 || op_case.Find(op_case.nan_output)->shape.num_elements() == 0)
      continue;
    const int64_t last = spec.shape[0] - 1;
    for (const int64_t row : std::set<int64_t>{0, last / 2, last}) {
      for (const double spoil :
           {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
        if (std::string what = CheckSpoiledRow(op_case, input, row, spoil); !what.empty()) return what;
    }
  }
  return "";
}

std::string CheckGradient(const OpCase& op_case) {
  if (op_case.differentiable.empty()) return "";
  OpRun run(op_case, DType::kF64);
  OpRun differences(op_case, DType::kF64);
  run.Forward(Float64());
  run.Gradient(Float64());
  Random random(0x6772616469656e74u);
  for (const std::string& input : op_case.differentiable) {
    const TensorSpec& spec = *op_case.Find(input);
    const std::string gradient = GradientName(op_case, input);
    const TensorSpec& gradient_spec = *op_case.Find(gradient);
    const bool accumulates = gradient.ends_with("_acc");
    const auto value = [&](int64_t i) {
      return run.Get(gradient, i) - (accumulates ? gradient_spec.values[static_cast<size_t>(i)] : 0);
    };
    const int64_t n = spec.shape.num_elements();
    double sum_squares = 0;
    for (int64_t i = 0; i < n; ++i) sum_squares += value(i) * value(i);
    const double rms = std::sqrt(sum_squares / static_cast<double>(std::max<int64_t>(n, 1)));
    for (const int64_t i : ElementsToDifference(n, random)) {
      const double expected = CentralDifference(op_case, differences, input, i);
      const double allowed = kGradientTolerance * (std::abs(expected) + rms) + 1e-9;
      if (!(std::abs(value(i) - expected) <= allowed))
        return fmt::format("{}[{}] is {:.9g}, central difference {:.9g}", gradient, i, value(i), expected);
    }
  }
  return "";
}

std::string CheckCase(const OpCase& op_case) {
  try {
    return Report(op_case, "against the reference", CheckAgainstReference(op_case)) +
           Report(op_case, "repeatability", CheckRepeatability(op_case)) +
           Report(op_case, "row invariance", CheckRowInvariance(op_case)) +
           Report(op_case, "NaN and infinity", CheckNanStaysInRow(op_case)) +
           Report(op_case, "gradient", CheckGradient(op_case));
  } catch (const Error& error) {
    return Report(op_case, "threw", error.what());
  }
}

::testing::AssertionResult CheckCases(const std::vector<OpCase>& cases) {
  std::string report;
  for (const OpCase& op_case : cases) report += CheckCase(op_case);
  if (report.empty()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << report;
}

double WorstRatio(const std::vector<OpCase>& cases) {
  double worst = 0;
  for (const OpCase& op_case : cases)
    worst = std::max(worst, WorstRatio(RunAll(op_case, Tested()), RunAll(op_case, Oracle())));
  return worst;
}

}  // namespace sluice
