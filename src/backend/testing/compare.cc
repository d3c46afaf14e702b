// Element-wise comparison and its mutation check; see compare.h for the bound.
#include "backend/testing/compare.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

namespace sluice {
namespace {

// Next to an infinity the magnitude may not be finite (∞ · 0); the largest finite value of the row then
// stands for it.
double Magnitude(const Result& reference, size_t i) {
  if (std::isfinite(reference.magnitude[i])) return reference.magnitude[i];
  const auto row_size = static_cast<size_t>(reference.row_size);
  double largest = 0;
  for (size_t j = i / row_size * row_size; j < (i / row_size + 1) * row_size; ++j)
    if (std::isfinite(reference.value[j])) largest = std::max(largest, std::abs(reference.value[j]));
  return largest;
}

double Bound(const Result& reference, size_t i, double c) {
  return c * kEpsF32 * Magnitude(reference, i) + kUnderflow;
}

bool Passes(const Result& tested, const Result& reference, size_t i, double c) {
  const double y = tested.value[i];
  const double y64 = reference.value[i];
  if (reference.exact) return y == y64;
  if (std::isnan(y64)) return std::isnan(y);
  if (std::isinf(y64)) return y == y64;
  return std::abs(y - y64) <= Bound(reference, i, c);
}

std::string Place(const Result& result, size_t i) {
  const auto row_size = static_cast<size_t>(std::max<int64_t>(result.row_size, 1));
  return fmt::format("{}[{}, {}]", result.name, i / row_size, i % row_size);
}

std::string CompareOne(const Result& tested, const Result& reference, double c) {
  for (size_t i = 0; i < reference.value.size(); ++i) {
    if (Passes(tested, reference, i, c)) continue;
    return fmt::format("{} is {}, reference {}: off by {:.3g}, allowed {:.3g} (magnitude {:.3g})",
                       Place(reference, i), tested.value[i], reference.value[i],
                       tested.value[i] - reference.value[i], Bound(reference, i, c), reference.magnitude[i]);
  }
  return "";
}

// First, middle, last, and one at random.
std::set<size_t> SomeElements(size_t n, Random& random) {
  return {0, n / 2, n - 1, random.Below(n)};
}

// Elements of row `r` beyond their own bound, and the largest of them.
bool LargestOfRow(const Result& reference, int64_t r, double c, size_t* largest) {
  bool found = false;
  for (int64_t j = 0; j < reference.row_size; ++j) {
    const auto i = static_cast<size_t>(r * reference.row_size + j);
    const double y = std::abs(reference.value[i]);
    if (!std::isfinite(y) || y <= 4 * Bound(reference, i, c)) continue;
    if (!found || y > std::abs(reference.value[*largest])) *largest = i;
    found = true;
  }
  return found;
}

std::string MutateOne(const Result& tested, const Result& reference, double c, Random& random) {
  const size_t n = reference.value.size();
  if (n == 0) return "";
  Result corrupt = tested;
  const auto missed = [&](const std::string& what) -> std::string {
    const bool noticed = !CompareOne(corrupt, reference, c).empty();
    corrupt = tested;
    return noticed ? "" : fmt::format("mutation not noticed: {}", what);
  };
  for (const size_t i : SomeElements(n, random)) {
    const double step =
        reference.exact ? 1 : std::max(64 * Bound(reference, i, c), std::abs(corrupt.value[i]) * kEpsF32);
    corrupt.value[i] += step;
    if (!std::isfinite(reference.value[i])) corrupt.value[i] = 1;
    if (auto what = missed(fmt::format("{} moved by {:.3g}", Place(reference, i), step)); !what.empty())
      return what;
    if (reference.exact || std::isnan(reference.value[i])) continue;
    corrupt.value[i] = std::numeric_limits<double>::quiet_NaN();
    if (auto what = missed(Place(reference, i) + " set to NaN"); !what.empty()) return what;
  }
  if (reference.exact || reference.num_rows == 0) return "";
  for (const size_t row : SomeElements(static_cast<size_t>(reference.num_rows), random)) {
    const auto r = static_cast<int64_t>(row);
    size_t largest = 0;
    if (!LargestOfRow(reference, r, c, &largest)) continue;
    corrupt.value[largest] = 0;
    if (auto what = missed(Place(reference, largest) + " set to zero"); !what.empty()) return what;
    std::fill_n(corrupt.value.begin() + r * reference.row_size, reference.row_size, 0.0);
    if (auto what = missed(fmt::format("{}: row {} set to zero", reference.name, r)); !what.empty())
      return what;
  }
  return "";
}

std::string ForEachTensor(const Results& a, const Results& b,
                          const std::function<std::string(const Result&, const Result&)>& check) {
  SLUICE_CHECK_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    SLUICE_CHECK_EQ(a[i].value.size(), b[i].value.size());
    if (std::string what = check(a[i], b[i]); !what.empty()) return what;
  }
  return "";
}

}  // namespace

std::string CompareWithBound(const Results& tested, const Results& reference, double c) {
  return ForEachTensor(tested, reference,
                       [&](const Result& a, const Result& b) { return CompareOne(a, b, c); });
}

double WorstRatio(const Results& tested, const Results& reference) {
  double worst = 0;
  ForEachTensor(tested, reference, [&](const Result& a, const Result& b) -> std::string {
    for (size_t i = 0; i < b.value.size(); ++i) {
      const double error = std::abs(a.value[i] - b.value[i]);
      if (b.exact || !(error > kUnderflow) || !std::isfinite(error)) continue;
      worst = std::max(worst, error / (kEpsF32 * b.magnitude[i]));
    }
    return "";
  });
  return worst;
}

std::string CompareBits(const Results& first, const Results& second) {
  return ForEachTensor(first, second, [](const Result& a, const Result& b) -> std::string {
    for (size_t i = 0; i < a.value.size(); ++i) {
      if (std::isnan(a.value[i]) && std::isnan(b.value[i])) continue;
      if (std::bit_cast<uint64_t>(a.value[i]) == std::bit_cast<uint64_t>(b.value[i])) continue;
      return fmt::format("{}: {:.9g} and then {:.9g}", Place(a, i), a.value[i], b.value[i]);
    }
    return "";
  });
}

std::string CheckMutationsAreNoticed(const Results& tested, const Results& reference, double c) {
  Random random(0x6d75746174650001u);
  return ForEachTensor(tested, reference,
                       [&](const Result& a, const Result& b) { return MutateOne(a, b, c, random); });
}

}  // namespace sluice
