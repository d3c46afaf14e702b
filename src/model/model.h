// The whole model: Forward and Backward written out, over any backend. A Model owns its weights (in
// the backend's type) and nothing that changes during a pass, so passes share it.
//
// Training: ForwardLoss, then Backward, on the same arena. Inference: Extend, with a cache.
#pragma once

#include <memory>
#include <vector>

#include "model/attention.h"
#include "model/moe.h"

namespace sluice {

struct TrainingBatch {
  TokenBatch tokens;
  TensorView targets;  // i32 [tokens]; -1: no loss
  TensorView weights;  // [tokens]: weight of each token's loss in the total, normalised by the caller
};

struct PassLosses {
  double total = 0;     // What Backward differentiates.
  double lm = 0;        // Σ weights · cross-entropy
  GateLoss gate;        // Distillation, unweighted, summed over layers.
  RouterLosses router;  // Unweighted, summed over layers.
};

// What a forward pass keeps for the backward pass. Lives as long as the arena's contents.
struct PassSaved {
  TensorView table_rows;  // [tokens, hidden]
  TensorView embedded;    // [tokens, hidden]: normed table rows, before the convolution
  std::vector<AttentionSaved> attention;
  std::vector<MoeSaved> moe;
  std::vector<GateSaved> gates;
  TensorView last;        // [tokens, hidden]: the last block's output
  TensorView normed;      // [tokens, hidden]
  TensorView token_loss;  // [tokens]: cross-entropy, nats
};

class Model {
 public:
  // REQUIRES: CheckQuantization. Weights uninitialised (zero): see WeightsTable::Initialize and
  // model/checkpoint.h.
  Model(const ModelConfig& config, Ops& ops);

  const ModelConfig& config() const { return config_; }
  const WeightsTable& table() const { return table_; }
  // Those in floats: [table().num_elements()].
  const TensorView& parameters() const { return parameters_.view(); }
  // Memory of a parameter that is not in floats. Throws Bug if there is none of that name.
  const QuantizedMatrixBuffer& Quantized(const std::string& parameter) const;
  int64_t WeightBytes() const;  // All parameters.
  // 16 digits that tell this model from others: of its config and of all weights, router biases included.
  // Reads them all.
  std::string Fingerprint() const;
  Ops& ops() const { return ops_; }
  KvCacheShape CacheShape() const;

  // Loss of whole documents; REQUIRES, like Backward, that all parameters are in floats. The arena is reset
  // first; `saved` refers into it.
  PassLosses ForwardLoss(Arena& arena, const TrainingBatch& batch, const PassOptions& options,
                         PassSaved& saved) const;
  // Adds the gradient of the total loss, times loss_scale, into `gradient` [table().num_elements()].
  void Backward(Arena& arena, const TrainingBatch& batch, const PassOptions& options, PassSaved& saved,
                const TensorView& gradient) const;

  // Runs `tokens` (i32, at most KvCache::kMaxAppend) behind what the cache holds, and appends them to
  // it. logits: [rows, vocab] of the last `rows` tokens, or absent.
  void Extend(Arena& arena, const TensorView& tokens, const PassOptions& options, KvCache& cache,
              PassObserver* observer, const TensorView& logits) const;

 private:
  // x = e + CausalConv(e), e = RmsNorm(table rows of `tokens`); with a cache, behind the tokens it holds.
  // The norm gives a token's identity a fixed share of the residual stream, however small the tied
  // table's rows are.
  TensorView Embed(Arena& arena, const TokenBatch& batch, const KvCache* cache, PassSaved* saved) const;
  void EmbedBackward(Arena& arena, const TokenBatch& batch, const PassSaved& saved, const TensorView& dx,
                     const ModelWeights& gradient) const;
  double HeadLoss(Arena& arena, const TrainingBatch& batch, PassSaved& saved) const;
  TensorView HeadBackward(Arena& arena, const TrainingBatch& batch, const PassSaved& saved,
                          const ModelWeights& gradient) const;

  ModelConfig config_;
  Ops& ops_;
  WeightsTable table_;
  Buffer parameters_;
  QuantizedWeights quantized_;
  ModelWeights weights_;
};

}  // namespace sluice
