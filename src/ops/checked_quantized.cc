// Argument checks of quantised products.
#include "ops/arg_checker.h"
#include "ops/checked_ops.h"

namespace sluice {
namespace {

// The parts of w fit its sizes and have no gaps.
void CheckMatrix(const ArgChecker& check, const QuantizedMatrix& w) {
  check.Require(w.present(), "w must be present");
  check.Require(w.format != WeightFormat::kFloat, "w must be in bf16, q8 or q4");
  check.Require(w.in > 0 && (!HasBlocks(w.format) || w.in % QuantizedMatrix::kBlock == 0),
                "w.in must be positive, and a multiple of 32 if the format has blocks");
  check.Require(w.num_experts >= 1 && w.out >= 0, "w must have at least one expert and no negative size");
  const Shape codes = QuantizedMatrix::CodesShape(w.format, w.num_experts, w.out, w.in);
  check.View("w.codes", w.codes, HasBlocks(w.format) ? DType::kU8 : DType::kBF16, codes);
  check.Require(w.codes.contiguous(), "w must be contiguous");
  if (!HasBlocks(w.format)) return;
  const Shape halves = {codes[0], w.num_blocks(), QuantizedMatrix::kPanel};
  check.View("w.scales", w.scales, DType::kF16, halves);
  check.Require(w.scales.contiguous(), "w must be contiguous");
  if (w.format != WeightFormat::kQ4) return;
  check.View("w.mins", w.mins, DType::kF16, halves);
  check.Require(w.mins.contiguous(), "w must be contiguous");
}

void CheckOneMatrix(const ArgChecker& check, const QuantizedMatrix& w) {
  CheckMatrix(check, w);
  check.Require(w.num_experts == 1, "w must be one matrix");
}

void CheckFeedForward(const ArgChecker& check, const FeedForwardMatrices& w, int64_t hidden) {
  for (const QuantizedMatrix& matrix : {w.gate_up, w.down}) {
    CheckMatrix(check, matrix);
    check.Require(HasBlocks(matrix.format), "matrices must be in q8 or q4");
  }
  check.Require(w.down.num_experts == w.gate_up.num_experts, "gate_up and down must have as many experts");
  check.Require(w.gate_up.in == hidden && w.down.out == hidden, "gate_up and down must fit the size of x");
  check.Require(w.gate_up.out == 2 * w.down.in, "gate_up must give gate and up of down's input");
}

}  // namespace

void CheckedOps::QuantizedMatMul(const QuantizedMatMulArgs& args) {
  const ArgChecker check("QuantizedMatMul", dtype());
  CheckOneMatrix(check, args.w);
  check.RealOfRank("x", args.x, 2);
  check.Real("x", args.x, {args.x.dim(0), args.w.in});
  check.Real("y", args.y, {args.x.dim(0), args.w.out});
  check.NoAlias("x", args.x, "y", args.y);
  backend_->QuantizedMatMul(args);
}

void CheckedOps::GroupedQuantizedMatMul(const GroupedQuantizedMatMulArgs& args) {
  const ArgChecker check("GroupedQuantizedMatMul", dtype());
  CheckMatrix(check, args.w);
  check.RealOfRank("x", args.x, 2);
  check.Real("x", args.x, {args.x.dim(0), args.w.in});
  check.Real("y", args.y, {args.x.dim(0), args.w.out});
  check.NoAlias("x", args.x, "y", args.y);
  check.Int("offsets", args.offsets, {args.w.num_experts + 1});
  check.Ascending("offsets", args.offsets);
  const int32_t* offsets = args.offsets.data<int32_t>();
  check.Require(offsets[0] == 0, "offsets must begin with 0");
  check.Require(offsets[args.w.num_experts] <= args.x.dim(0), "offsets must end within the rows of x");
  backend_->GroupedQuantizedMatMul(args);
}

void CheckedOps::RmsNormMatMuls(const RmsNormMatMulsArgs& args) {
  const ArgChecker check("RmsNormMatMuls", dtype());
  check.RealOfRank("norm.x", args.norm.x, 2);
  check.Real("norm.weight", args.norm.weight, {args.norm.x.dim(1)});
  check.Real("norm.out", args.norm.out, args.norm.x.shape());
  check.Require(!args.products.empty(), "there must be a product");
  for (const auto& [w, y] : args.products) {
    CheckOneMatrix(check, w);
    check.Require(HasBlocks(w.format), "w must be in q8 or q4");
    check.Require(w.in == args.norm.x.dim(1), "w must fit the size of norm.x");
    check.Real("y", y, {args.norm.x.dim(0), w.out});
    check.NoAlias("norm.out", args.norm.out, "y", y);
  }
  backend_->RmsNormMatMuls(args);
}

void CheckedOps::QuantizedFeedForward(const QuantizedFeedForwardArgs& args) {
  const ArgChecker check("QuantizedFeedForward", dtype());
  check.RealOfRank("x", args.x, 2);
  CheckFeedForward(check, args.experts, args.x.dim(1));
  check.Require(args.shared.gate_up.present() == args.shared_out.present(),
                "shared and shared_out must both be present or absent");
  if (args.shared.gate_up.present()) {
    CheckFeedForward(check, args.shared, args.x.dim(1));
    check.Require(args.shared.gate_up.num_experts == 1, "shared must be one expert");
    check.Real("shared_out", args.shared_out, args.x.shape());
    check.NoAlias("x", args.x, "shared_out", args.shared_out);
  }
  check.RealOfRank("outputs", args.outputs, 2);
  check.Real("outputs", args.outputs, {args.outputs.dim(0), args.x.dim(1)});
  check.NoAlias("x", args.x, "outputs", args.outputs);
  check.Int("offsets", args.offsets, {args.experts.gate_up.num_experts + 1});
  check.Ascending("offsets", args.offsets);
  const int32_t* offsets = args.offsets.data<int32_t>();
  const int64_t served = offsets[args.experts.gate_up.num_experts];
  check.Require(offsets[0] == 0, "offsets must begin with 0");
  check.Require(served <= args.outputs.dim(0), "offsets must end within the rows of outputs");
  check.IntOfRank("token_row", args.token_row, 2);
  check.Int("token_row", args.token_row, {args.x.dim(0), args.token_row.dim(1)});
  check.IntsIn("token_row", args.token_row, -1, served - 1);
  backend_->QuantizedFeedForward(args);
}

void CheckedOps::QuantizedEmbedding(const QuantizedEmbeddingArgs& args) {
  const ArgChecker check("QuantizedEmbedding", dtype());
  CheckOneMatrix(check, args.table);
  check.IntOfRank("tokens", args.tokens, 1);
  check.Real("out", args.out, {args.tokens.dim(0), args.table.in});
  check.IntsIn("tokens", args.tokens, 0, args.table.out - 1);
  backend_->QuantizedEmbedding(args);
}

}  // namespace sluice
