// What one pass through the model is given: the tokens and how to attend, and what training wants.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "model/config.h"
#include "model/expert_load.h"
#include "ops/ops.h"
#include "tensor/tensor.h"

namespace sluice {

enum class AttentionMode { kDense, kSparse };
inline const char* NameOf(AttentionMode mode) {
  return mode == AttentionMode::kDense ? "dense" : "sparse";
}

// Tokens of one or more documents, one after another.
struct TokenBatch {
  TensorView tokens;            // i32 [tokens]
  TensorView positions;         // i32 [tokens]: place in the document, for the rotary embedding
  TensorView segment_start;     // i32 [tokens]: index of the document's first token; absent: all 0
  int64_t sequence_length = 0;  // Tokens are [sequences, sequence_length]; the router's capacity walk.
};

// Coefficients of the gate's training (ops/gate.h, ops/sparse_attention.h).
struct GateTraining {
  double kl_weight = 0;          // Of the distillation loss, mean over tokens and layers; 0: off.
  bool bias = true;              // Dense mode: false leaves out the bias that the model has.
  double kl_mass_floor = 0.1;    // Weight of a token whose far attention is nil.
  bool straight_through = true;  // Sparse mode: scores get the surrogate's gradient.
  double temperature = 1;
  int64_t num_extra = 128;   // Runners-up among the candidates.
  int64_t num_random = 32;   // Random far keys among the candidates.
  uint64_t random_seed = 0;  // Of this step's random candidates.
};

// What is constant in the gradient but computed in the forward pass, per layer. Given back to a later
// pass it makes that pass the surrogate õ whose gradient training uses: for the gradient check.
struct GateConstants {
  TensorView candidates;
  TensorView threshold;
  TensorView target;
  TensorView mass;
};

// One layer's attention in one pass, as selectors and observers see it.
struct AttentionStep {
  int64_t layer = 0;
  AttentionInputs inputs;  // Its bias.scores are those of the candidates, or absent.
  TensorView candidates;   // i32 [tokens, width]; absent in dense mode
  GateTreeSearch search;   // How the gate found them.
  // What the bias of any far key is made of; present where the model has one (config.gate.bias).
  TensorView gq;  // [tokens, gate heads, gate head_dim]
  TensorView gw;  // [tokens, gate heads]
  GateKeyView gate_keys;
  TensorView bias_weight;  // [heads]
};

// One layer's routing in one pass, as observers see it. Shapes and meaning as of RouterArgs (ops/router.h).
struct RoutingStep {
  int64_t layer = 0;
  TensorView logits;   // [tokens, experts]
  TensorView probs;    // [tokens, experts]
  TensorView choices;  // i32 [tokens, K]
  TensorView experts;  // i32 [tokens, K]
  TensorView bias;     // [experts]: the layer's router bias
};

// Chooses far keys in place of a gate: the controls of an evaluation. Inference only.
class Selector {
 public:
  virtual ~Selector() = default;
  // Overwrites the gate's selection, step.candidates [tokens, top_k], each row ascending with -1 at its end.
  // Called in every layer, also in those that share a gate, on the thread that runs the pass.
  virtual void Select(const AttentionStep& step) = 0;
};

// The gate's tree index, where the cache keeps one.
struct TreeOptions {
  // Nodes and leaves that a search keeps, unless the selection needs more. The attention of nano's best 64
  // keys on three books, of the flat scan's, at 131,072 tokens: 98.2% with 256, 99.5% with 512, 100.4% with
  // 1024.
  int64_t beam = 1024;
  // A query with fewer keys before its window scans all of them. One thread, microseconds of scan and search,
  // for one query and for each of a block: 122 : 133 and 93 : 94 at 65,536 keys, 163 : 140 and 121 : 99 at
  // 98,304, 211 : 131 and 140 : 94 at 131,072, 626 : 192 and 459 : 197 at 524,288.
  int64_t min_keys = 65536;

  // Of a search for `num_keys` keys: four leaves at least for each.
  int64_t BeamFor(int64_t num_keys, int64_t num_sinks) const {
    return std::max(beam, 4 * num_keys + num_sinks);
  }
};

struct PassOptions {
  AttentionMode attention = AttentionMode::kSparse;
  int64_t top_k = 128;
  TreeOptions tree;  // Inference only.
  // Adaptive k, inference only: of the top_k keys those of highest score that hold this share of the gate's
  // own softmax, at least min_keys (KeepMassArgs in ops/gate.h); 1: all of them.
  double gate_mass = 1;
  int64_t min_keys = 1;
  // Sparse inference: the largest share of any head's softmax that a query may leave unread
  // (ops/guaranteed_attention.h), in (0, 1); 0: no guarantee.
  double guarantee = 0;
  GateTraining gate;         // Training only.
  RouterCapacity capacity;   // Training only.
  RouterLossWeights router;  // Training only.
  // Training only: the experts' inner values are computed again for the backward pass instead of kept.
  bool recompute_experts = false;
  const std::vector<GateConstants>* surrogate = nullptr;  // The gradient check only.
  Selector* selector = nullptr;                           // Evaluation only; null: the gate.
  ExpertLoad* expert_load = nullptr;                      // Counts what is routed; null: nobody does.

  // Whether a model's gate has a say in the logits of far keys.
  bool HasBias(const GateConfig& config) const {
    return config.bias && (gate.bias || attention == AttentionMode::kSparse);
  }
};

// Watches the passes of one timeline: evaluation and live figures. Called on the thread that runs the pass,
// layer by layer.
class PassObserver {
 public:
  virtual ~PassObserver() = default;
  virtual void OnAttention(const AttentionStep& step) { (void)step; }
  // Under a guarantee, before OnAttention: the arguments with their outputs.
  virtual void OnGuarantee(int64_t layer, const GuaranteedAttentionArgs& args) { (void)layer, (void)args; }
  virtual void OnRouting(const RoutingStep& step) { (void)step; }
};

// The rows of a pass that are one timeline's; in training all rows. What depends on a row alone (norms,
// products, routing) runs on the rows of all segments at once, what looks at other rows of the timeline on
// each segment by itself.
struct PassSegment {
  int64_t begin = 0, end = 0;  // Rows of the pass.
  const PassOptions* options = nullptr;
  Arena* arena = nullptr;    // Of what the segment alone has.
  KvCache* cache = nullptr;  // Inference: what the rows are appended to. Null: all keys are the pass's.
  PassObserver* observer = nullptr;  // Null: nobody.

  int64_t num_rows() const { return end - begin; }
  TensorView Rows(const TensorView& x) const { return x.Rows(begin, end); }
};

// Calls body(i) once for every segment: for several of few rows at the same time, each on one thread; for
// the others, and those that are watched or selected for, one after another, each on all threads.
void ForSegments(std::span<const PassSegment> segments, const std::function<void(size_t)>& body);

}  // namespace sluice
