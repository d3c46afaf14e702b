// Cases of PlanDispatch, Dispatch, Combine and their gradients.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/testing/harness.h"
#include "base/random.h"
#include "tensor/host.h"

namespace sluice {
namespace {

// Which experts serve each slot; -1: unserved.
struct Slots {
  std::string name;
  int64_t num_experts;
  int64_t slots_per_token;
  std::vector<int32_t> experts;

  int64_t tokens() const { return static_cast<int64_t>(experts.size()) / slots_per_token; }
  int64_t rows() const { return static_cast<int64_t>(experts.size()); }
};

std::vector<Slots> AllSlots() {
  return {{"two of three experts", 3, 2, {0, 1, 2, 0, 1, 2, 0, 2, 1, 0}},
          {"an empty expert and unserved slots", 4, 2, {3, 0, 0, -1, -1, -1, 1, 3, 3, -1}},
          {"all on one expert", 3, 1, {1, 1, 1, 1}},
          {"nothing served", 2, 2, {-1, -1, -1, -1}},
          {"as many slots as experts", 3, 3, {2, 1, 0, 0, 1, 2}},
          {"no tokens", 2, 2, {}}};
}

// PlanDispatch first, so that the float ops read the plan of the same backend.
void AddPlan(const Slots& slots, OpCase* c) {
  const int64_t tokens = slots.tokens();
  const int64_t k = slots.slots_per_token;
  c->Ints("experts", {tokens, k}, slots.experts).IntsOut("offsets", {slots.num_experts + 1});
  c->IntsOut("row_token", {slots.rows()}).IntsOut("token_row", {tokens, k});
}

void Plan(Ops& ops, const Tensors& t) {
  ops.PlanDispatch({t["experts"], t["offsets"], t["row_token"], t["token_row"]});
}

OpCase DispatchCase(const Slots& slots, int64_t hidden) {
  OpCase c(fmt::format("Dispatch, {}, hidden {}", slots.name, hidden));
  AddPlan(slots, &c);
  c.In("x", {slots.tokens(), hidden}).InOut("rows", {slots.rows(), hidden});
  c.In("drows", {slots.rows(), hidden}).Out("dx", {slots.tokens(), hidden});
  c.forward = [](Ops& ops, const Tensors& t) {
    Plan(ops, t);
    ops.Dispatch({t["x"], t["row_token"], t["rows"]});
  };
  c.gradient = [](Ops& ops, const Tensors& t) { ops.DispatchGrad({t["drows"], t["token_row"], t["dx"]}); };
  c.differentiable = {"x"};
  return c;
}

OpCase CombineCase(const Slots& slots, int64_t hidden) {
  OpCase c(fmt::format("Combine, {}, hidden {}", slots.name, hidden));
  AddPlan(slots, &c);
  const Shape gates = {slots.tokens(), slots.slots_per_token};
  c.In("rows", {slots.rows(), hidden}).In("gates", gates, Uniform(0, 1));
  c.InOut("out_acc", {slots.tokens(), hidden}).In("dout", {slots.tokens(), hidden});
  c.InOut("drows", {slots.rows(), hidden}, Constant(0)).Out("dgates", gates);
  c.forward = [](Ops& ops, const Tensors& t) {
    Plan(ops, t);
    ops.Combine({t["rows"], t["token_row"], t["gates"], t["out_acc"]});
  };
  c.gradient = [](Ops& ops, const Tensors& t) {
    ops.CombineGrad(
        {t["rows"], t["token_row"], t["row_token"], t["gates"], t["dout"], t["drows"], t["dgates"]});
  };
  c.differentiable = {"rows", "gates"};
  return c;
}

TEST(Dispatch, Plans) {
  std::vector<OpCase> cases;
  for (const Slots& slots : AllSlots()) cases.push_back(DispatchCase(slots, 9));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(Dispatch, HiddenSizes) {
  std::vector<OpCase> cases;
  for (const int64_t hidden : {1, 7, 8, 15, 16, 17, 40}) cases.push_back(DispatchCase(AllSlots()[1], hidden));
  EXPECT_TRUE(CheckCases(cases));
}

// Experts that do nothing: what the gates say of a token comes back, as much of it as was served.
TEST(Dispatch, IdentityExpertsReturnTheInput) {
  constexpr int64_t kHidden = 24;
  for (const char* name : {"cpu", "reference"}) {
    const std::unique_ptr<Ops> ops = MakeOps(name);
    Random random(5);
    for (int trial = 0; trial < 40; ++trial) {
      const int64_t experts = 1 + static_cast<int64_t>(random.Below(12));
      const int64_t k =
          1 + static_cast<int64_t>(random.Below(static_cast<uint64_t>(std::min<int64_t>(experts, 4))));
      const auto tokens = static_cast<int64_t>(random.Below(70));
      Slots slots{"random", experts, k, {}};
      const Buffer gates(ops->dtype(), {tokens, k});
      std::vector<double> gate_sum(static_cast<size_t>(tokens));
      for (int64_t i = 0; i < tokens * k; ++i) {
        const bool served = random.Below(5) != 0;
        slots.experts.push_back(served ? static_cast<int32_t>((i % k + random.Below(3) * k) % experts) : -1);
        const double gate = served ? static_cast<double>(random.Below(8)) / 8 : 0.0;  // Sums are exact.
        StoreElement(gates, i, gate);
        gate_sum[static_cast<size_t>(i / k)] += gate;
      }
      const Buffer x(ops->dtype(), {tokens, kHidden}), rows(ops->dtype(), {tokens * k, kHidden});
      const Buffer out(ops->dtype(), {tokens, kHidden});
      for (int64_t i = 0; i < tokens * kHidden; ++i)
        StoreElement(x, i, static_cast<double>(random.Below(64)));
      const Buffer offsets(DType::kI32, {experts + 1}), row_token(DType::kI32, {tokens * k});
      const Buffer token_row(DType::kI32, {tokens, k});
      const TensorView slot_experts = TensorView::Of(slots.experts.data(), {tokens, k});
      ops->PlanDispatch({slot_experts, offsets, row_token, token_row});
      ops->Dispatch({x, row_token, rows});
      ops->Combine({rows, token_row, gates, out});
      for (int64_t i = 0; i < tokens * kHidden; ++i) {
        EXPECT_EQ(LoadElement(out, i), gate_sum[static_cast<size_t>(i / kHidden)] * LoadElement(x, i))
            << name;
      }
    }
  }
}

TEST(Combine, Plans) {
  std::vector<OpCase> cases;
  for (const Slots& slots : AllSlots()) cases.push_back(CombineCase(slots, 9));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(Combine, HiddenSizes) {
  std::vector<OpCase> cases;
  for (const int64_t hidden : {1, 7, 8, 15, 16, 17, 40}) cases.push_back(CombineCase(AllSlots()[1], hidden));
  EXPECT_TRUE(CheckCases(cases));
}

}  // namespace
}  // namespace sluice
