// Argument checks of attention and of the gate.
#include "ops/arg_checker.h"
#include "ops/checked_ops.h"
#include "ops/gate_numerics.h"

namespace sluice {
namespace {

// Span of queries over `num_keys` keys.
void CheckSpan(const ArgChecker& check, const AttentionSpan& span, int64_t tokens, int64_t num_keys) {
  check.Require(span.query_offset >= 0, "span.query_offset must not be negative");
  check.Require(span.window >= 1, "span.window must be at least 1");
  check.Require(span.num_sinks >= 0, "span.num_sinks must not be negative");
  check.Require(span.query_offset + tokens <= num_keys, "there must be a key for every query");
  if (!span.segment_start.present()) return;
  check.Int("span.segment_start", span.segment_start, {tokens});
  check.Ascending("span.segment_start", span.segment_start);
  for (int64_t t = 0; t < tokens; ++t) {
    check.Require(span.First(t) >= 0 && span.First(t) <= span.Position(t),
                  "span.segment_start must be within [0, the query's own position]");
  }
}

// Rows of keys or values in one of their formats, with memory for rows [0, num_rows).
void CheckKeyRows(const ArgChecker& check, const char* arg, const KeyRows& x, int64_t num_rows) {
  const TensorView& rows = x.rows;
  if (rows.dtype() == DType::kBF16 || rows.dtype() == DType::kI8) {
    check.View(arg, rows, rows.dtype(), {rows.dim(0), rows.dim(1), rows.dim(2)});
  } else {
    check.RealOfRank(arg, rows, 3);
  }
  if (rows.dtype() == DType::kI8) check.View(arg, x.scale, DType::kF16, {rows.dim(0), rows.dim(1)});
  const int64_t memory_pages = rows.dim(0) / kPageRows;
  bool has_memory = x.map.pages != nullptr || num_rows <= rows.dim(0);
  for (int64_t i = 0; x.map.pages != nullptr && i * kPageRows < num_rows; ++i)
    has_memory &= x.map.pages[i] >= 0 && x.map.pages[i] < memory_pages;
  check.Require(has_memory, "rows of keys and values must have memory");
}

void CheckInputs(const ArgChecker& check, const AttentionInputs& in) {
  check.RealOfRank("q", in.q, 3);
  CheckKeyRows(check, "k", in.k, in.k.num_rows);
  CheckKeyRows(check, "v", in.v, in.v.num_rows);
  check.RealOfRank("k_rot", in.k_rot, 3);
  const int64_t tokens = in.q.dim(0), heads = in.q.dim(1), head_size = in.q.dim(2), kv_heads = in.k.dim(1);
  check.Require(kv_heads > 0 && heads % kv_heads == 0, "query_heads must be a multiple of kv_heads");
  check.Require(head_size > 0, "head_size must be positive");
  check.Real("q_rot", in.q_rot, in.q.shape());
  check.Require(in.k.dim(2) == head_size, "k must have the head size of q");
  check.Real("k_rot", in.k_rot, {in.k_rot.dim(0), kv_heads, head_size});
  check.Require(in.v.shape() == in.k.shape(), "v must have the shape of k");
  check.Real("sink_logit", in.sink_logit, {heads});
  CheckSpan(check, in.span, tokens, in.k.dim(0));
  if (in.bias.scores.present()) {
    check.RealOfRank("bias.scores", in.bias.scores, 2);
    check.Real("bias.scores", in.bias.scores, {tokens, in.bias.scores.dim(1)});
    check.Real("bias.weight", in.bias.weight, {heads});
  }
  // Windows begin later for later queries, so the first one's begins first.
  if (tokens == 0) return;
  check.Require(in.k_rot_begin >= 0 && in.k_rot_begin <= in.span.WindowBegin(0) &&
                    in.k_rot_begin + in.k_rot.dim(0) >= in.span.query_offset + tokens,
                "k_rot must cover every query's window");
}

// What gradients and distillation over everything require.
void CheckWholeSequence(const ArgChecker& check, const AttentionInputs& in) {
  check.Require(in.span.query_offset == 0 && in.k_rot_begin == 0, "query_offset and k_rot_begin must be 0");
  check.Require(in.k.dim(0) == in.q.dim(0) && in.k_rot.dim(0) == in.q.dim(0),
                "there must be as many keys as tokens");
  check.Real("k", in.k.rows, {in.k.dim(0), in.k.dim(1), in.k.dim(2)});
  check.Real("v", in.v.rows, in.k.shape());
  check.Require(in.k.map.pages == nullptr && in.v.map.pages == nullptr, "k and v must not be paged");
}

void CheckGrads(const ArgChecker& check, const AttentionInputs& in, const AttentionInputGrads& grads) {
  check.Real("dq", grads.dq, in.q.shape());
  check.Real("dq_rot", grads.dq_rot, in.q.shape());
  check.Real("dk", grads.dk, in.k.shape());
  check.Real("dk_rot", grads.dk_rot, in.k.shape());
  check.Real("dv", grads.dv, in.v.shape());
  check.Real("dsink_logit_acc", grads.dsink_logit_acc, {in.q.dim(1)});
  if (!in.bias.scores.present()) return;
  check.Real("dbias_scores_acc", grads.dbias_scores_acc, in.bias.scores.shape());
  check.Real("dbias_weight_acc", grads.dbias_weight_acc, {in.q.dim(1)});
}

// Full attention's bias has a column for every far key.
void CheckFullBias(const ArgChecker& check, const AttentionInputs& in) {
  if (!in.bias.scores.present()) return;
  bool has_columns = true;
  for (int64_t t = 0; t < in.q.dim(0); ++t) has_columns &= in.span.NumFar(t) <= in.bias.scores.dim(1);
  check.Require(has_columns, "bias.scores must have a column for every far key");
}

// Sparse attention's bias has a column for every candidate.
void CheckSparseBias(const ArgChecker& check, const AttentionInputs& in, const TensorView& candidates) {
  if (in.bias.scores.present()) check.Real("bias.scores", in.bias.scores, candidates.shape());
}

// Candidates are far keys of their query, or -1.
void CheckCandidates(const ArgChecker& check, const TensorView& candidates, const AttentionSpan& span,
                     int64_t tokens) {
  check.IntOfRank("candidates", candidates, 2);
  const int64_t width = candidates.dim(1);
  check.Int("candidates", candidates, {tokens, width});
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t begin = span.SinksEnd(t), end = span.WindowBegin(t);
    const int32_t* row = candidates.row<int32_t>(t);
    bool all_far = true;
    for (int64_t j = 0; j < width; ++j) all_far &= row[j] == -1 || (row[j] >= begin && row[j] < end);
    check.Require(all_far, "candidates must be far keys of their query, or -1");
  }
}

void CheckSurrogateGate(const ArgChecker& check, const SurrogateGate& gate, const TensorView& candidates) {
  if (!gate.scores.present()) return;
  check.Real("gate.scores", gate.scores, candidates.shape());
  check.Real("gate.threshold", gate.threshold, {candidates.dim(0)});
  check.Require(gate.temperature > 0, "gate.temperature must be positive");
}

// gq [tokens, gate_heads, size], gw [tokens, gate_heads], gk [keys, size]
void CheckGateInputs(const ArgChecker& check, const TensorView& gq, const TensorView& gw,
                     const TensorView& gk) {
  check.RealOfRank("gq", gq, 3);
  check.Real("gw", gw, {gq.dim(0), gq.dim(1)});
  check.RealOfRank("gk", gk, 2);
  check.Real("gk", gk, {gk.dim(0), gq.dim(2)});
}

// scores [tokens, columns], with a column for every far key, and a row of gk for each of those.
void CheckFarColumns(const ArgChecker& check, const AttentionSpan& span, const TensorView& gk,
                     const TensorView& scores, int64_t tokens) {
  check.RealOfRank("scores", scores, 2);
  check.Real("scores", scores, {tokens, scores.dim(1)});
  CheckSpan(check, span, tokens, span.query_offset + tokens);
  bool has_columns = true;
  bool has_keys = true;
  for (int64_t t = 0; t < tokens; ++t) {
    has_columns &= span.NumFar(t) <= scores.dim(1);
    has_keys &= span.NumFar(t) <= 0 || span.WindowBegin(t) <= gk.dim(0);
  }
  check.Require(has_columns, "scores must have a column for every far key");
  check.Require(has_keys, "gk must hold every far key");
}

void CheckGateKeys(const ArgChecker& check, const GateKeyView& keys, int64_t size) {
  check.Require(size > 0 && size % 2 == 0 && size <= kMaxGateSize,
                "the gate's size must be even, at most 1024");
  const int64_t groups = keys.packed.rank() == 4 ? keys.packed.dim(0) : 0;
  check.View("keys.packed", keys.packed, DType::kI8, {groups, size / 2, GateKeyView::kGroup, 2});
  check.Require(keys.packed.contiguous(), "keys.packed must be contiguous");
  check.View("keys.scale", keys.scale, DType::kF16, {groups * GateKeyView::kGroup});
  bool within =
      keys.num_keys >= 0 && (keys.map.pages != nullptr || keys.num_keys <= groups * GateKeyView::kGroup);
  for (int64_t page = 0; keys.map.pages != nullptr && page * kPageRows < keys.num_keys; ++page) {
    within &=
        keys.map.pages[page] >= 0 && (keys.map.pages[page] + 1) * kPageRows <= groups * GateKeyView::kGroup;
  }
  check.Require(within, "keys.num_keys must be within the capacity");
}

void CheckKeyCodes(const ArgChecker& check, const KeyCodebook& codebook, const KeyCodeView& codes,
                   int64_t end_key, int64_t kv_heads, int64_t head_size) {
  check.Real("codebook.mean", codebook.mean, {kv_heads, head_size});
  check.Real("codebook.weight", codebook.weight, {kv_heads, head_size});
  const int64_t stages = codebook.num_stages();
  check.Require(stages <= KeyCodebook::kMaxStages, "a codebook must have at most 16 stages");
  if (codebook.codewords.present())
    check.Real("codebook.codewords", codebook.codewords,
               {kv_heads, stages * KeyCodebook::kCodewords, head_size});
  const int64_t capacity = codes.distance.dim(0);
  if (stages > 0) check.View("codes.codes", codes.codes, DType::kU8, {capacity, kv_heads, stages});
  check.View("codes.distance", codes.distance, DType::kU8, {capacity, kv_heads});
  bool within = true;
  for (int64_t page = 0; codes.map.pages != nullptr && page * kPageRows < end_key; ++page)
    within &= codes.map.pages[page] >= 0 && (codes.map.pages[page] + 1) * kPageRows <= capacity;
  check.Require(within && (codes.map.pages != nullptr || end_key <= capacity),
                "codes must have memory for the keys");
}

void CheckGateTree(const ArgChecker& check, const GateTreeView& tree, int64_t size) {
  const int64_t group = tree.shape.group;
  check.Require(group >= GateTreeView::kNode && (group & (group - 1)) == 0,
                "tree.shape.group must be a power of two, at least 256");
  check.Require(tree.shape.capacity >= 0, "tree.shape.capacity must not be negative");
  const int64_t slots = tree.shape.NumSlots();
  check.Int("tree.order", tree.order, {slots});
  CheckGateKeys(check, tree.keys, size);
  CheckGateKeys(check, tree.leaves, size + 2);
  CheckGateKeys(check, tree.nodes, size + 2);
  check.Require(tree.keys.scale.dim(0) >= slots && tree.leaves.scale.dim(0) >= slots / GateTreeView::kLeaf &&
                    tree.nodes.scale.dim(0) >= slots / GateTreeView::kNode,
                "tree.keys, tree.leaves and tree.nodes must have room for every slot of tree.order");
}

}  // namespace

void CheckedOps::StoreKeyRows(const StoreKeyRowsArgs& args) {
  const ArgChecker check("StoreKeyRows", dtype());
  check.RealOfRank("x", args.x, 3);
  check.Require(args.first_row >= 0, "first_row must not be negative");
  CheckKeyRows(check, "rows", args.rows, args.first_row + args.x.dim(0));
  check.Real("x", args.x, {args.x.dim(0), args.rows.dim(1), args.rows.dim(2)});
  backend_->StoreKeyRows(args);
}

void CheckedOps::LoadKeyRows(const LoadKeyRowsArgs& args) {
  const ArgChecker check("LoadKeyRows", dtype());
  check.RealOfRank("out", args.out, 3);
  check.Require(args.first_row >= 0, "first_row must not be negative");
  CheckKeyRows(check, "rows", args.rows, args.first_row + args.out.dim(0));
  check.Real("out", args.out, {args.out.dim(0), args.rows.dim(1), args.rows.dim(2)});
  backend_->LoadKeyRows(args);
}

void CheckedOps::FullAttention(const FullAttentionArgs& args) {
  const ArgChecker check("FullAttention", dtype());
  CheckInputs(check, args.in);
  CheckFullBias(check, args.in);
  check.Real("out", args.out, args.in.q.shape());
  check.OptionalReal("lse", args.lse, {args.in.q.dim(0), args.in.q.dim(1)});
  backend_->FullAttention(args);
}

void CheckedOps::FullAttentionGrad(const FullAttentionGradArgs& args) {
  const ArgChecker check("FullAttentionGrad", dtype());
  CheckInputs(check, args.in);
  CheckFullBias(check, args.in);
  CheckWholeSequence(check, args.in);
  check.Real("out", args.out, args.in.q.shape());
  check.Real("lse", args.lse, {args.in.q.dim(0), args.in.q.dim(1)});
  check.Real("dout", args.dout, args.in.q.shape());
  CheckGrads(check, args.in, args.grads);
  backend_->FullAttentionGrad(args);
}

void CheckedOps::SparseAttention(const SparseAttentionArgs& args) {
  const ArgChecker check("SparseAttention", dtype());
  CheckInputs(check, args.in);
  CheckCandidates(check, args.candidates, args.in.span, args.in.q.dim(0));
  CheckSparseBias(check, args.in, args.candidates);
  check.Require(args.num_selected >= 0 && args.num_selected <= args.candidates.dim(1),
                "num_selected must be within the width of candidates");
  check.Real("out", args.out, args.in.q.shape());
  check.OptionalReal("gate_target", args.gate_target, args.candidates.shape());
  check.OptionalReal("gate_mass", args.gate_mass, {args.in.q.dim(0)});
  backend_->SparseAttention(args);
}

void CheckedOps::SurrogateAttention(const SurrogateAttentionArgs& args) {
  const ArgChecker check("SurrogateAttention", dtype());
  CheckInputs(check, args.in);
  CheckCandidates(check, args.candidates, args.in.span, args.in.q.dim(0));
  CheckSparseBias(check, args.in, args.candidates);
  CheckSurrogateGate(check, args.gate, args.candidates);
  check.Real("out", args.out, args.in.q.shape());
  backend_->SurrogateAttention(args);
}

void CheckedOps::SparseAttentionGrad(const SparseAttentionGradArgs& args) {
  const ArgChecker check("SparseAttentionGrad", dtype());
  CheckInputs(check, args.in);
  CheckWholeSequence(check, args.in);
  CheckCandidates(check, args.candidates, args.in.span, args.in.q.dim(0));
  CheckSparseBias(check, args.in, args.candidates);
  CheckSurrogateGate(check, args.gate, args.candidates);
  check.Real("dout", args.dout, args.in.q.shape());
  CheckGrads(check, args.in, args.grads);
  if (args.gate.scores.present()) check.Real("dscores_acc", args.dscores_acc, args.candidates.shape());
  backend_->SparseAttentionGrad(args);
}

void CheckedOps::EncodeKeys(const EncodeKeysArgs& args) {
  const ArgChecker check("EncodeKeys", dtype());
  CheckKeyRows(check, "k", args.k, args.k.num_rows);
  check.Require(args.first_key >= 0 && args.end_key <= args.k.num_rows, "k must hold the keys");
  CheckKeyCodes(check, args.codebook, args.codes, args.end_key, args.k.dim(1), args.k.dim(2));
  backend_->EncodeKeys(args);
}

void CheckedOps::GuaranteedAttention(const GuaranteedAttentionArgs& args) {
  const ArgChecker check("GuaranteedAttention", dtype());
  CheckInputs(check, args.in);
  CheckFullBias(check, args.in);
  const int64_t tokens = args.in.q.dim(0);
  CheckCandidates(check, args.candidates, args.in.span, tokens);
  const int64_t end_key = args.in.span.query_offset + tokens;
  CheckKeyCodes(check, args.codebook, args.codes, args.codes.num_keys, args.in.k.dim(1), args.in.k.dim(2));
  check.Require(end_key <= args.codes.num_keys, "codes must hold those of all keys that queries see");
  check.Require(args.epsilon > 0 && args.epsilon < 1, "epsilon must be between 0 and 1");
  check.Real("out", args.out, args.in.q.shape());
  check.Real("bound", args.bound, {tokens});
  check.Int("keys_read", args.keys_read, {tokens});
  backend_->GuaranteedAttention(args);
}

void CheckedOps::CausalConv(const CausalConvArgs& args) {
  const ArgChecker check("CausalConv", dtype());
  check.RealOfRank("x", args.x, 2);
  check.RealOfRank("weight", args.weight, 2);
  const int64_t tokens = args.x.dim(0), channels = args.x.dim(1), width = args.weight.dim(1);
  check.Require(width >= 1, "the width must be at least 1");
  check.Real("weight", args.weight, {channels, width});
  check.OptionalReal("history", args.history, {width - 1, channels});
  if (args.segment_start.present()) check.Int("segment_start", args.segment_start, {tokens});
  check.Require(args.first_position >= 0, "first_position must not be negative");
  check.Real("out", args.out, args.x.shape());
  check.NoAlias("x", args.x, "out", args.out);
  backend_->CausalConv(args);
}

void CheckedOps::CausalConvGrad(const CausalConvGradArgs& args) {
  const ArgChecker check("CausalConvGrad", dtype());
  check.RealOfRank("x", args.x, 2);
  check.RealOfRank("weight", args.weight, 2);
  check.Require(args.weight.dim(1) >= 1, "the width must be at least 1");
  check.Real("weight", args.weight, {args.x.dim(1), args.weight.dim(1)});
  if (args.segment_start.present()) check.Int("segment_start", args.segment_start, {args.x.dim(0)});
  check.Real("dout", args.dout, args.x.shape());
  check.Real("dx", args.dx, args.x.shape());
  check.Real("dweight_acc", args.dweight_acc, args.weight.shape());
  check.NoAlias("dout", args.dout, "dx", args.dx);
  backend_->CausalConvGrad(args);
}

void CheckedOps::PackGateKeys(const PackGateKeysArgs& args) {
  const ArgChecker check("PackGateKeys", dtype());
  check.RealOfRank("gk", args.gk, 2);
  CheckGateKeys(check, args.keys, args.gk.dim(1));
  check.Require(args.first_key >= 0 && (args.keys.map.pages != nullptr ||
                                        args.first_key + args.gk.dim(0) <= args.keys.scale.dim(0)),
                "keys must have room for the rows of gk");
  backend_->PackGateKeys(args);
}

void CheckedOps::BuildGateTree(const BuildGateTreeArgs& args) {
  const ArgChecker check("BuildGateTree", dtype());
  check.Require(args.keys.packed.rank() == 4, "keys.packed must be of 4 axes");
  const int64_t size = 2 * args.keys.packed.dim(1);
  CheckGateKeys(check, args.keys, size);
  CheckGateTree(check, args.tree, size);
  check.Require(
      args.first_key >= 0 && args.first_key <= args.end_key && args.end_key <= args.tree.shape.capacity,
      "first_key and end_key must be in order and within tree.shape.capacity");
  check.Require(args.end_key <= args.keys.num_keys, "keys must be filled up to end_key");
  backend_->BuildGateTree(args);
}

void CheckedOps::UnpackGateKeys(const UnpackGateKeysArgs& args) {
  const ArgChecker check("UnpackGateKeys", dtype());
  check.RealOfRank("gk", args.gk, 2);
  CheckGateKeys(check, args.keys, args.gk.dim(1));
  check.Require(args.gk.dim(0) <= args.keys.num_keys, "keys must hold every row of gk");
  backend_->UnpackGateKeys(args);
}

void CheckedOps::SelectKeys(const SelectKeysArgs& args) {
  const ArgChecker check("SelectKeys", dtype());
  check.RealOfRank("gq", args.gq, 3);
  const int64_t tokens = args.gq.dim(0);
  check.Real("gw", args.gw, {tokens, args.gq.dim(1)});
  CheckGateKeys(check, args.keys, args.gq.dim(2));
  check.IntOfRank("candidates", args.candidates, 2);
  check.Int("candidates", args.candidates, {tokens, args.candidates.dim(1)});
  check.Require(args.num_selected >= 0 && args.num_selected <= args.candidates.dim(1),
                "num_selected must be within the width of candidates");
  check.OptionalReal("scores", args.scores, args.candidates.shape());
  // Far keys alone are read, and the last query's reach furthest.
  const int64_t last = tokens - 1;
  CheckSpan(check, args.span, tokens, args.span.query_offset + tokens);
  check.Require(
      tokens == 0 || args.span.NumFar(last) <= 0 || args.span.WindowBegin(last) <= args.keys.num_keys,
      "keys must hold every far key");
  if (args.search.tree.present()) {
    const GateTreeView& tree = args.search.tree;
    CheckGateTree(check, tree, args.gq.dim(2));
    check.Require(tree.num_keys >= 0 && tree.num_keys <= tree.shape.capacity,
                  "tree.num_keys must be within tree.shape.capacity");
    check.Require(!args.span.segment_start.present(), "a tree is searched without segment_start");
    check.Require(args.search.beam * GateTreeView::kLeaf >= args.candidates.dim(1) + args.span.num_sinks,
                  "16 beam must be at least the width of candidates and num_sinks");
  }
  backend_->SelectKeys(args);
}

void CheckedOps::KeepMass(const KeepMassArgs& args) {
  const ArgChecker check("KeepMass", dtype());
  check.IntOfRank("candidates", args.candidates, 2);
  const int64_t width = args.candidates.dim(1);
  check.Real("scores", args.scores, args.candidates.shape());
  check.Int("kept", args.kept, args.candidates.shape());
  check.Real("kept_scores", args.kept_scores, args.candidates.shape());
  check.Require(args.mass > 0 && args.mass <= 1, "mass must be above 0 and at most 1");
  check.Require(args.min_keys >= 1, "min_keys must be at least 1");
  for (int64_t t = 0; t < args.candidates.dim(0); ++t) {
    const int32_t* row = args.candidates.row<int32_t>(t);
    bool ascending = width == 0 || row[0] >= -1;
    for (int64_t j = 1; j < width; ++j) ascending &= row[j] == -1 || (row[j - 1] >= 0 && row[j] > row[j - 1]);
    check.Require(ascending, "candidates must be ascending, then -1");
  }
  backend_->KeepMass(args);
}

void CheckedOps::GateScores(const GateScoresArgs& args) {
  const ArgChecker check("GateScores", dtype());
  CheckGateInputs(check, args.gq, args.gw, args.gk);
  check.IntOfRank("candidates", args.candidates, 2);
  check.Int("candidates", args.candidates, {args.gq.dim(0), args.candidates.dim(1)});
  check.IntsIn("candidates", args.candidates, -1, args.gk.dim(0) - 1);
  check.Require(args.num_selected >= 1 && args.num_selected <= args.candidates.dim(1),
                "num_selected must be at least 1 and within the width of candidates");
  check.Real("scores", args.scores, args.candidates.shape());
  check.Real("threshold", args.threshold, {args.gq.dim(0)});
  backend_->GateScores(args);
}

void CheckedOps::GateScoresGrad(const GateScoresGradArgs& args) {
  const ArgChecker check("GateScoresGrad", dtype());
  CheckGateInputs(check, args.gq, args.gw, args.gk);
  check.IntOfRank("candidates", args.candidates, 2);
  check.Int("candidates", args.candidates, {args.gq.dim(0), args.candidates.dim(1)});
  check.IntsIn("candidates", args.candidates, -1, args.gk.dim(0) - 1);
  check.Real("dscores", args.dscores, args.candidates.shape());
  check.Real("dgq", args.dgq, args.gq.shape());
  check.Real("dgw", args.dgw, args.gw.shape());
  check.Real("dgk", args.dgk, args.gk.shape());
  backend_->GateScoresGrad(args);
}

void CheckedOps::FarScores(const FarScoresArgs& args) {
  const ArgChecker check("FarScores", dtype());
  CheckGateInputs(check, args.gq, args.gw, args.gk);
  CheckFarColumns(check, args.span, args.gk, args.scores, args.gq.dim(0));
  backend_->FarScores(args);
}

void CheckedOps::FarScoresGrad(const FarScoresGradArgs& args) {
  const ArgChecker check("FarScoresGrad", dtype());
  CheckGateInputs(check, args.gq, args.gw, args.gk);
  CheckFarColumns(check, args.span, args.gk, args.dscores, args.gq.dim(0));
  check.Require(args.span.query_offset == 0 && args.gk.dim(0) == args.gq.dim(0),
                "query_offset must be 0, and there must be as many keys as tokens");
  check.Real("dgq", args.dgq, args.gq.shape());
  check.Real("dgw", args.dgw, args.gw.shape());
  check.Real("dgk", args.dgk, args.gk.shape());
  backend_->FarScoresGrad(args);
}

void CheckedOps::GateKl(const GateKlArgs& args) {
  const ArgChecker check("GateKl", dtype());
  check.IntOfRank("candidates", args.candidates, 2);
  const Shape& shape = args.candidates.shape();
  check.Real("scores", args.scores, shape);
  check.Real("target", args.target, shape);
  check.Real("mass", args.mass, {shape[0]});
  check.Real("loss", args.loss, {shape[0]});
  check.Real("dscores", args.dscores, shape);
  backend_->GateKl(args);
}

void CheckedOps::DenseGateKl(const DenseGateKlArgs& args) {
  const ArgChecker check("DenseGateKl", dtype());
  CheckInputs(check, args.in);
  CheckFullBias(check, args.in);
  CheckWholeSequence(check, args.in);
  CheckGateInputs(check, args.gq, args.gw, args.gk);
  const int64_t tokens = args.in.q.dim(0);
  check.Real("lse", args.lse, {tokens, args.in.q.dim(1)});
  check.Real("gq", args.gq, {tokens, args.gq.dim(1), args.gq.dim(2)});
  check.Real("gk", args.gk, {tokens, args.gk.dim(1)});
  check.Real("loss", args.loss, {tokens});
  check.Real("dgq", args.dgq, args.gq.shape());
  check.Real("dgw", args.dgw, args.gw.shape());
  check.Real("dgk", args.dgk, args.gk.shape());
  backend_->DenseGateKl(args);
}

}  // namespace sluice
