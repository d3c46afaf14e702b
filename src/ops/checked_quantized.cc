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

void CheckedOps::QuantizedEmbedding(const QuantizedEmbeddingArgs& args) {
  const ArgChecker check("QuantizedEmbedding", dtype());
  CheckOneMatrix(check, args.table);
  check.IntOfRank("tokens", args.tokens, 1);
  check.Real("out", args.out, {args.tokens.dim(0), args.table.in});
  check.IntsIn("tokens", args.tokens, 0, args.table.out - 1);
  backend_->QuantizedEmbedding(args);
}

}  // namespace sluice
