// The capacity-aware router, its losses and counts. Rows have few experts, so the work per token is
// scalar, in float64 where it is a formula; tokens run in parallel. Only the capacity walk is serial: it
// is a chain of counters by nature, and costs a few operations per choice.
#include "ops/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/error.h"
#include "base/threads.h"

namespace sluice {
namespace {

constexpr int64_t kTokensPerTask = 256;

// The `count` experts of largest p + bias, best first, ties to the lower index.
void RankExperts(const float* probs, const float* bias, int64_t num_experts, int64_t count, int32_t* ranked) {
  int64_t filled = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    const double score = static_cast<double>(probs[e]) + bias[e];
    int64_t at = filled;
    while (at > 0 && static_cast<double>(probs[ranked[at - 1]]) + bias[ranked[at - 1]] < score) --at;
    if (at == count) continue;
    filled = std::min(filled + 1, count);
    std::copy_backward(ranked + at, ranked + filled - 1, ranked + filled);
    ranked[at] = static_cast<int32_t>(e);
  }
}

double LogSumExp(const float* x, int64_t size) {
  const double largest = *std::max_element(x, x + size);
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) sum += std::exp(x[i] - largest);
  return largest + std::log(sum);
}

void ComputeProbs(const float* logits, int64_t num_experts, int64_t token, RouterScores scores,
                  float* probs) {
  for (int64_t e = 0; e < num_experts; ++e) {
    if (std::isnan(logits[e])) {
      throw InputError("the router's logit of token {} for expert {} is NaN; it must be a number", token, e);
    }
  }
  if (scores == RouterScores::kSoftmax) {
    const double lse = LogSumExp(logits, num_experts);
    for (int64_t e = 0; e < num_experts; ++e) probs[e] = static_cast<float>(std::exp(logits[e] - lse));
    return;
  }
  for (int64_t e = 0; e < num_experts; ++e) {
    probs[e] = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(logits[e]))));
  }
}

// gates[i] = p of the served expert over the sum of them; 0 where unserved.
void ComputeGates(const float* probs, const int32_t* experts, int64_t num_slots, float* gates) {
  double sum = 0;
  for (int64_t i = 0; i < num_slots; ++i) sum += experts[i] >= 0 ? probs[experts[i]] : 0.0;
  for (int64_t i = 0; i < num_slots; ++i) {
    gates[i] = experts[i] >= 0 && sum > 0 ? static_cast<float>(probs[experts[i]] / sum) : 0.0f;
  }
}

// The walk of router.h: serves each token's choices, then its next ones, as far as there is room.
class CapacityWalk {
 public:
  // `ranked` is [tokens, num_ranked], each token's experts by falling p + bias.
  CapacityWalk(const RouterArgs& args, const std::vector<int32_t>& ranked, int64_t num_ranked)
      : args_(args),
        ranked_(ranked),
        num_ranked_(num_ranked),
        demand_(static_cast<size_t>(args.bias.dim(0))),
        served_(demand_.size()),
        limit_(demand_.size()) {}

  void Run() {
    const int64_t length = args_.sequence_length;
    const int64_t sequences = length > 0 ? args_.logits.dim(0) / length : 0;
    for (int64_t begin = 0; begin < length; begin += RouterCapacity::kBlockPositions) {
      const int64_t end = std::min(begin + RouterCapacity::kBlockPositions, length);
      SetLimits(sequences * begin, sequences * end);
      for (int64_t position = begin; position < end; ++position) {
        for (int64_t s = 0; s < sequences; ++s) Serve(s * length + position);
      }
      for (int64_t s = 0; s < sequences; ++s) CountDemand(s * length + begin, s * length + end);
    }
  }

 private:
  void SetLimits(int64_t tokens_before, int64_t tokens_with) {
    const auto num_experts = static_cast<int64_t>(demand_.size());
    for (size_t e = 0; e < demand_.size(); ++e) {
      limit_[e] = args_.capacity.Limit(args_.experts_per_token, num_experts, demand_[e], tokens_before,
                                       tokens_with, args_.logits.dim(0));
    }
  }

  void Serve(int64_t token) {
    const int64_t k = args_.experts_per_token;
    const int32_t* ranked = ranked_.data() + token * num_ranked_;
    int32_t* experts = args_.experts.row<int32_t>(token);
    int64_t num_served = 0;
    for (int64_t i = 0; i < num_ranked_ && num_served < k; ++i) {
      const auto e = static_cast<size_t>(ranked[i]);
      if (served_[e] >= limit_[e]) continue;
      ++served_[e];
      experts[num_served++] = ranked[i];
    }
    std::fill(experts + num_served, experts + k, -1);
  }

  void CountDemand(int64_t token_begin, int64_t token_end) {
    for (int64_t t = token_begin; t < token_end; ++t) {
      for (int64_t i = 0; i < args_.experts_per_token; ++i) {
        ++demand_[static_cast<size_t>(ranked_[static_cast<size_t>(t * num_ranked_ + i)])];
      }
    }
  }

  const RouterArgs& args_;
  const std::vector<int32_t>& ranked_;
  const int64_t num_ranked_;
  std::vector<int64_t> demand_;
  std::vector<int64_t> served_;
  std::vector<int64_t> limit_;
};

// Sums of what the balance losses need over tokens [begin, end).
struct BalanceSums {
  explicit BalanceSums(int64_t num_experts)
      : count(static_cast<size_t>(num_experts)), share(static_cast<size_t>(num_experts)) {}

  void AddTokens(const TensorView& probs, const TensorView& choices, int64_t begin, int64_t end) {
    const int64_t num_experts = probs.dim(1);
    for (int64_t t = begin; t < end; ++t) {
      const float* p = probs.row<float>(t);
      const double sum = std::accumulate(p, p + num_experts, 0.0);
      if (sum > 0) {
        for (int64_t e = 0; e < num_experts; ++e) share[static_cast<size_t>(e)] += p[e] / sum;
      }
      const int32_t* choice = choices.row<int32_t>(t);
      for (int64_t i = 0; i < choices.dim(1); ++i) count[static_cast<size_t>(choice[i])] += 1;
    }
  }

  void Add(const BalanceSums& other) {
    for (size_t e = 0; e < count.size(); ++e) {
      count[e] += other.count[e];
      share[e] += other.share[e];
    }
  }

  // E Σ f_i P_i − 1 over `tokens` tokens of `k` choices each.
  double Loss(int64_t tokens, int64_t k) const {
    double sum = 0;
    for (size_t e = 0; e < count.size(); ++e) sum += count[e] * share[e];
    const double n = static_cast<double>(tokens);
    return static_cast<double>(count.size()) * sum / (n * static_cast<double>(k) * n) - 1.0;
  }

  std::vector<double> count;  // Choices of each expert.
  std::vector<double> share;  // Σ_t p_i / Σ_j p_j
};

// Balance sums of consecutive runs of `run` tokens.
std::vector<BalanceSums> SumByRuns(const TensorView& probs, const TensorView& choices, int64_t run) {
  const int64_t tokens = probs.dim(0);
  std::vector<BalanceSums> sums(static_cast<size_t>((tokens + run - 1) / run), BalanceSums(probs.dim(1)));
  ParallelFor(static_cast<int64_t>(sums.size()), [&](int64_t i) {
    sums[static_cast<size_t>(i)].AddTokens(probs, choices, i * run, std::min(tokens, (i + 1) * run));
  });
  return sums;
}

// dloss/dp of one token for the balance losses: slope[i] is the loss's derivative by p_i / Σ p.
void AddShareGrad(const float* probs, const std::vector<double>& slope, std::vector<double>& dprobs) {
  double sum = 0;
  double mean = 0;
  for (size_t e = 0; e < slope.size(); ++e) {
    sum += probs[e];
    mean += slope[e] * probs[e];
  }
  if (sum <= 0) return;
  mean /= sum;
  for (size_t e = 0; e < slope.size(); ++e) dprobs[e] += (slope[e] - mean) / sum;
}

// dloss/dp through the gates p_i / Σ_served p.
void AddGateGrad(const float* probs, const int32_t* experts, const float* gates, const float* dgates,
                 int64_t num_slots, std::vector<double>& dprobs) {
  double sum = 0;
  double mean = 0;
  for (int64_t i = 0; i < num_slots; ++i) {
    if (experts[i] < 0) continue;
    sum += probs[experts[i]];
    mean += static_cast<double>(dgates[i]) * gates[i];
  }
  if (sum <= 0) return;
  for (int64_t i = 0; i < num_slots; ++i) {
    if (experts[i] >= 0) dprobs[static_cast<size_t>(experts[i])] += (dgates[i] - mean) / sum;
  }
}

}  // namespace

void CpuOps::Router(const RouterArgs& args) {
  const int64_t num_experts = args.bias.dim(0);
  const int64_t k = args.experts_per_token;
  const int64_t num_ranked = args.capacity.limits() ? args.capacity.NumTries(k, num_experts) : k;
  const int64_t tokens = args.logits.dim(0);
  const float* bias = args.bias.data<float>();
  std::vector<int32_t> ranked(static_cast<size_t>(tokens * num_ranked));
  ParallelForRange(tokens, kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* probs = args.probs.row<float>(t);
      ComputeProbs(args.logits.row<float>(t), num_experts, t, args.scores, probs);
      int32_t* own = ranked.data() + t * num_ranked;
      RankExperts(probs, bias, num_experts, num_ranked, own);
      std::copy_n(own, k, args.choices.row<int32_t>(t));
      if (!args.capacity.limits()) std::copy_n(own, k, args.experts.row<int32_t>(t));
    }
  });
  if (args.capacity.limits()) CapacityWalk(args, ranked, num_ranked).Run();
  ParallelForRange(tokens, kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      ComputeGates(args.probs.row<float>(t), args.experts.row<int32_t>(t), k, args.gates.row<float>(t));
    }
  });
}

void CpuOps::RouterLoss(const RouterLossArgs& args) {
  const int64_t tokens = args.probs.dim(0);
  const int64_t k = args.choices.dim(1);
  const int64_t length = args.sequence_length > 0 ? args.sequence_length : std::max<int64_t>(1, tokens);
  const std::vector<BalanceSums> sequences = SumByRuns(args.probs, args.choices, length);
  BalanceSums all(args.probs.dim(1));
  double sequence_loss = 0;
  for (const BalanceSums& sums : sequences) {
    all.Add(sums);
    sequence_loss += sums.Loss(length, k);
  }
  std::vector<double> squares(static_cast<size_t>(tokens));
  ParallelForRange(tokens, kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const double lse = LogSumExp(args.logits.row<float>(t), args.logits.dim(1));
      squares[static_cast<size_t>(t)] = lse * lse;
    }
  });
  const double n = static_cast<double>(std::max<int64_t>(1, tokens));
  const double num_sequences = static_cast<double>(std::max<size_t>(1, sequences.size()));
  if (args.balance != nullptr) *args.balance = tokens > 0 ? all.Loss(tokens, k) : 0.0;
  if (args.sequence_balance != nullptr) *args.sequence_balance = sequence_loss / num_sequences;
  if (args.z != nullptr) *args.z = std::accumulate(squares.begin(), squares.end(), 0.0) / n;
}

void CpuOps::RouterGrad(const RouterGradArgs& args) {
  const int64_t tokens = args.probs.dim(0);
  const int64_t num_experts = args.probs.dim(1);
  const int64_t k = args.choices.dim(1);
  const int64_t length = args.sequence_length > 0 ? args.sequence_length : std::max<int64_t>(1, tokens);
  const double n = static_cast<double>(std::max<int64_t>(1, tokens));
  const bool balances = args.weights.balance != 0 || args.weights.sequence_balance != 0;
  std::vector<BalanceSums> sequences;
  BalanceSums all(num_experts);
  if (balances) sequences = SumByRuns(args.probs, args.choices, length);
  for (const BalanceSums& sums : sequences) all.Add(sums);

  ParallelForRange(tokens, kTokensPerTask, [&](int64_t begin, int64_t end) {
    std::vector<double> slope(static_cast<size_t>(num_experts));
    std::vector<double> dprobs(static_cast<size_t>(num_experts));
    for (int64_t t = begin; t < end; ++t) {
      const float* probs = args.probs.row<float>(t);
      std::fill(dprobs.begin(), dprobs.end(), 0.0);
      AddGateGrad(probs, args.experts.row<int32_t>(t), args.gates.row<float>(t), args.dgates.row<float>(t), k,
                  dprobs);
      if (balances) {
        const BalanceSums& own = sequences[static_cast<size_t>(t / length)];
        const double scale = static_cast<double>(num_experts) / (n * static_cast<double>(k));
        for (size_t e = 0; e < slope.size(); ++e) {
          slope[e] = scale * (args.weights.balance * all.count[e] / n +
                              args.weights.sequence_balance * own.count[e] / static_cast<double>(length));
        }
        AddShareGrad(probs, slope, dprobs);
      }
      const float* logits = args.logits.row<float>(t);
      float* dlogits = args.dlogits.row<float>(t);
      const double lse = args.weights.z != 0 ? LogSumExp(logits, num_experts) : 0.0;
      const bool softmax = args.scores == RouterScores::kSoftmax;
      const double mean = std::inner_product(dprobs.begin(), dprobs.end(), probs, 0.0);  // Under a softmax.
      for (int64_t e = 0; e < num_experts; ++e) {
        const double p = probs[e];
        const double dp = dprobs[static_cast<size_t>(e)];
        double grad = softmax ? p * (dp - mean) : dp * p * (1.0 - p);
        if (args.weights.z != 0) grad += args.weights.z * 2.0 * lse * std::exp(logits[e] - lse) / n;
        dlogits[e] = static_cast<float>(grad);
      }
    }
  });
}

void CpuOps::RouterHistogram(const RouterHistogramArgs& args) {
  const int64_t tokens = args.probs.dim(0);
  const int64_t num_experts = args.probs.dim(1);
  const int64_t bins = args.counts_acc.dim(1);
  const int64_t rank = std::min(args.experts_per_token + 1, num_experts);
  const float* bias = args.bias.data<float>();
  const int64_t num_blocks = (tokens + kTokensPerTask - 1) / kTokensPerTask;
  // One expert's counts belong to one task each, so tasks share the thresholds, not the counts.
  std::vector<double> threshold(static_cast<size_t>(tokens));
  ParallelFor(num_blocks, [&](int64_t block) {
    std::vector<int32_t> ranked(static_cast<size_t>(rank));
    for (int64_t t = block * kTokensPerTask; t < std::min(tokens, (block + 1) * kTokensPerTask); ++t) {
      const float* probs = args.probs.row<float>(t);
      RankExperts(probs, bias, num_experts, rank, ranked.data());
      const int32_t last = ranked.back();
      threshold[static_cast<size_t>(t)] = static_cast<double>(probs[last]) + bias[last];
    }
  });
  ParallelFor(num_experts, [&](int64_t e) {
    int32_t* counts = args.counts_acc.row<int32_t>(e);
    for (int64_t t = 0; t < tokens; ++t) {
      const double margin =
          static_cast<double>(args.probs.row<float>(t)[e]) - threshold[static_cast<size_t>(t)];
      const double bin = std::floor((margin + 2.0) / 4.0 * static_cast<double>(bins));
      ++counts[static_cast<int64_t>(std::clamp(bin, 0.0, static_cast<double>(bins - 1)))];
    }
  });
}

}  // namespace sluice
