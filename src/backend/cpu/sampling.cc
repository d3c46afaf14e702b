// Choosing the next token. Weights and their sums are in float64, and tokens are ordered by falling logit,
// ties to the lower id, so that equal logits pick the same token everywhere. The order is made only as far as
// cuts and draw look. Processor time of 32,768 tokens, logits normal with deviation 3, temperature 1: 0.4 ms,
// with min_p 0.05 0.3 ms, with top_p 0.95 1.5 ms; each 4.7 ms when all tokens were sorted first.
#include "ops/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/error.h"

namespace sluice {

namespace {

constexpr int64_t kFirstSorted = 128;
constexpr int64_t kSortedGrowth = 8;

// The token of the largest logit, the lowest id of them.
int64_t Likeliest(const float* logits, int64_t vocab) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  int64_t likeliest = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    if (!(logits[i] < kInfinity)) [[unlikely]] {
      throw InputError("the logit of token {} is {}; the model's weights or its input are damaged", i,
                       logits[i]);
    }
    if (logits[i] > logits[likeliest]) likeliest = i;
  }
  if (logits[likeliest] == -kInfinity) {
    throw InputError("no token is left to choose from: the logits of all {} are -inf; ban fewer of them",
                     vocab);
  }
  return likeliest;
}

// Tokens by falling logit. A token's weight is its p over the largest p.
class FallingTokens {
 public:
  FallingTokens(const float* logits, int64_t vocab, float largest, double temperature)
      : logits_(logits), largest_(largest), temperature_(temperature), order_(static_cast<size_t>(vocab)) {
    std::iota(order_.begin(), order_.end(), 0);
  }

  int32_t Token(int64_t rank) {
    while (rank >= num_sorted_) SortMore();
    return order_[static_cast<size_t>(rank)];
  }
  double Weight(int64_t rank) { return WeightOf(Token(rank)); }
  // Of the first `count` tokens; of all in the order of their ids, which needs no sorting.
  double SumWeights(int64_t count) {
    double sum = 0;
    if (count == std::ssize(order_)) {
      for (int64_t token = 0; token < count; ++token) sum += WeightOf(token);
    } else {
      for (int64_t rank = 0; rank < count; ++rank) sum += Weight(rank);
    }
    return sum;
  }

 private:
  double WeightOf(int64_t token) const {
    return std::exp((static_cast<double>(logits_[token]) - largest_) / temperature_);
  }
  void SortMore() {
    const auto begin = order_.begin() + num_sorted_;
    num_sorted_ = std::min(std::ssize(order_), std::max(kFirstSorted, kSortedGrowth * num_sorted_));
    const auto end = order_.begin() + num_sorted_;
    const auto before = [this](int32_t a, int32_t b) {
      return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
    };
    if (end - begin <= kFirstSorted) {  // Hardly any token gets into such a short heap.
      std::partial_sort(begin, end, order_.end(), before);
    } else {
      std::nth_element(begin, end, order_.end(), before);
      std::sort(begin, end, before);
    }
  }

  const float* logits_;
  float largest_;
  double temperature_;
  std::vector<int32_t> order_;
  int64_t num_sorted_ = 0;
};

}  // namespace

void CpuOps::Sample(const SampleArgs& args) {
  const int64_t vocab = args.logits.dim(0);
  const float* logits = args.logits.data<float>();
  const int64_t likeliest = Likeliest(logits, vocab);
  *args.token = static_cast<int32_t>(likeliest);
  if (args.temperature == 0) return;

  FallingTokens falling(logits, vocab, logits[likeliest], args.temperature);
  int64_t count = args.top_k > 0 ? std::min(args.top_k, vocab) : vocab;
  double mass = falling.SumWeights(count);
  if (args.top_p < 1 || args.min_p > 0) {
    const double enough = args.top_p * mass;
    int64_t kept = 0;
    for (mass = 0; kept < count; ++kept) {
      const double weight = falling.Weight(kept);
      if (kept > 0 && (mass >= enough || weight < args.min_p)) break;
      mass += weight;
    }
    count = kept;
  }
  const double goal = args.uniform * mass;
  double reached = 0;
  // A weight of 0 is never drawn, though rounding may leave the goal above the sum of all.
  for (int64_t rank = 0; rank < count && falling.Weight(rank) > 0; ++rank) {
    *args.token = falling.Token(rank);
    reached += falling.Weight(rank);
    if (reached > goal) break;
  }
}

}  // namespace sluice
