// Cases of RmsNormMatMuls and QuantizedFeedForward, and that they give the bits of the ops that they stand
// for.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "backend/backend.h"
#include "backend/cpu/targets.h"
#include "backend/testing/harness.h"
#include "backend/testing/quantized_matrices.h"

namespace sluice {
namespace {

using enum WeightFormat;
using MatrixPointer = std::shared_ptr<const QuantizedMatrixBuffer>;

OpCase NormedCase(int64_t rows, int64_t size, const Fill& fill = Normal()) {
  OpCase c(fmt::format("RmsNormMatMuls {} rows of {}", rows, size));
  c.In("x", {rows, size}, fill).In("weight", {size}, Normal(0.2, 1));
  c.Out("normed", {rows, size}).Out("y", {rows, 33}).Out("z", {rows, 16});
  c.num_rows = rows;
  c.rows = [a = RandomMatrix(kQ8, 1, 33, size), b = RandomMatrix(kQ4, 1, 16, size)](
               Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    const auto part = [&](const char* name) { return t[name].Rows(begin, end); };
    ops.RmsNormMatMuls(
        {{part("x"), t["weight"], 1e-6, part("normed")}, {{a->view(), part("y")}, {b->view(), part("z")}}});
  };
  c.NanStaysInRow({"x"}, "y");
  return c;
}

TEST(RmsNormMatMuls, RowsAroundTheTilesAndTasks) {
  EXPECT_TRUE(
      CheckCases({NormedCase(0, 32), NormedCase(1, 32), NormedCase(1, 256), NormedCase(7, 64),
                  NormedCase(49, 96), NormedCase(5, 64, Constant(0)), NormedCase(5, 64, Normal(1e-20))}));
}

// Matrices of a layer: hidden 64, experts of 32 · `blocks`, a shared one of 96.
struct Layer {
  static constexpr int64_t kHidden = 64;

  Layer(WeightFormat gate_up_format, WeightFormat down_format, int64_t experts, int64_t blocks) {
    const int64_t size = 32 * blocks;
    gate_up = RandomMatrix(gate_up_format, experts, 2 * size, kHidden);
    down = RandomMatrix(down_format, experts, kHidden, size);
    shared_gate_up = RandomMatrix(gate_up_format, 1, 192, kHidden);
    shared_down = RandomMatrix(down_format, 1, kHidden, 96);
  }
  FeedForwardMatrices experts() const { return {gate_up->view(), down->view()}; }
  FeedForwardMatrices shared() const { return {shared_gate_up->view(), shared_down->view()}; }

  MatrixPointer gate_up, down, shared_gate_up, shared_down;
};

// Tokens go to two experts each: the first to none, the others as their number says; expert 1 gets none.
struct Routing {
  Routing(int64_t num_tokens, int32_t num_experts) : tokens(num_tokens) {
    for (int32_t e = 0; e < num_experts; ++e) {
      offsets.push_back(rows);
      for (int64_t t = 1; t < tokens; ++t) {
        for (int32_t slot = 0; slot < 2; ++slot) {
          if (Expert(t, slot, num_experts) != e) continue;
          token_row[static_cast<size_t>(2 * t + slot)] = rows++;
          row_token.push_back(static_cast<int32_t>(t));
        }
      }
    }
    offsets.push_back(rows);
  }
  static int64_t Expert(int64_t t, int32_t slot, int32_t num_experts) {
    const int64_t expert = (t * 5 + slot * 2) % num_experts;
    return expert == 1 ? 0 : expert;
  }
  int64_t tokens;
  int32_t rows = 0;
  std::vector<int32_t> offsets;
  std::vector<int32_t> token_row = std::vector<int32_t>(static_cast<size_t>(2 * tokens), -1);
  std::vector<int32_t> row_token;
};

OpCase FeedForwardCase(WeightFormat gate_up, WeightFormat down, int64_t tokens, int32_t experts,
                       int64_t blocks, bool has_shared) {
  OpCase c(fmt::format("QuantizedFeedForward {} and {}, {} tokens, {} experts of {}{}", NameOf(gate_up),
                       NameOf(down), tokens, experts, 32 * blocks, has_shared ? ", shared" : ""));
  const Routing routing(tokens, experts);
  c.In("x", {tokens, Layer::kHidden});
  c.Ints("offsets", {experts + 1}, routing.offsets).Ints("token_row", {tokens, 2}, routing.token_row);
  c.InOut("outputs", {2 * tokens, Layer::kHidden});
  if (has_shared) c.Out("shared_out", {tokens, Layer::kHidden});
  c.forward = [layer = Layer(gate_up, down, experts, blocks), has_shared](Ops& ops, const Tensors& t) {
    QuantizedFeedForwardArgs args;
    args.x = t["x"];
    args.experts = layer.experts();
    if (has_shared) args.shared = layer.shared();
    args.offsets = t["offsets"];
    args.token_row = t["token_row"];
    args.outputs = t["outputs"];
    args.shared_out = t.Optional("shared_out");
    ops.QuantizedFeedForward(args);
  };
  return c;
}

TEST(QuantizedFeedForward, FormatsTokensAndExperts) {
  EXPECT_TRUE(
      CheckCases({FeedForwardCase(kQ8, kQ8, 1, 4, 1, true), FeedForwardCase(kQ8, kQ8, 2, 4, 2, true),
                  FeedForwardCase(kQ8, kQ8, 9, 3, 1, false), FeedForwardCase(kQ4, kQ4, 9, 4, 3, true),
                  FeedForwardCase(kQ4, kQ8, 7, 2, 1, true), FeedForwardCase(kQ8, kQ4, 70, 4, 1, true)}));
}

TEST(QuantizedFeedForward, GivesTheBitsOfTheSingleOps) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const auto buffer = [](int64_t rows, int64_t size) { return Buffer(DType::kF32, {rows, size}); };
  constexpr int64_t kHidden = Layer::kHidden;
  for (const int64_t tokens : {1, 2, 60}) {
    const Layer layer(kQ8, kQ4, 4, 3);
    Routing routing(tokens, 4);
    const TensorView offsets = TensorView::Of(routing.offsets.data(), {5});
    const TensorView token_row = TensorView::Of(routing.token_row.data(), {tokens, 2});
    const TensorView row_token = TensorView::Of(routing.row_token.data(), {routing.rows});
    const Buffer x = RandomWeights(tokens, kHidden, 5);
    for (const std::string& target : CpuTargets()) {
      UseCpuTarget(target);
      const Buffer rows = buffer(routing.rows, kHidden), outputs = buffer(routing.rows, kHidden);
      const Buffer gate_up = buffer(routing.rows, 192), activated = buffer(routing.rows, 96);
      const Buffer shared_gate_up = buffer(tokens, 192), shared_activated = buffer(tokens, 96);
      const Buffer shared_out = buffer(tokens, kHidden);
      ops->Dispatch({x, row_token, rows});
      ops->GroupedQuantizedMatMul({rows, layer.gate_up->view(), offsets, gate_up});
      ops->SwiGlu({gate_up, activated});
      ops->GroupedQuantizedMatMul({activated, layer.down->view(), offsets, outputs});
      ops->QuantizedMatMul({x, layer.shared_gate_up->view(), shared_gate_up});
      ops->SwiGlu({shared_gate_up, shared_activated});
      ops->QuantizedMatMul({shared_activated, layer.shared_down->view(), shared_out});
      const Buffer fused_outputs = buffer(routing.rows, kHidden), fused_shared = buffer(tokens, kHidden);
      ops->QuantizedFeedForward(
          {x, layer.experts(), layer.shared(), offsets, token_row, fused_outputs, fused_shared});
      const auto same = [](const TensorView& a, const TensorView& b) {
        return std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.num_elements()) * sizeof(float)) == 0;
      };
      EXPECT_TRUE(same(fused_outputs, outputs)) << tokens << " tokens, " << target;
      EXPECT_TRUE(same(fused_shared, shared_out)) << tokens << " tokens, " << target;
    }
    UseCpuTarget("");
  }
}

}  // namespace
}  // namespace sluice
