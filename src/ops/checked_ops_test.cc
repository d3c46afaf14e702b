// Arguments that are right go through to the backend; each kind of mistake is a Bug that names the op, the
// argument and what would be right, and never reaches the backend.
#include "ops/checked_ops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <functional>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// A backend that computes nothing.
class CountingOps final : public Ops {
 public:
  explicit CountingOps(int& calls) : num_calls(calls) {}
  DType dtype() const override { return DType::kF32; }
  const char* name() const override { return "counting"; }

  void Add(const AddArgs&) override { ++num_calls; }
  void Scale(const ScaleArgs&) override { ++num_calls; }
  void Silu(const SiluArgs&) override { ++num_calls; }
  void SiluGrad(const SiluGradArgs&) override { ++num_calls; }
  void SumSquares(const SumSquaresArgs&) override { ++num_calls; }
  void Embedding(const EmbeddingArgs&) override { ++num_calls; }
  void EmbeddingGrad(const EmbeddingGradArgs&) override { ++num_calls; }
  void RmsNorm(const RmsNormArgs&) override { ++num_calls; }
  void RmsNormGrad(const RmsNormGradArgs&) override { ++num_calls; }
  void Rope(const RopeArgs&) override { ++num_calls; }
  void RopeGrad(const RopeGradArgs&) override { ++num_calls; }
  void LengthScale(const LengthScaleArgs&) override { ++num_calls; }
  void MatMul(const MatMulArgs&) override { ++num_calls; }
  void MatMulGrad(const MatMulGradArgs&) override { ++num_calls; }
  void GroupedMatMul(const GroupedMatMulArgs&) override { ++num_calls; }
  void GroupedMatMulGrad(const GroupedMatMulGradArgs&) override { ++num_calls; }
  void QuantizedMatMul(const QuantizedMatMulArgs&) override { ++num_calls; }
  void GroupedQuantizedMatMul(const GroupedQuantizedMatMulArgs&) override { ++num_calls; }
  void QuantizedEmbedding(const QuantizedEmbeddingArgs&) override { ++num_calls; }
  void RmsNormMatMuls(const RmsNormMatMulsArgs&) override { ++num_calls; }
  void QuantizedFeedForward(const QuantizedFeedForwardArgs&) override { ++num_calls; }
  void SwiGlu(const SwiGluArgs&) override { ++num_calls; }
  void SwiGluGrad(const SwiGluGradArgs&) override { ++num_calls; }
  void StoreKeyRows(const StoreKeyRowsArgs&) override { ++num_calls; }
  void LoadKeyRows(const LoadKeyRowsArgs&) override { ++num_calls; }
  void FullAttention(const FullAttentionArgs&) override { ++num_calls; }
  void FullAttentionGrad(const FullAttentionGradArgs&) override { ++num_calls; }
  void SparseAttention(const SparseAttentionArgs&) override { ++num_calls; }
  void SurrogateAttention(const SurrogateAttentionArgs&) override { ++num_calls; }
  void SparseAttentionGrad(const SparseAttentionGradArgs&) override { ++num_calls; }
  void EncodeKeys(const EncodeKeysArgs&) override { ++num_calls; }
  void GuaranteedAttention(const GuaranteedAttentionArgs&) override { ++num_calls; }
  void CausalConv(const CausalConvArgs&) override { ++num_calls; }
  void CausalConvGrad(const CausalConvGradArgs&) override { ++num_calls; }
  void PackGateKeys(const PackGateKeysArgs&) override { ++num_calls; }
  void BuildGateTree(const BuildGateTreeArgs&) override { ++num_calls; }
  void UnpackGateKeys(const UnpackGateKeysArgs&) override { ++num_calls; }
  void SelectKeys(const SelectKeysArgs&) override { ++num_calls; }
  void KeepMass(const KeepMassArgs&) override { ++num_calls; }
  void GateScores(const GateScoresArgs&) override { ++num_calls; }
  void GateScoresGrad(const GateScoresGradArgs&) override { ++num_calls; }
  void FarScores(const FarScoresArgs&) override { ++num_calls; }
  void FarScoresGrad(const FarScoresGradArgs&) override { ++num_calls; }
  void GateKl(const GateKlArgs&) override { ++num_calls; }
  void DenseGateKl(const DenseGateKlArgs&) override { ++num_calls; }
  void Router(const RouterArgs&) override { ++num_calls; }
  void RouterLoss(const RouterLossArgs&) override { ++num_calls; }
  void RouterGrad(const RouterGradArgs&) override { ++num_calls; }
  void RouterHistogram(const RouterHistogramArgs&) override { ++num_calls; }
  void PlanDispatch(const PlanDispatchArgs&) override { ++num_calls; }
  void Dispatch(const DispatchArgs&) override { ++num_calls; }
  void DispatchGrad(const DispatchGradArgs&) override { ++num_calls; }
  void Combine(const CombineArgs&) override { ++num_calls; }
  void CombineGrad(const CombineGradArgs&) override { ++num_calls; }
  void CrossEntropy(const CrossEntropyArgs&) override { ++num_calls; }
  void CrossEntropyGrad(const CrossEntropyGradArgs&) override { ++num_calls; }
  void AdamW(const AdamWArgs&) override { ++num_calls; }
  void Muon(const MuonArgs&) override { ++num_calls; }
  void Sample(const SampleArgs&) override { ++num_calls; }

 private:
  int& num_calls;
};

class CheckedOpsTest : public testing::Test {
 protected:
  // A zeroed tensor that lives as long as the test.
  TensorView Make(Shape shape, DType dtype = DType::kF32) {
    return buffers_.emplace_back(dtype, shape).view();
  }
  TensorView MakeInts(std::vector<int32_t> values) {
    const TensorView view = Make({static_cast<int64_t>(values.size())}, DType::kI32);
    std::copy(values.begin(), values.end(), view.data<int32_t>());
    return view;
  }

  template <class Call>
  std::string BugOf(const Call& call) {
    const int before = calls_;
    try {
      call();
    } catch (const Bug& bug) {
      EXPECT_EQ(calls_, before) << "the backend was called";
      return bug.what();
    }
    return "no bug";
  }

  int calls_ = 0;
  CheckedOps ops_{std::make_unique<CountingOps>(calls_)};
  std::deque<Buffer> buffers_;
};

TEST_F(CheckedOpsTest, RightArgumentsReachTheBackend) {
  ops_.MatMul({.x = Make({5, 3}), .w = Make({4, 3}), .y = Make({5, 4})});
  ops_.MatMul({.x = Make({0, 3}), .w = Make({4, 3}), .y = Make({0, 4})});
  ops_.Add({.x = Make({2, 3, 4}), .out = Make({2, 3, 4})});
  EXPECT_EQ(calls_, 3);
}

TEST_F(CheckedOpsTest, ShapeErrorNamesOpArgumentAndBothShapes) {
  EXPECT_THAT(BugOf([&] {
                ops_.MatMul({.x = Make({5, 3}), .w = Make({4, 2}), .y = Make({5, 4})});
              }),
              AllOf(HasSubstr("MatMul"), HasSubstr("w is"), HasSubstr("[4, 2]"), HasSubstr("[4, 3]")));
  EXPECT_THAT(BugOf([&] {
                ops_.RmsNorm({.x = Make({5, 3}), .weight = Make({4}), .out = Make({5, 3})});
              }),
              AllOf(HasSubstr("RmsNorm"), HasSubstr("weight"), HasSubstr("[4]"), HasSubstr("[3]")));
}

TEST_F(CheckedOpsTest, TypeAbsenceAndStridesAreChecked) {
  EXPECT_THAT(BugOf([&] { ops_.Add({.x = Make({3}, DType::kF64), .out = Make({3})}); }), HasSubstr("f64"));
  EXPECT_THAT(BugOf([&] { ops_.Add({.x = Make({3}), .out = {}}); }), HasSubstr("out is absent"));
  float data[8] = {};
  const TensorView overlapping(data, DType::kF32, {3, 3}, 2);
  EXPECT_THAT(BugOf([&] { ops_.Scale({.x = overlapping}); }), HasSubstr("2 elements apart"));
  const TensorView gaps(data, DType::kF32, {4}, 2);
  EXPECT_THAT(BugOf([&] { ops_.Scale({.x = gaps}); }), HasSubstr("2 elements apart"));
  const TensorView no_memory(nullptr, DType::kF32, {3});
  EXPECT_THAT(BugOf([&] { ops_.Scale({.x = no_memory}); }), HasSubstr("without memory"));
}

TEST_F(CheckedOpsTest, IndicesAndAliasesAreChecked) {
  const TensorView table = Make({10, 4}), out = Make({2, 4});
  ops_.Embedding({.tokens = MakeInts({0, 9}), .table = table, .out = out});
  EXPECT_THAT(BugOf([&] {
                ops_.Embedding({.tokens = MakeInts({0, 10}), .table = table, .out = out});
              }),
              AllOf(HasSubstr("Embedding"), HasSubstr("tokens"), HasSubstr("10")));
  const TensorView x = Make({2, 1, 4});
  EXPECT_THAT(BugOf([&] {
                ops_.Rope({.x = x, .positions = MakeInts({0, 1}), .out = x});
              }),
              HasSubstr("same memory"));
  EXPECT_THAT(
      BugOf([&] {
        ops_.GroupedMatMul(
            {.x = Make({4, 3}), .w = Make({2, 5, 3}), .offsets = MakeInts({0, 3, 2}), .y = Make({4, 5})});
      }),
      HasSubstr("offsets"));
  EXPECT_THAT(
      BugOf([&] {
        ops_.GroupedMatMul(
            {.x = Make({4, 3}), .w = Make({2, 5, 3}), .offsets = MakeInts({0, 3, 5}), .y = Make({4, 5})});
      }),
      HasSubstr("within the rows"));
}

TEST_F(CheckedOpsTest, QuantizedMatrices) {
  constexpr auto kQ8 = WeightFormat::kQ8;
  const QuantizedMatrixBuffer one(kQ8, 1, 5, 64), two(kQ8, 2, 5, 64);
  ops_.QuantizedMatMul({.x = Make({3, 64}), .w = one.view(), .y = Make({3, 5})});
  ops_.QuantizedEmbedding({.tokens = MakeInts({0, 4}), .table = one.view(), .out = Make({2, 64})});
  EXPECT_EQ(calls_, 2);
  EXPECT_THAT(
      BugOf([&] {
        ops_.QuantizedMatMul({.x = Make({3, 32}), .w = one.view(), .y = Make({3, 5})});
      }),
      AllOf(HasSubstr("QuantizedMatMul"), HasSubstr("x is"), HasSubstr("[3, 32]"), HasSubstr("[3, 64]")));
  EXPECT_THAT(BugOf([&] {
                ops_.QuantizedMatMul({.x = Make({3, 64}), .w = two.view(), .y = Make({3, 5})});
              }),
              HasSubstr("one matrix"));
  EXPECT_THAT(BugOf([&] {
                ops_.QuantizedMatMul({.x = Make({3, 64}), .w = {}, .y = Make({3, 5})});
              }),
              HasSubstr("present"));
  QuantizedMatrix short_codes = one.view();
  short_codes.in = 96;
  EXPECT_THAT(BugOf([&] {
                ops_.QuantizedMatMul({.x = Make({3, 96}), .w = short_codes, .y = Make({3, 5})});
              }),
              HasSubstr("w.codes"));
  QuantizedMatrix other_format = one.view();
  other_format.format = WeightFormat::kQ4;
  EXPECT_THAT(BugOf([&] {
                ops_.QuantizedMatMul({.x = Make({3, 64}), .w = other_format, .y = Make({3, 5})});
              }),
              HasSubstr("w.codes"));
  EXPECT_THAT(BugOf([&] {
                ops_.GroupedQuantizedMatMul(
                    {.x = Make({3, 64}), .w = two.view(), .offsets = MakeInts({0, 2, 4}), .y = Make({3, 5})});
              }),
              HasSubstr("within the rows"));
  EXPECT_THAT(BugOf([&] {
                ops_.QuantizedEmbedding({.tokens = MakeInts({5}), .table = one.view(), .out = Make({1, 64})});
              }),
              AllOf(HasSubstr("tokens"), HasSubstr("5")));
}

TEST_F(CheckedOpsTest, FusedQuantizedOps) {
  constexpr auto kQ8 = WeightFormat::kQ8;
  const QuantizedMatrixBuffer wide(kQ8, 1, 5, 64), half(WeightFormat::kBF16, 1, 5, 64);
  const RmsNormArgs norm = {Make({3, 64}), Make({64}), 1e-6, Make({3, 64})};
  ops_.RmsNormMatMuls({norm, {{wide.view(), Make({3, 5})}}});
  EXPECT_EQ(calls_, 1);
  EXPECT_THAT(BugOf([&] {
                ops_.RmsNormMatMuls({norm, {{half.view(), Make({3, 5})}}});
              }),
              HasSubstr("q8 or q4"));
  EXPECT_THAT(BugOf([&] {
                ops_.RmsNormMatMuls({norm, {{wide.view(), Make({3, 6})}}});
              }),
              HasSubstr("[3, 5]"));

  const QuantizedMatrixBuffer gate_up(kQ8, 2, 64, 64), down(kQ8, 2, 64, 32), long_down(kQ8, 2, 64, 64);
  QuantizedFeedForwardArgs args;
  args.x = Make({3, 64});
  args.experts = {gate_up.view(), down.view()};
  args.offsets = MakeInts({0, 2, 3});
  args.token_row = MakeInts({0, 2, 1}).Reshape({3, 1});
  args.outputs = Make({3, 64});
  ops_.QuantizedFeedForward(args);
  EXPECT_EQ(calls_, 2);
  const auto bug_of = [&](const std::function<void(QuantizedFeedForwardArgs&)>& change) {
    QuantizedFeedForwardArgs wrong = args;
    change(wrong);
    return BugOf([&] { ops_.QuantizedFeedForward(wrong); });
  };
  EXPECT_THAT(bug_of([&](auto& wrong) { wrong.experts.down = long_down.view(); }), HasSubstr("gate and up"));
  EXPECT_THAT(bug_of([&](auto& wrong) { wrong.shared_out = Make({3, 64}); }), HasSubstr("both"));
  EXPECT_THAT(bug_of([&](auto& wrong) { wrong.outputs = Make({2, 64}); }), HasSubstr("within the rows"));
  EXPECT_THAT(bug_of([&](auto& wrong) {
                wrong.token_row = MakeInts({0, 3, 1}).Reshape({3, 1});
              }),
              HasSubstr("token_row"));
}

// Attention of 8 tokens, 4 query heads on 2 key/value heads, window 3, 1 sink.
class CheckedAttentionTest : public CheckedOpsTest {
 protected:
  AttentionInputs Inputs() {
    AttentionInputs in;
    in.q = Make({8, 4, 6});
    in.q_rot = Make({8, 4, 6});
    in.k = Make({8, 2, 6});
    in.k_rot = Make({8, 2, 6});
    in.v = Make({8, 2, 6});
    in.sink_logit = Make({4});
    in.span.window = 3;
    in.span.num_sinks = 1;
    return in;
  }
  // Query 7 sees far keys [1, 5).
  SparseAttentionArgs Sparse(int32_t candidate_of_last_query) {
    SparseAttentionArgs args;
    args.in = Inputs();
    args.candidates = Make({8, 1}, DType::kI32);
    for (int64_t t = 0; t < 8; ++t)
      args.candidates.row<int32_t>(t)[0] = t == 7 ? candidate_of_last_query : -1;
    args.num_selected = 1;
    args.out = Make({8, 4, 6});
    return args;
  }
};

TEST_F(CheckedAttentionTest, Inputs) {
  FullAttentionArgs args{.in = Inputs(), .out = Make({8, 4, 6}), .lse = {}};
  ops_.FullAttention(args);
  args.in.span.query_offset = 1;
  EXPECT_THAT(BugOf([&] { ops_.FullAttention(args); }), HasSubstr("a key for every query"));
  args.in = Inputs();
  args.in.k_rot_begin = 1;
  EXPECT_THAT(BugOf([&] { ops_.FullAttention(args); }), HasSubstr("k_rot must cover"));
  args.in = Inputs();
  args.in.span.segment_start = MakeInts({0, 0, 3, 3, 3, 3, 3, 3});
  EXPECT_THAT(BugOf([&] { ops_.FullAttention(args); }), HasSubstr("segment_start"));
  args.in = Inputs();
  args.in.q = args.in.q_rot = args.out = Make({8, 3, 6});
  EXPECT_THAT(BugOf([&] { ops_.FullAttention(args); }), HasSubstr("multiple of kv_heads"));
}

TEST_F(CheckedAttentionTest, CandidatesAreFarKeys) {
  for (const int32_t far : {-1, 1, 4}) ops_.SparseAttention(Sparse(far));
  EXPECT_EQ(calls_, 3);
  for (const int32_t other : {-2, 0, 5, 7, 8}) {
    EXPECT_THAT(BugOf([&] { ops_.SparseAttention(Sparse(other)); }), HasSubstr("far keys")) << other;
  }
  SparseAttentionArgs args = Sparse(1);
  args.num_selected = 2;
  EXPECT_THAT(BugOf([&] { ops_.SparseAttention(args); }), HasSubstr("num_selected"));
}

TEST_F(CheckedAttentionTest, ABiasHasAColumnForEveryFarKey) {
  FullAttentionArgs args{.in = Inputs(), .out = Make({8, 4, 6}), .lse = {}};
  args.in.span.window = 2;
  args.in.span.num_sinks = 1;
  args.in.bias = {Make({8, 5}), Make({4})};
  ops_.FullAttention(args);
  args.in.bias.scores = Make({8, 4});
  EXPECT_THAT(BugOf([&] { ops_.FullAttention(args); }), HasSubstr("a column for every far key"));
  args.in.bias = {Make({8, 5}), Make({3})};
  EXPECT_THAT(BugOf([&] { ops_.FullAttention(args); }), HasSubstr("bias.weight"));
}

TEST_F(CheckedAttentionTest, SelectKeysNeedsTheFarKeys) {
  SelectKeysArgs args;
  args.gq = Make({8, 2, 4});
  args.gw = Make({8, 2});
  args.keys.packed = Make({1, 2, 16, 2}, DType::kI8);
  args.keys.scale = Make({16}, DType::kF16);
  args.keys.num_keys = 5;
  args.span.window = 3;
  args.span.num_sinks = 1;
  args.num_selected = 2;
  args.candidates = Make({8, 3}, DType::kI32);
  ops_.SelectKeys(args);
  args.keys.num_keys = 4;
  EXPECT_THAT(BugOf([&] { ops_.SelectKeys(args); }), HasSubstr("every far key"));
  args.keys.num_keys = 17;
  EXPECT_THAT(BugOf([&] { ops_.SelectKeys(args); }), HasSubstr("capacity"));
  args.keys.num_keys = 5;
  args.scores = Make({8, 3});
  ops_.SelectKeys(args);
  args.scores = Make({8, 2});
  EXPECT_THAT(BugOf([&] { ops_.SelectKeys(args); }), HasSubstr("scores is"));
  args.scores = {};
  args.keys.packed = Make({1, 2, 16, 1}, DType::kI8);
  EXPECT_THAT(BugOf([&] { ops_.SelectKeys(args); }), HasSubstr("keys.packed"));
}

TEST_F(CheckedAttentionTest, TreesAreWhole) {
  const auto keys = [&](int64_t groups, int64_t size, int64_t num_keys) {
    return GateKeyView{Make({groups, size / 2, 16, 2}, DType::kI8), Make({groups * 16}, DType::kF16),
                       num_keys};
  };
  const GateTreeView tree{{256, 600},     300,           Make({512}, DType::kI32),
                          keys(32, 4, 0), keys(2, 6, 0), keys(1, 6, 0)};
  const BuildGateTreeArgs good{keys(40, 4, 600), 0, 600, tree};
  ops_.BuildGateTree(good);
  BuildGateTreeArgs build = good;
  build.end_key = 601;
  EXPECT_THAT(BugOf([&] { ops_.BuildGateTree(build); }), HasSubstr("within tree.shape.capacity"));
  build = good;
  build.keys.num_keys = 599;
  EXPECT_THAT(BugOf([&] { ops_.BuildGateTree(build); }), HasSubstr("filled up to end_key"));
  build = good;
  build.tree.shape.group = 384;
  EXPECT_THAT(BugOf([&] { ops_.BuildGateTree(build); }), HasSubstr("power of two"));
  build.tree.shape = {256, 800};
  EXPECT_THAT(BugOf([&] { ops_.BuildGateTree(build); }), HasSubstr("tree.order"));
  build = good;
  build.tree.leaves = keys(1, 6, 0);
  EXPECT_THAT(BugOf([&] { ops_.BuildGateTree(build); }), HasSubstr("every slot"));
  build.tree.leaves = keys(2, 4, 0);
  EXPECT_THAT(BugOf([&] { ops_.BuildGateTree(build); }), HasSubstr("keys.packed"));

  SelectKeysArgs select;
  select.gq = Make({1, 2, 4});
  select.gw = Make({1, 2});
  select.keys = good.keys;
  select.span.query_offset = 512;
  select.num_selected = 30;
  select.candidates = Make({1, 30}, DType::kI32);
  select.search = {tree, 3, 0};
  ops_.SelectKeys(select);
  select.search.beam = 2;
  EXPECT_THAT(BugOf([&] { ops_.SelectKeys(select); }), HasSubstr("16 beam"));
  select.search.beam = 3;
  select.search.tree.num_keys = 601;
  EXPECT_THAT(BugOf([&] { ops_.SelectKeys(select); }), HasSubstr("tree.num_keys"));
  select.search.tree.num_keys = 600;
  select.span.segment_start = MakeInts({0});
  EXPECT_THAT(BugOf([&] { ops_.SelectKeys(select); }), HasSubstr("segment_start"));
}

TEST_F(CheckedAttentionTest, KeepMassNeedsASelection) {
  std::vector<int32_t> keys = {2, 5, -1};
  KeepMassArgs args;
  args.candidates = args.kept = TensorView::Of(keys.data(), {1, 3});
  args.scores = args.kept_scores = Make({1, 3});
  args.mass = 0.9;
  ops_.KeepMass(args);
  for (const double mass : {0.0, -1.0, 1.01, std::numeric_limits<double>::quiet_NaN()}) {
    args.mass = mass;
    EXPECT_THAT(BugOf([&] { ops_.KeepMass(args); }), HasSubstr("mass")) << mass;
  }
  args.mass = 1;
  args.min_keys = 0;
  EXPECT_THAT(BugOf([&] { ops_.KeepMass(args); }), HasSubstr("min_keys"));
  args.min_keys = 1;
  for (const std::vector<int32_t>& wrong :
       {std::vector<int32_t>{5, 2, -1}, {2, 2, -1}, {2, -1, 5}, {-2, 3, 4}}) {
    keys = wrong;
    EXPECT_THAT(BugOf([&] { ops_.KeepMass(args); }), HasSubstr("ascending"));
  }
  args.scores = Make({1, 2});
  EXPECT_THAT(BugOf([&] { ops_.KeepMass(args); }), HasSubstr("scores"));
}

TEST_F(CheckedAttentionTest, KeyRows) {
  std::vector<int32_t> pages = {1, 0};
  KeyRows rows;
  rows.rows = Make({128, 2, 6}, DType::kI8);
  rows.scale = Make({128, 2}, DType::kF16);
  rows.map.pages = pages.data();
  ops_.StoreKeyRows({Make({100, 2, 6}), 28, rows});
  ops_.LoadKeyRows({rows, 28, Make({100, 2, 6})});
  const auto bug_with = [&](const auto& change) {
    StoreKeyRowsArgs args{Make({100, 2, 6}), 28, rows};
    change(args);
    return BugOf([&] { ops_.StoreKeyRows(args); });
  };
  EXPECT_THAT(bug_with([&](auto& a) { a.x = Make({100, 1, 6}); }), HasSubstr("x"));
  EXPECT_THAT(bug_with([&](auto& a) { a.first_row = -1; }), HasSubstr("first_row"));
  EXPECT_THAT(bug_with([&](auto& a) { a.rows.scale = Make({128, 1}, DType::kF16); }), HasSubstr("rows"));
  EXPECT_THAT(bug_with([&](auto& a) { a.rows.rows = Make({128, 2, 6}, DType::kI32); }), HasSubstr("rows"));
  pages[1] = 2;
  EXPECT_THAT(bug_with([](auto&) {}), HasSubstr("memory"));
  KeyRows plain = Make({128, 2, 6});
  EXPECT_THAT(BugOf([&] { ops_.StoreKeyRows({Make({100, 2, 6}), 29, plain}); }), HasSubstr("memory"));
}

TEST_F(CheckedAttentionTest, GuaranteedAttention) {
  const KeyCodebook codebook{Make({2, 6}), Make({2, 6}), Make({2, 512, 6})};
  const KeyCodeView codes{Make({200, 2, 2}, DType::kU8), Make({200, 2}, DType::kU8), {}, 200};
  const EncodeKeysArgs encode{Make({200, 2, 6}), 1, 200, codebook, codes};
  ops_.EncodeKeys(encode);
  const auto encode_bug = [&](const auto& change) {
    EncodeKeysArgs changed = encode;
    change(changed);
    return BugOf([&] { ops_.EncodeKeys(changed); });
  };
  EXPECT_THAT(encode_bug([&](auto& a) { a.k = Make({199, 2, 6}); }), HasSubstr("hold"));
  EXPECT_THAT(encode_bug([&](auto& a) { a.codebook.weight = Make({2, 5}); }), HasSubstr("codebook.weight"));
  EXPECT_THAT(encode_bug([&](auto& a) { a.codebook.codewords = Make({2, 500, 6}); }), HasSubstr("codewords"));
  EXPECT_THAT(encode_bug([&](auto& a) {
                a.codebook.codewords = Make({2, 17 * 256, 6});
              }),
              HasSubstr("at most 16"));
  EXPECT_THAT(encode_bug([&](auto& a) {
                a.codes.codes = Make({200, 2, 3}, DType::kU8);
              }),
              HasSubstr("codes.codes"));
  EXPECT_THAT(encode_bug([&](auto& a) {
                a.codes.codes = Make({150, 2, 2}, DType::kU8);
                a.codes.distance = Make({150, 2}, DType::kU8);
              }),
              HasSubstr("memory"));

  GuaranteedAttentionArgs args;
  args.in = Inputs();
  args.in.k_rot = Make({200, 2, 6});
  args.in.k = args.in.v = args.in.k_rot;
  args.in.span.query_offset = 192;
  args.candidates = Make({8, 0}, DType::kI32);
  args.codebook = codebook;
  args.codes = codes;
  args.epsilon = 0.5;
  args.out = Make({8, 4, 6});
  args.bound = Make({8});
  args.keys_read = Make({8}, DType::kI32);
  ops_.GuaranteedAttention(args);
  args.in.bias = {Make({8, 196}), Make({4})};
  ops_.GuaranteedAttention(args);
  const auto bug_with = [&](const auto& change) {
    GuaranteedAttentionArgs changed = args;
    change(changed);
    return BugOf([&] { ops_.GuaranteedAttention(changed); });
  };
  EXPECT_THAT(bug_with([](auto& a) { a.codes.num_keys = 199; }), HasSubstr("queries see"));
  EXPECT_THAT(bug_with([](auto& a) { a.codes.num_keys = 201; }), HasSubstr("memory"));
  EXPECT_THAT(bug_with([](auto& a) { a.epsilon = 0; }), HasSubstr("epsilon"));
  EXPECT_THAT(bug_with([](auto& a) { a.epsilon = 1; }), HasSubstr("epsilon"));
  EXPECT_THAT(bug_with([](auto& a) { a.epsilon = std::nan(""); }), HasSubstr("epsilon"));
  EXPECT_THAT(bug_with([](auto& a) { a.in.bias.weight = {}; }), HasSubstr("bias.weight"));
  EXPECT_THAT(bug_with([&](auto& a) { a.in.bias.scores = Make({8, 195}); }), HasSubstr("every far key"));
  EXPECT_THAT(bug_with([&](auto& a) { a.bound = Make({7}); }), HasSubstr("bound"));
}

TEST_F(CheckedOpsTest, RouterSettings) {
  RouterArgs args;
  args.logits = Make({6, 4});
  args.bias = Make({4});
  args.probs = Make({6, 4});
  args.choices = Make({6, 2}, DType::kI32);
  args.experts = Make({6, 2}, DType::kI32);
  args.gates = Make({6, 2});
  ops_.Router(args);
  args.capacity.rule = CapacityRule::kDynamic;
  args.sequence_length = 4;
  EXPECT_THAT(BugOf([&] { ops_.Router(args); }), HasSubstr("sequence_length"));
  args.sequence_length = 3;
  ops_.Router(args);
  args.experts_per_token = 5;
  EXPECT_THAT(BugOf([&] { ops_.Router(args); }), HasSubstr("experts_per_token"));
}

TEST_F(CheckedOpsTest, SampleSettings) {
  int32_t token = 0;
  const SampleArgs good{.logits = Make({5}), .token = &token};
  ops_.Sample(good);
  SampleArgs args = good;
  args.temperature = -1;
  EXPECT_THAT(BugOf([&] { ops_.Sample(args); }), HasSubstr("temperature"));
  args = good;
  args.temperature = std::nan("");
  EXPECT_THAT(BugOf([&] { ops_.Sample(args); }), HasSubstr("temperature"));
  args = good;
  args.top_p = 1.5;
  EXPECT_THAT(BugOf([&] { ops_.Sample(args); }), HasSubstr("top_p"));
  args = good;
  args.min_p = std::nan("");
  EXPECT_THAT(BugOf([&] { ops_.Sample(args); }), HasSubstr("min_p"));
  args = good;
  args.uniform = 1;
  EXPECT_THAT(BugOf([&] { ops_.Sample(args); }), HasSubstr("uniform"));
  args = good;
  args.token = nullptr;
  EXPECT_THAT(BugOf([&] { ops_.Sample(args); }), HasSubstr("token"));
}

}  // namespace
}  // namespace sluice
