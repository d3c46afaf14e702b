#include "model/model.h"

#include <algorithm>
#include <numeric>

#include "base/trace.h"
#include "checkpoint/safetensors_format.h"
#include "model/linear.h"
#include "tensor/host.h"

namespace sluice {

namespace {

// The head runs in slices: logits of all tokens at once would be the largest tensor by far.
constexpr int64_t kHeadRows = 512;

QuantizedWeights MakeQuantized(const WeightsTable& table) {
  QuantizedWeights weights;
  for (const ParameterInfo& parameter : table.parameters()) {
    if (parameter.format == WeightFormat::kFloat) continue;
    const Shape rows = parameter.RowShape();
    weights.try_emplace(parameter.name, parameter.num_experts(), rows[0] / parameter.num_experts(), rows[1]);
  }
  return weights;
}

}  // namespace

Model::Model(const ModelConfig& config, Ops& ops)
    : config_(config),
      ops_(ops),
      table_(config),
      parameters_(ops.dtype(), {table_.num_elements()}),
      quantized_(MakeQuantized(table_)),
      weights_(table_.Bind(parameters_, quantized_)) {}

const QuantizedMatrixBuffer& Model::Quantized(const std::string& parameter) const {
  const auto found = quantized_.find(parameter);
  if (found == quantized_.end()) throw Bug(fmt::format("no parameter {} is quantised", parameter));
  return found->second;
}

int64_t Model::WeightBytes() const {
  int64_t bytes = 0;
  for (const ParameterInfo& parameter : table_.parameters()) bytes += parameter.num_bytes();
  return bytes;
}

std::string Model::Fingerprint() const {
  ModelConfig config = config_;
  config.router_profiles.clear();  // Biases that a model may have, not those that it has.
  const std::string text = ToJson(config).dump();
  safetensors::Checksum checksum;
  checksum.Add(text.data(), text.size());
  const auto add = [&](const TensorView& weights) {
    checksum.Add(weights.raw(), static_cast<size_t>(weights.num_elements()) * SizeOf(weights.dtype()));
  };
  add(parameters_);
  for (const auto& [name, matrix] : quantized_) {
    add(matrix.view().codes);
    add(matrix.view().scales);
  }
  return checksum.Digits();
}

KvCacheShape Model::CacheShape() const {
  KvCacheShape shape;
  shape.num_layers = config_.num_layers;
  shape.num_kv_heads = config_.num_kv_heads;
  shape.head_dim = config_.head_dim;
  shape.window = config_.window;
  shape.rope_theta = config_.rope_theta;
  shape.num_gates = config_.num_gates();
  shape.gate_head_dim = config_.gate.head_dim;
  shape.gate_conv_width = config_.gate.conv_width;
  return shape;
}

PassLosses Model::ForwardLoss(Arena& arena, const TrainingBatch& batch, const PassOptions& options,
                              PassSaved& saved) const {
  arena.Reset();
  const auto layers = static_cast<size_t>(config_.num_layers);
  const Shape shape = {batch.tokens.tokens.dim(0), config_.hidden_size};
  saved = PassSaved();
  saved.attention.resize(layers);
  saved.moe.resize(layers);
  saved.gates.resize(static_cast<size_t>(config_.num_gates()));
  PassLosses losses;
  TensorView x = Embed(arena, batch.tokens, nullptr, &saved);
  for (size_t i = 0; i < layers; ++i) {
    const auto layer = static_cast<int64_t>(i);
    const TensorView middle = arena.Allocate(ops_.dtype(), shape);
    const TensorView out = arena.Allocate(ops_.dtype(), shape);
    AttentionForward(ops_, arena, {config_, weights_.layers[i], layer}, batch.tokens, options, x, nullptr,
                     saved.gates[static_cast<size_t>(config_.GateOf(layer))], &saved.attention[i],
                     &losses.gate, nullptr, middle);
    MoeForward(ops_, arena, config_, weights_.layers[i], layer, batch.tokens, options, middle, &saved.moe[i],
               &losses.router, nullptr, out);
    x = out;
  }
  saved.last = x;
  losses.lm = HeadLoss(arena, batch, saved);
  losses.total = losses.lm + options.router.balance * losses.router.balance +
                 options.router.sequence_balance * losses.router.sequence_balance +
                 options.router.z * losses.router.z;
  if (options.gate.kl_weight > 0) {
    losses.total += options.gate.kl_weight * losses.gate.sum / static_cast<double>(config_.num_layers);
  }
  return losses;
}

TensorView Model::Embed(Arena& arena, const TokenBatch& batch, const KvCache* cache, PassSaved* saved) const {
  const Shape shape = {batch.tokens.dim(0), config_.hidden_size};
  const auto normed_rows = [&](const TensorView& tokens, const TensorView& table_rows,
                               const TensorView& normed) {
    LookUp(ops_, tokens, weights_.embedding, table_rows);
    ops_.RmsNorm({table_rows, weights_.embedding_norm, config_.rms_norm_eps, normed});
  };
  const TensorView table_rows = arena.Allocate(ops_.dtype(), shape);
  const TensorView rows = arena.Allocate(ops_.dtype(), shape);
  const TensorView x = arena.Allocate(ops_.dtype(), shape);
  normed_rows(batch.tokens, table_rows, rows);
  CausalConvArgs conv;
  conv.x = rows;
  conv.weight = weights_.embedding_conv;
  conv.segment_start = batch.segment_start;
  conv.out = x;
  const int64_t before = config_.embedding_conv_width - 1;
  if (cache != nullptr && before > 0) {
    const int64_t held = cache->num_tokens();
    const int64_t known = std::min(before, held);
    const TensorView history_rows = arena.Allocate(ops_.dtype(), {known, config_.hidden_size});
    conv.history = arena.Allocate(ops_.dtype(), {before, config_.hidden_size});
    conv.history.Zero();
    conv.first_position = held;
    std::vector<int32_t> newest(static_cast<size_t>(known));
    cache->CopyTokens(held - known, held, newest.data());
    normed_rows(TensorView::Of(newest.data(), {known}), history_rows,
                conv.history.Rows(before - known, before));
  }
  ops_.CausalConv(conv);
  ops_.Add({rows, x});
  if (saved != nullptr) {
    saved->table_rows = table_rows;
    saved->embedded = rows;
  }
  return x;
}

void Model::EmbedBackward(Arena& arena, const TokenBatch& batch, const PassSaved& saved, const TensorView& dx,
                          const ModelWeights& gradient) const {
  const Arena::Position mark = arena.Mark();
  CausalConvGradArgs conv;
  conv.x = saved.embedded;
  conv.weight = weights_.embedding_conv;
  conv.segment_start = batch.segment_start;
  conv.dout = dx;
  conv.dx = arena.Allocate(ops_.dtype(), dx.shape());
  conv.dweight_acc = gradient.embedding_conv;
  ops_.CausalConvGrad(conv);
  ops_.Add({conv.dx, dx});
  const TensorView dtable_rows = arena.Allocate(ops_.dtype(), dx.shape());
  ops_.RmsNormGrad({saved.table_rows, weights_.embedding_norm, config_.rms_norm_eps, dx, dtable_rows,
                    gradient.embedding_norm});
  ops_.EmbeddingGrad({batch.tokens, dtable_rows, gradient.embedding.floats});
  arena.Release(mark);
}

double Model::HeadLoss(Arena& arena, const TrainingBatch& batch, PassSaved& saved) const {
  const TraceSpan span("head");
  const int64_t tokens = saved.last.dim(0);
  saved.normed = arena.Allocate(ops_.dtype(), saved.last.shape());
  ops_.RmsNorm({saved.last, weights_.final_norm, config_.rms_norm_eps, saved.normed});
  saved.token_loss = arena.Allocate(ops_.dtype(), {tokens});
  const Arena::Position mark = arena.Mark();
  const TensorView logits = arena.Allocate(ops_.dtype(), {std::min(tokens, kHeadRows), config_.vocab_size});
  for (int64_t begin = 0; begin < tokens; begin += kHeadRows) {
    const int64_t end = std::min(begin + kHeadRows, tokens);
    const TensorView slice = logits.Rows(0, end - begin);
    Multiply(ops_, saved.normed.Rows(begin, end), weights_.embedding, slice);
    ops_.CrossEntropy({slice, batch.targets.Rows(begin, end), saved.token_loss.Rows(begin, end)});
  }
  arena.Release(mark);
  double loss = 0;
  for (int64_t t = 0; t < tokens; ++t)
    loss += LoadElement(batch.weights, t) * LoadElement(saved.token_loss, t);
  return loss;
}

TensorView Model::HeadBackward(Arena& arena, const TrainingBatch& batch, const PassSaved& saved,
                               const ModelWeights& gradient) const {
  const TraceSpan span("head backward");
  const int64_t tokens = saved.last.dim(0);
  const TensorView dx = arena.Allocate(ops_.dtype(), saved.last.shape());
  const Arena::Position mark = arena.Mark();
  const TensorView dnormed = arena.Allocate(ops_.dtype(), saved.last.shape());
  const TensorView logits = arena.Allocate(ops_.dtype(), {std::min(tokens, kHeadRows), config_.vocab_size});
  for (int64_t begin = 0; begin < tokens; begin += kHeadRows) {
    const int64_t end = std::min(begin + kHeadRows, tokens);
    const TensorView slice = logits.Rows(0, end - begin);
    const TensorView normed = saved.normed.Rows(begin, end);
    Multiply(ops_, normed, weights_.embedding, slice);
    ops_.CrossEntropyGrad({slice, batch.targets.Rows(begin, end), batch.weights.Rows(begin, end), slice});
    ops_.MatMulGrad(
        {normed, weights_.embedding.floats, slice, dnormed.Rows(begin, end), gradient.embedding.floats});
  }
  ops_.RmsNormGrad({saved.last, weights_.final_norm, config_.rms_norm_eps, dnormed, dx, gradient.final_norm});
  arena.Release(mark);
  return dx;
}

void Model::Backward(Arena& arena, const TrainingBatch& batch, const PassOptions& options, PassSaved& saved,
                     const TensorView& gradient) const {
  SLUICE_CHECK(quantized_.empty());
  const ModelWeights dweights = table_.Bind(gradient);
  const TensorView dx = HeadBackward(arena, batch, saved, dweights);
  for (int64_t layer = config_.num_layers - 1; layer >= 0; --layer) {
    const auto i = static_cast<size_t>(layer);
    MoeBackward(ops_, arena, config_, weights_.layers[i], batch.tokens, options, dweights.layers[i],
                saved.moe[i], dx);
    AttentionBackward(ops_, arena, {config_, weights_.layers[i], layer}, batch.tokens, options,
                      dweights.layers[i], saved.gates[static_cast<size_t>(config_.GateOf(layer))],
                      saved.attention[i], dx);
  }
  EmbedBackward(arena, batch.tokens, saved, dx, dweights);
}

void Model::Extend(Arena& arena, const TensorView& tokens, const PassOptions& options, KvCache& cache,
                   PassObserver* observer, const TensorView& logits) const {
  const int64_t count = tokens.dim(0);
  const DType dtype = ops_.dtype();
  const Shape shape = {count, config_.hidden_size};
  std::vector<int32_t> positions(static_cast<size_t>(count));
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(cache.num_tokens()));
  TokenBatch batch;
  batch.tokens = tokens;
  batch.positions = TensorView::Of(positions.data(), {count});
  batch.sequence_length = count;

  arena.Reset();
  cache.Append(tokens);
  const TensorView x = Embed(arena, batch, &cache, nullptr);
  const TensorView middle = arena.Allocate(dtype, shape);
  GateSaved gate;
  Arena::Position group_mark = arena.Mark();
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    const auto i = static_cast<size_t>(layer);
    // A gate's outputs live for all the layers it serves; the rest of a layer's memory goes with them.
    if (config_.HasGate(layer)) arena.Release(group_mark);
    AttentionForward(ops_, arena, {config_, weights_.layers[i], layer}, batch, options, x, &cache, gate,
                     nullptr, nullptr, observer, middle);
    MoeForward(ops_, arena, config_, weights_.layers[i], layer, batch, options, middle, nullptr, nullptr,
               observer, x);
  }
  cache.Commit();
  if (!logits.present()) return;
  const TraceSpan span("head");
  const int64_t rows = logits.dim(0);
  const TensorView normed = arena.Allocate(dtype, {rows, config_.hidden_size});
  ops_.RmsNorm({x.Rows(count - rows, count), weights_.final_norm, config_.rms_norm_eps, normed});
  Multiply(ops_, normed, weights_.embedding, logits);
}

}  // namespace sluice
