// Argument checks of the elementwise, matrix, loss, optimiser and sampling ops. Attention and the gate
// are in checked_attention.cc, routing in checked_router.cc.
#include "ops/checked_ops.h"

#include <cmath>

#include "ops/arg_checker.h"

namespace sluice {

void CheckedOps::Add(const AddArgs& args) {
  const ArgChecker check("Add", dtype());
  check.RealOfRank("x", args.x, args.x.rank());
  check.Real("out", args.out, args.x.shape());
  backend_->Add(args);
}

void CheckedOps::Scale(const ScaleArgs& args) {
  const ArgChecker check("Scale", dtype());
  check.RealOfRank("x", args.x, args.x.rank());
  backend_->Scale(args);
}

void CheckedOps::Silu(const SiluArgs& args) {
  const ArgChecker check("Silu", dtype());
  check.RealOfRank("x", args.x, args.x.rank());
  check.Real("out", args.out, args.x.shape());
  backend_->Silu(args);
}

void CheckedOps::SiluGrad(const SiluGradArgs& args) {
  const ArgChecker check("SiluGrad", dtype());
  check.RealOfRank("x", args.x, args.x.rank());
  check.Real("dout", args.dout, args.x.shape());
  check.Real("dx", args.dx, args.x.shape());
  backend_->SiluGrad(args);
}

void CheckedOps::SumSquares(const SumSquaresArgs& args) {
  const ArgChecker check("SumSquares", dtype());
  check.RealOfRank("x", args.x, args.x.rank());
  check.Require(args.result != nullptr, "result is null");
  backend_->SumSquares(args);
}

void CheckedOps::Embedding(const EmbeddingArgs& args) {
  const ArgChecker check("Embedding", dtype());
  check.RealOfRank("table", args.table, 2);
  check.IntOfRank("tokens", args.tokens, 1);
  check.Real("out", args.out, {args.tokens.dim(0), args.table.dim(1)});
  check.IntsIn("tokens", args.tokens, 0, args.table.dim(0) - 1);
  backend_->Embedding(args);
}

void CheckedOps::EmbeddingGrad(const EmbeddingGradArgs& args) {
  const ArgChecker check("EmbeddingGrad", dtype());
  check.RealOfRank("dtable_acc", args.dtable_acc, 2);
  check.IntOfRank("tokens", args.tokens, 1);
  check.Real("dout", args.dout, {args.tokens.dim(0), args.dtable_acc.dim(1)});
  check.IntsIn("tokens", args.tokens, 0, args.dtable_acc.dim(0) - 1);
  backend_->EmbeddingGrad(args);
}

void CheckedOps::RmsNorm(const RmsNormArgs& args) {
  const ArgChecker check("RmsNorm", dtype());
  check.RealOfRank("x", args.x, 2);
  check.Real("weight", args.weight, {args.x.dim(1)});
  check.Real("out", args.out, args.x.shape());
  backend_->RmsNorm(args);
}

void CheckedOps::RmsNormGrad(const RmsNormGradArgs& args) {
  const ArgChecker check("RmsNormGrad", dtype());
  check.RealOfRank("x", args.x, 2);
  check.Real("weight", args.weight, {args.x.dim(1)});
  check.Real("dout", args.dout, args.x.shape());
  check.Real("dx", args.dx, args.x.shape());
  check.Real("dweight_acc", args.dweight_acc, {args.x.dim(1)});
  backend_->RmsNormGrad(args);
}

namespace {

void CheckRope(const ArgChecker& check, const char* in_name, const TensorView& in,
               const TensorView& positions, const char* out_name, const TensorView& out) {
  check.RealOfRank(in_name, in, 3);
  check.Require(in.dim(2) % 2 == 0, "head_size must be even");
  check.Int("positions", positions, {in.dim(0)});
  check.Real(out_name, out, in.shape());
  check.IntsIn("positions", positions, 0, INT32_MAX);
  check.NoAlias(in_name, in, out_name, out);
}

}  // namespace

void CheckedOps::Rope(const RopeArgs& args) {
  CheckRope(ArgChecker("Rope", dtype()), "x", args.x, args.positions, "out", args.out);
  backend_->Rope(args);
}

void CheckedOps::RopeGrad(const RopeGradArgs& args) {
  CheckRope(ArgChecker("RopeGrad", dtype()), "dout", args.dout, args.positions, "dx", args.dx);
  backend_->RopeGrad(args);
}

void CheckedOps::LengthScale(const LengthScaleArgs& args) {
  const ArgChecker check("LengthScale", dtype());
  check.RealOfRank("x", args.x, 2);
  check.Int("positions", args.positions, {args.x.dim(0)});
  check.IntsIn("positions", args.positions, 0, INT32_MAX);
  check.Require(args.length >= 2, "length must be at least 2");
  backend_->LengthScale(args);
}

void CheckedOps::MatMul(const MatMulArgs& args) {
  const ArgChecker check("MatMul", dtype());
  check.RealOfRank("x", args.x, 2);
  check.RealOfRank("w", args.w, 2);
  check.Real("w", args.w, {args.w.dim(0), args.x.dim(1)});
  check.Real("y", args.y, {args.x.dim(0), args.w.dim(0)});
  backend_->MatMul(args);
}

void CheckedOps::MatMulGrad(const MatMulGradArgs& args) {
  const ArgChecker check("MatMulGrad", dtype());
  check.RealOfRank("x", args.x, 2);
  check.RealOfRank("w", args.w, 2);
  check.Real("w", args.w, {args.w.dim(0), args.x.dim(1)});
  check.Real("dy", args.dy, {args.x.dim(0), args.w.dim(0)});
  check.OptionalReal("dx", args.dx, args.x.shape());
  check.OptionalReal("dw_acc", args.dw_acc, args.w.shape());
  backend_->MatMulGrad(args);
}

namespace {

// x, w and offsets of both grouped products.
template <class Args>
void CheckGrouped(const ArgChecker& check, const Args& args) {
  check.RealOfRank("x", args.x, 2);
  check.RealOfRank("w", args.w, 3);
  check.Real("w", args.w, {args.w.dim(0), args.w.dim(1), args.x.dim(1)});
  check.Int("offsets", args.offsets, {args.w.dim(0) + 1});
  check.Ascending("offsets", args.offsets);
  const int32_t* offsets = args.offsets.template data<int32_t>();
  check.Require(offsets[0] == 0, "offsets must begin with 0");
  check.Require(offsets[args.w.dim(0)] <= args.x.dim(0), "offsets must end within the rows of x");
}

}  // namespace

void CheckedOps::GroupedMatMul(const GroupedMatMulArgs& args) {
  const ArgChecker check("GroupedMatMul", dtype());
  CheckGrouped(check, args);
  check.Real("y", args.y, {args.x.dim(0), args.w.dim(1)});
  backend_->GroupedMatMul(args);
}

void CheckedOps::GroupedMatMulGrad(const GroupedMatMulGradArgs& args) {
  const ArgChecker check("GroupedMatMulGrad", dtype());
  CheckGrouped(check, args);
  check.Real("dy", args.dy, {args.x.dim(0), args.w.dim(1)});
  check.OptionalReal("dx", args.dx, args.x.shape());
  check.OptionalReal("dw_acc", args.dw_acc, args.w.shape());
  backend_->GroupedMatMulGrad(args);
}

void CheckedOps::SwiGlu(const SwiGluArgs& args) {
  const ArgChecker check("SwiGlu", dtype());
  check.RealOfRank("out", args.out, 2);
  check.Real("gate_up", args.gate_up, {args.out.dim(0), 2 * args.out.dim(1)});
  backend_->SwiGlu(args);
}

void CheckedOps::SwiGluGrad(const SwiGluGradArgs& args) {
  const ArgChecker check("SwiGluGrad", dtype());
  check.RealOfRank("dout", args.dout, 2);
  check.Real("gate_up", args.gate_up, {args.dout.dim(0), 2 * args.dout.dim(1)});
  check.Real("dgate_up", args.dgate_up, args.gate_up.shape());
  backend_->SwiGluGrad(args);
}

namespace {

// What both ops of a loss are given.
template <class Args>
void CheckTargets(const ArgChecker& check, const Args& args) {
  check.RealOfRank("logits", args.logits, 2);
  check.Int("targets", args.targets, {args.logits.dim(0)});
  check.IntsIn("targets", args.targets, -1, args.logits.dim(1) - 1);
  check.OptionalReal("teacher.logits", args.teacher.logits, args.logits.shape());
  check.Require(args.teacher.share >= 0 && args.teacher.share <= 1, "teacher.share must be in [0, 1]");
  check.Require(args.teacher.logits.present() || args.teacher.share == 0,
                "teacher.share must be 0 without teacher.logits");
}

}  // namespace

void CheckedOps::CrossEntropy(const CrossEntropyArgs& args) {
  const ArgChecker check("CrossEntropy", dtype());
  CheckTargets(check, args);
  check.Real("loss", args.loss, {args.logits.dim(0)});
  backend_->CrossEntropy(args);
}

void CheckedOps::CrossEntropyGrad(const CrossEntropyGradArgs& args) {
  const ArgChecker check("CrossEntropyGrad", dtype());
  CheckTargets(check, args);
  check.Real("weight", args.weight, {args.logits.dim(0)});
  check.Real("dlogits", args.dlogits, args.logits.shape());
  backend_->CrossEntropyGrad(args);
}

void CheckedOps::AdamW(const AdamWArgs& args) {
  const ArgChecker check("AdamW", dtype());
  check.RealOfRank("param", args.param, args.param.rank());
  check.Real("grad", args.grad, args.param.shape());
  check.Real("m", args.m, args.param.shape());
  check.Real("v", args.v, args.param.shape());
  check.Require(args.step >= 1, "step must be at least 1");
  backend_->AdamW(args);
}

void CheckedOps::Muon(const MuonArgs& args) {
  const ArgChecker check("Muon", dtype());
  check.RealOfRank("param", args.param, args.param.rank());
  check.Require(args.param.rank() == 2 || args.param.rank() == 3, "param must have 2 or 3 axes");
  check.Real("grad", args.grad, args.param.shape());
  check.Real("momentum", args.momentum, args.param.shape());
  for (const TensorView& view : {args.param, args.grad, args.momentum})
    check.Require(view.rank() == 3 || view.contiguous(), "a single matrix must be contiguous");
  check.Require(args.iterations >= 0, "iterations must not be negative");
  backend_->Muon(args);
}

void CheckedOps::Sample(const SampleArgs& args) {
  const ArgChecker check("Sample", dtype());
  check.RealOfRank("logits", args.logits, 1);
  check.Require(args.logits.dim(0) > 0, "logits must not be empty");
  check.Require(std::isfinite(args.temperature) && args.temperature >= 0,
                "temperature must be finite and >= 0");
  check.Require(args.top_k >= 0, "top_k must not be negative");
  check.Require(args.top_p >= 0 && args.top_p <= 1, "top_p must be in [0, 1]");
  check.Require(args.min_p >= 0 && args.min_p <= 1, "min_p must be in [0, 1]");
  check.Require(args.uniform >= 0 && args.uniform < 1, "uniform must be in [0, 1)");
  check.Require(args.token != nullptr, "token is null");
  backend_->Sample(args);
}

}  // namespace sluice
