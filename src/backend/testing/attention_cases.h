// What the cases of full, sparse and surrogate attention and of the gate's distillation share: shapes,
// the tensors of AttentionInputs, and candidate lists. Rotated and unrotated q and k are independent
// random tensors here, so that a mix-up of the two cannot go unnoticed.
#pragma once

#include <string>
#include <vector>

#include "backend/testing/op_case.h"

namespace sluice {

struct AttentionShape {
  int64_t tokens = 12;
  int64_t query_heads = 4;
  int64_t kv_heads = 1;
  int64_t head_size = 8;
  int64_t window = 4;
  int64_t num_sinks = 2;
  int64_t query_offset = 0;
  int64_t spare_keys = 0;                   // Keys beyond the last query.
  int64_t k_rot_begin = 0;                  // Rotated keys before this one are not there.
  std::vector<int32_t> segment_start = {};  // Of each token; empty: absent.
  double scale = 1;                         // Of q: large values make sharp softmaxes.
  int64_t bias_columns = 0;                 // Of the far bias's scores; 0: no bias.
  DType format = DType::kF32;               // Of keys and values, see StoredInputs.
  bool paged = false;                       // Their pages lie in reverse order. REQUIRES: whole pages.
  bool rounded = false;                     // q, q_rot and k_rot are bfloat16 numbers.

  int64_t keys() const { return query_offset + tokens + spare_keys; }
  std::string ToString() const;
  // The same with a bias for every far key.
  AttentionShape WithFullBias() const;
  // The same with keys and values in another format, in pages.
  AttentionShape Stored(DType row_format) const;
  // The span of all queries, over this shape's own segment starts.
  AttentionSpan Span();
};

// Keys in bfloat16, with queries and rotated keys that rounding to it leaves as they are: what the kernels of
// bfloat16 must get right where rounding is no excuse.
std::vector<AttentionShape> BFloat16Shapes();

// q, q_rot, k, k_rot, v, sink_logit and segment_start; bias_scores and bias_weight if wanted.
void AddAttentionInputs(const AttentionShape& shape, OpCase* c);
// dq, dq_rot, dk, dk_rot, dv and dsink_logit_acc, and the bias's if there is one; all these inputs become
// differentiable.
void AddAttentionGrads(const AttentionShape& shape, OpCase* c);

// The arguments for queries [begin, end), and the gradients.
AttentionInputs InputsOf(const Tensors& t, const AttentionShape& shape, int64_t begin, int64_t end);
AttentionInputGrads GradsOf(const Tensors& t);

// The arguments with keys and values in the shape's format and pages: stored by the op StoreKeyRows.
AttentionInputs StoredInputs(Ops& ops, const Tensors& t, const AttentionShape& shape, int64_t begin,
                             int64_t end);

enum class Padding { kAtTheEnd, kAnywhere };
// Random far keys of every query without repeats: [tokens, width], the first `num_selected` columns and
// the rest each ascending and padded with -1, or in any order with gaps.
std::vector<int32_t> RandomCandidates(AttentionShape shape, int64_t num_selected, int64_t width,
                                      Padding padding, uint64_t seed);

}  // namespace sluice
