// The whole model: Forward and Backward written out, over any backend. A Model owns its weights (in
// the backend's type) and nothing that changes during a pass, so passes share it.
//
// Training: ForwardLoss, then Backward, on the same arena. Inference: Extend, with a cache.
#pragma once

#include <memory>
#include <vector>

#include "model/attention.h"
#include "model/key_codebooks.h"
#include "model/moe.h"

namespace sluice {

// Another model's expectation of the next tokens, which a batch's loss goes by in part (ops/loss.h). Its
// logits are made slice by slice from what its own pass left.
struct TeacherPass {
  TensorView normed;     // [tokens, its hidden_size]: PassSaved::normed; absent: no teacher
  TensorView embedding;  // [vocab, its hidden_size]
  double share = 0;      // In [0, 1].
};

struct TrainingBatch {
  TokenBatch tokens;
  TensorView targets;  // i32 [tokens]; -1: no loss
  TensorView weights;  // [tokens]: weight of each token's loss in the total, normalised by the caller
  TeacherPass teacher = {};
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
  TensorView token_loss;  // [tokens]: cross-entropy, nats, to targets and teacher
};

// One timeline's tokens in an inference pass.
struct TimelinePart {
  TensorView tokens;  // i32 [count], 1 to KvCache::kMaxAppend
  const PassOptions* options = nullptr;
  KvCache* cache = nullptr;
  PassObserver* observer = nullptr;  // Null: nobody.
  int64_t num_logits = 0;            // Logits of so many of the last tokens are wanted.
  // The tokens become part of the timeline; else the caller says how many of them, by KvCache::Commit.
  bool commits = true;
};

// Scratch memory of inference passes, kept from one to the next.
struct PassMemory {
  Arena rows;
  std::vector<Arena> parts;
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
  // From now on all products of passes add their inputs to `inputs`, which gets an entry for each matrix and
  // must outlive the last pass. REQUIRES: no pass is running, and from now on not more than one at a time.
  void CollectInputs(InputSquaresByName& inputs);
  Ops& ops() const { return ops_; }
  // Without key codes: SessionCacheShape (engine/session.h) adds them where a guarantee needs them.
  KvCacheShape CacheShape() const;
  // Those of the model's folder, else the plainest.
  const KeyCodebooks& key_codebooks() const { return key_codebooks_; }
  // REQUIRES: no cache holds codes of the ones before.
  void SetKeyCodebooks(KeyCodebooks codebooks) { key_codebooks_ = std::move(codebooks); }

  // Loss of whole documents; REQUIRES, like Backward, that all parameters are in floats. The arena is reset
  // first; `saved` refers into it.
  PassLosses ForwardLoss(Arena& arena, const TrainingBatch& batch, const PassOptions& options,
                         PassSaved& saved) const;
  // Adds the gradient of the total loss, times loss_scale, into `gradient` [table().num_elements()].
  void Backward(Arena& arena, const TrainingBatch& batch, const PassOptions& options, PassSaved& saved,
                const TensorView& gradient) const;

  // Runs the tokens of every timeline behind what its cache holds, and appends them to it. What a timeline
  // gets does not depend on the others in the pass, to the bit. logits: [rows, vocab], the num_logits rows of
  // one part after another's, or absent if there are none. REQUIRES: no cache is there twice.
  void Extend(PassMemory& memory, std::span<const TimelinePart> parts, const TensorView& logits) const;

 private:
  // x = e + CausalConv(e), e = RmsNorm(table rows of `tokens`); with a cache, behind the tokens it holds.
  // The norm gives a token's identity a fixed share of the residual stream, however small the tied
  // table's rows are.
  TensorView Embed(Arena& arena, const TokenBatch& batch, std::span<const PassSegment> segments,
                   PassSaved* saved) const;
  // [tokens, hidden]: e of the formula, and the table rows.
  TensorView EmbedRows(Arena& arena, const TensorView& tokens, TensorView* table_rows) const;
  void Head(Arena& arena, const TensorView& x, std::span<const PassSegment> segments,
            std::span<const TimelinePart> parts, const TensorView& logits) const;
  void EmbedBackward(Arena& arena, const TokenBatch& batch, const PassSaved& saved, const TensorView& dx,
                     const ModelWeights& gradient) const;
  // Calls body(begin, end, logits, teacher) for slices of the batch's tokens.
  void ForHeadSlices(
      Arena& arena, const TrainingBatch& batch, const PassSaved& saved,
      const std::function<void(int64_t, int64_t, const TensorView&, const TeacherTargets&)>& body) const;
  double HeadLoss(Arena& arena, const TrainingBatch& batch, PassSaved& saved) const;
  TensorView HeadBackward(Arena& arena, const TrainingBatch& batch, const PassSaved& saved,
                          const ModelWeights& gradient) const;

  ModelConfig config_;
  Ops& ops_;
  WeightsTable table_;
  Buffer parameters_;
  QuantizedWeights quantized_;
  ModelWeights weights_;
  KeyCodebooks key_codebooks_;
};

}  // namespace sluice
