#include "eval/selectors.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "eval/attention_mass.h"

namespace sluice {

namespace {

// Calls keys_of(t, k), which gives k of a query's keys in ascending order, for every row with more far keys
// than its selection; the others keep the gate's, which is all of them.
template <class KeysOf>
void SelectRows(const AttentionStep& step, const KeysOf& keys_of) {
  const TensorView& candidates = step.candidates;
  ParallelFor(candidates.dim(0), [&](int64_t t) {
    int32_t* row = candidates.row<int32_t>(t);
    const int64_t k = std::find(row, row + candidates.dim(1), -1) - row;
    if (step.inputs.span.NumFar(t) <= k) return;
    const std::vector<int32_t> keys = keys_of(t, k);
    std::copy(keys.begin(), keys.end(), row);
  });
}

class RandomSelector : public Selector {
 public:
  explicit RandomSelector(uint64_t seed) : seed_(seed) {}

  void Select(const AttentionStep& step) override {
    const AttentionSpan& span = step.inputs.span;
    SelectRows(step, [&](int64_t t, int64_t k) {
      Random random(seed_ + static_cast<uint64_t>(step.layer), static_cast<uint64_t>(span.Position(t)));
      // k of n without repeats (Floyd's algorithm): the j-th draw is from the first n - k + j + 1.
      const int64_t n = span.NumFar(t);
      const auto begin = static_cast<int32_t>(span.SinksEnd(t));
      std::vector<int32_t> keys;
      for (int64_t last = n - k; last < n; ++last) {
        const auto key = begin + static_cast<int32_t>(random.Below(static_cast<uint64_t>(last + 1)));
        const auto place = std::lower_bound(keys.begin(), keys.end(), key);
        if (place != keys.end() && *place == key) {
          keys.push_back(begin + static_cast<int32_t>(last));
        } else {
          keys.insert(place, key);
        }
      }
      return keys;
    });
  }

 private:
  uint64_t seed_;
};

class RecentSelector : public Selector {
 public:
  void Select(const AttentionStep& step) override {
    SelectRows(step, [&](int64_t t, int64_t k) {
      std::vector<int32_t> keys;
      const int64_t end = step.inputs.span.WindowBegin(t);
      for (int64_t key = end - k; key < end; ++key) keys.push_back(static_cast<int32_t>(key));
      return keys;
    });
  }
};

class OracleSelector : public Selector {
 public:
  void Select(const AttentionStep& step) override {
    SelectRows(step, [&](int64_t t, int64_t k) { return LargestMass(step.inputs, t, FarMass(step, t), k); });
  }
};

}  // namespace

const std::vector<std::string>& SelectorNames() {
  static const std::vector<std::string> names = {"gate", "flat", "random", "recent", "oracle"};
  return names;
}

std::unique_ptr<Selector> MakeSelector(const std::string& name, uint64_t seed) {
  if (name == "gate" || name == "flat") return nullptr;
  if (name == "random") return std::make_unique<RandomSelector>(seed);
  if (name == "recent") return std::make_unique<RecentSelector>();
  if (name == "oracle") return std::make_unique<OracleSelector>();
  throw InputError("there is no selector \"{}\"; there are {}", name, fmt::join(SelectorNames(), ", "));
}

}  // namespace sluice
