// Argument checks of routing, dispatch and combine.
#include "ops/arg_checker.h"
#include "ops/checked_ops.h"

namespace sluice {
namespace {

// logits, probs and choices of a routed batch.
template <class Args>
void CheckRouted(const ArgChecker& check, const Args& args) {
  check.RealOfRank("logits", args.logits, 2);
  check.IntOfRank("choices", args.choices, 2);
  check.Real("probs", args.probs, args.logits.shape());
  check.Int("choices", args.choices, {args.logits.dim(0), args.choices.dim(1)});
  check.IntsIn("choices", args.choices, 0, args.logits.dim(1) - 1);
  check.Require(args.sequence_length > 0 && args.logits.dim(0) % args.sequence_length == 0,
                "sequence_length must be positive and divide the tokens");
}

}  // namespace

void CheckedOps::Router(const RouterArgs& args) {
  const ArgChecker check("Router", dtype());
  check.RealOfRank("logits", args.logits, 2);
  const int64_t tokens = args.logits.dim(0), num_experts = args.logits.dim(1), k = args.experts_per_token;
  check.Require(k >= 1 && k <= num_experts, "experts_per_token must be in [1, experts]");
  if (args.capacity.limits()) {
    check.Require(args.sequence_length > 0 && tokens % args.sequence_length == 0,
                  "sequence_length must be positive and divide the tokens");
    check.Require(args.capacity.prior_tokens > 0, "capacity.prior_tokens must be positive");
    check.Require(args.capacity.factor > 0 && args.capacity.gamma_max >= 1,
                  "capacity.factor must be positive and gamma_max at least 1");
  }
  check.Real("bias", args.bias, {num_experts});
  check.Real("probs", args.probs, args.logits.shape());
  check.Int("choices", args.choices, {tokens, k});
  check.Int("experts", args.experts, {tokens, k});
  check.Real("gates", args.gates, {tokens, k});
  backend_->Router(args);
}

void CheckedOps::RouterLoss(const RouterLossArgs& args) {
  const ArgChecker check("RouterLoss", dtype());
  CheckRouted(check, args);
  check.Require(args.balance != nullptr && args.sequence_balance != nullptr && args.z != nullptr,
                "balance, sequence_balance and z must not be null");
  backend_->RouterLoss(args);
}

void CheckedOps::RouterGrad(const RouterGradArgs& args) {
  const ArgChecker check("RouterGrad", dtype());
  CheckRouted(check, args);
  check.Int("experts", args.experts, args.choices.shape());
  check.IntsIn("experts", args.experts, -1, args.logits.dim(1) - 1);
  check.Real("gates", args.gates, args.choices.shape());
  check.Real("dgates", args.dgates, args.choices.shape());
  check.Real("dlogits", args.dlogits, args.logits.shape());
  backend_->RouterGrad(args);
}

void CheckedOps::RouterHistogram(const RouterHistogramArgs& args) {
  const ArgChecker check("RouterHistogram", dtype());
  check.RealOfRank("probs", args.probs, 2);
  const int64_t num_experts = args.probs.dim(1);
  check.Require(args.experts_per_token >= 1 && args.experts_per_token <= num_experts,
                "experts_per_token must be in [1, experts]");
  check.Real("bias", args.bias, {num_experts});
  check.IntOfRank("counts_acc", args.counts_acc, 2);
  check.Require(args.counts_acc.dim(1) >= 1, "counts_acc must have at least one bin");
  check.Int("counts_acc", args.counts_acc, {num_experts, args.counts_acc.dim(1)});
  backend_->RouterHistogram(args);
}

void CheckedOps::PlanDispatch(const PlanDispatchArgs& args) {
  const ArgChecker check("PlanDispatch", dtype());
  check.IntOfRank("experts", args.experts, 2);
  check.IntOfRank("offsets", args.offsets, 1);
  check.Require(args.offsets.dim(0) >= 1, "offsets must have num_experts + 1 elements");
  check.Int("row_token", args.row_token, {args.experts.dim(0) * args.experts.dim(1)});
  check.Int("token_row", args.token_row, args.experts.shape());
  check.IntsIn("experts", args.experts, -1, args.offsets.dim(0) - 2);
  backend_->PlanDispatch(args);
}

void CheckedOps::Dispatch(const DispatchArgs& args) {
  const ArgChecker check("Dispatch", dtype());
  check.RealOfRank("x", args.x, 2);
  check.RealOfRank("rows", args.rows, 2);
  check.Real("rows", args.rows, {args.rows.dim(0), args.x.dim(1)});
  check.Int("row_token", args.row_token, {args.rows.dim(0)});
  check.IntsIn("row_token", args.row_token, -1, args.x.dim(0) - 1);
  backend_->Dispatch(args);
}

void CheckedOps::DispatchGrad(const DispatchGradArgs& args) {
  const ArgChecker check("DispatchGrad", dtype());
  check.RealOfRank("drows", args.drows, 2);
  check.IntOfRank("token_row", args.token_row, 2);
  check.Real("dx", args.dx, {args.token_row.dim(0), args.drows.dim(1)});
  check.IntsIn("token_row", args.token_row, -1, args.drows.dim(0) - 1);
  backend_->DispatchGrad(args);
}

void CheckedOps::Combine(const CombineArgs& args) {
  const ArgChecker check("Combine", dtype());
  check.RealOfRank("rows", args.rows, 2);
  check.IntOfRank("token_row", args.token_row, 2);
  check.Real("gates", args.gates, args.token_row.shape());
  check.Real("out_acc", args.out_acc, {args.token_row.dim(0), args.rows.dim(1)});
  check.IntsIn("token_row", args.token_row, -1, args.rows.dim(0) - 1);
  backend_->Combine(args);
}

void CheckedOps::CombineGrad(const CombineGradArgs& args) {
  const ArgChecker check("CombineGrad", dtype());
  check.RealOfRank("rows", args.rows, 2);
  check.IntOfRank("token_row", args.token_row, 2);
  check.Int("row_token", args.row_token, {args.rows.dim(0)});
  check.IntsIn("token_row", args.token_row, -1, args.rows.dim(0) - 1);
  check.IntsIn("row_token", args.row_token, -1, args.token_row.dim(0) - 1);
  check.Real("gates", args.gates, args.token_row.shape());
  check.Real("dout", args.dout, {args.token_row.dim(0), args.rows.dim(1)});
  check.Real("drows", args.drows, args.rows.shape());
  check.Real("dgates", args.dgates, args.token_row.shape());
  backend_->CombineGrad(args);
}

}  // namespace sluice
