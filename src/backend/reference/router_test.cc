// What comparing backends cannot show, since they may share a misreading: the router's capacity, seen
// from its definition.
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "backend/reference/reference_ops.h"
#include "base/random.h"

namespace sluice {
namespace {

class RouterTest : public testing::Test {
 protected:
  static constexpr int64_t kExperts = 8, kSlots = 2;

  // Logits of random tokens; `skew` is added to expert 0's.
  Buffer Logits(int64_t tokens, double skew) {
    Random random(11);
    Buffer logits(DType::kF64, {tokens, kExperts});
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t e = 0; e < kExperts; ++e) {
        logits.view().row<double>(t)[e] = random.Normal() + (e == 0 ? skew : 0);
      }
    }
    return logits;
  }
  struct Routed {
    Buffer probs, choices, experts, gates;
  };
  Routed Route(const Buffer& logits, int64_t sequence_length, RouterCapacity capacity) {
    const int64_t tokens = logits.view().dim(0);
    Routed out{Buffer(DType::kF64, {tokens, kExperts}), Buffer(DType::kI32, {tokens, kSlots}),
               Buffer(DType::kI32, {tokens, kSlots}), Buffer(DType::kF64, {tokens, kSlots})};
    const Buffer bias(DType::kF64, {kExperts});
    ops_.Router({.logits = logits,
                 .bias = bias,
                 .experts_per_token = kSlots,
                 .capacity = capacity,
                 .sequence_length = sequence_length,
                 .probs = out.probs,
                 .choices = out.choices,
                 .experts = out.experts,
                 .gates = out.gates});
    return out;
  }

  ReferenceOps<double> ops_;
};

TEST_F(RouterTest, CapacityHoldsAtEveryBlockEnd) {
  const int64_t length = 200, sequences = 3, block = RouterCapacity::kBlockPositions;
  const Buffer logits = Logits(length * sequences, 2.5);
  RouterCapacity capacity{
      .rule = CapacityRule::kDynamic, .factor = 1.0, .prior_tokens = 64, .gamma_max = 1.5};
  const Routed out = Route(logits, length, capacity);
  std::map<int32_t, int64_t> demand, served;
  int64_t unserved = 0;
  for (int64_t begin = 0; begin < length; begin += block) {
    const int64_t end = std::min(begin + block, length);
    std::map<int32_t, int64_t> limit;
    for (int32_t e = 0; e < kExperts; ++e) {
      limit[e] =
          capacity.Limit(kSlots, kExperts, demand[e], begin * sequences, end * sequences, length * sequences);
    }
    for (int64_t s = 0; s < sequences; ++s) {
      for (int64_t t = s * length + begin; t < s * length + end; ++t) {
        for (int64_t slot = 0; slot < kSlots; ++slot) {
          ++demand[out.choices.view().row<int32_t>(t)[slot]];
          const int32_t e = out.experts.view().row<int32_t>(t)[slot];
          e < 0 ? ++unserved : ++served[e];
        }
      }
    }
    for (int32_t e = 0; e < kExperts; ++e) EXPECT_LE(served[e], limit[e]) << "expert " << e << " at " << end;
  }
  EXPECT_GT(demand[0], served[0]) << "the case must press on the capacity";
  EXPECT_LT(unserved, length * sequences * kSlots / 10);
}

TEST_F(RouterTest, LaterPositionsChangeNothingBefore) {
  const int64_t length = 150;
  const Buffer whole = Logits(length, 2);
  Buffer changed = Logits(length, 2);
  const int64_t from = 128;
  for (int64_t t = from; t < length; ++t) changed.view().row<double>(t)[3] += 9;
  const RouterCapacity capacity{.rule = CapacityRule::kDynamic, .factor = 1.0};
  const Routed a = Route(whole, length, capacity), b = Route(changed, length, capacity);
  for (int64_t t = 0; t < from; ++t) {
    for (int64_t slot = 0; slot < kSlots; ++slot) {
      EXPECT_EQ(a.experts.view().row<int32_t>(t)[slot], b.experts.view().row<int32_t>(t)[slot]);
    }
  }
}

TEST_F(RouterTest, GatesSumToOneOverWhatServed) {
  const Routed out =
      Route(Logits(300, 4), 300, {.rule = CapacityRule::kDynamic, .factor = 1.0, .gamma_max = 1.0});
  for (int64_t t = 0; t < 300; ++t) {
    const int32_t* experts = out.experts.view().row<int32_t>(t);
    const double* gates = out.gates.view().row<double>(t);
    EXPECT_TRUE(experts[0] >= 0 || experts[1] < 0) << "unserved slots come last";
    EXPECT_NEAR(gates[0] + gates[1], experts[0] >= 0 ? 1 : 0, 1e-12);
  }
}

TEST_F(RouterTest, BalanceLossIsTheSquaredVariationOfUse) {
  // All tokens choose experts 0 and 1 with probability near one and no other: f = P = (1/2, 1/2, 0, ...),
  // so that E Σ f P − 1 = E/2 − 1.
  const int64_t tokens = 16;
  Buffer logits(DType::kF64, {tokens, kExperts});
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t e = 0; e < kExperts; ++e) logits.view().row<double>(t)[e] = e < 2 ? 40 : -40;
  }
  const Routed out = Route(logits, tokens, {});
  double balance = 0, sequence_balance = 0, z = 0;
  ops_.RouterLoss({.logits = logits,
                   .probs = out.probs,
                   .choices = out.choices,
                   .sequence_length = 4,
                   .balance = &balance,
                   .sequence_balance = &sequence_balance,
                   .z = &z});
  EXPECT_NEAR(balance, kExperts / 2.0 - 1, 1e-9);
  EXPECT_NEAR(sequence_balance, balance, 1e-9);
  EXPECT_NEAR(z, (40 + std::log(2.0)) * (40 + std::log(2.0)), 1e-9);
}

}  // namespace
}  // namespace sluice
