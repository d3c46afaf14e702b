#include "model/model.h"

#include <algorithm>
#include <cstring>
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
    weights.try_emplace(parameter.name, parameter.format, parameter.num_experts(),
                        rows[0] / parameter.num_experts(), rows[1]);
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
      weights_(table_.Bind(parameters_, quantized_)),
      key_codebooks_(config) {}

const QuantizedMatrixBuffer& Model::Quantized(const std::string& parameter) const {
  const auto found = quantized_.find(parameter);
  if (found == quantized_.end()) throw Bug(fmt::format("no parameter {} is quantised", parameter));
  return found->second;
}

void Model::CollectInputs(InputSquaresByName& inputs) {
  weights_ = table_.Bind(parameters_, quantized_, &inputs);
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
    for (const TensorView& part : {matrix.view().codes, matrix.view().scales, matrix.view().mins})
      if (part.present()) add(part);
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
  PassSegment segment;
  segment.end = shape[0];
  segment.options = &options;
  segment.arena = &arena;
  const std::span<const PassSegment> all(&segment, 1);
  TensorView x = Embed(arena, batch.tokens, all, &saved);
  for (size_t i = 0; i < layers; ++i) {
    const auto layer = static_cast<int64_t>(i);
    const TensorView middle = arena.Allocate(ops_.dtype(), shape);
    const TensorView out = arena.Allocate(ops_.dtype(), shape);
    GateSaved& gate = saved.gates[static_cast<size_t>(config_.GateOf(layer))];
    AttentionForward(ops_, arena, {config_, weights_.layers[i], layer}, batch.tokens, all, x, {&gate, 1},
                     &saved.attention[i], &losses.gate, middle);
    MoeForward(ops_, arena, config_, weights_.layers[i], layer, batch.tokens, all, middle, &saved.moe[i],
               &losses.router, out);
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

TensorView Model::EmbedRows(Arena& arena, const TensorView& tokens, TensorView* table_rows) const {
  const Shape shape = {tokens.dim(0), config_.hidden_size};
  *table_rows = arena.Allocate(ops_.dtype(), shape);
  const TensorView normed = arena.Allocate(ops_.dtype(), shape);
  LookUp(ops_, tokens, weights_.embedding, *table_rows);
  ops_.RmsNorm({*table_rows, weights_.embedding_norm, config_.rms_norm_eps, normed});
  return normed;
}

TensorView Model::Embed(Arena& arena, const TokenBatch& batch, std::span<const PassSegment> segments,
                        PassSaved* saved) const {
  TensorView table_rows;
  const TensorView rows = EmbedRows(arena, batch.tokens, &table_rows);
  const TensorView x = arena.Allocate(ops_.dtype(), rows.shape());
  const int64_t before = config_.embedding_conv_width - 1;
  ForSegments(segments, [&](size_t i) {
    const PassSegment& segment = segments[i];
    CausalConvArgs conv;
    conv.x = segment.Rows(rows);
    conv.weight = weights_.embedding_conv;
    conv.segment_start = batch.segment_start;
    conv.out = segment.Rows(x);
    if (segment.cache != nullptr && before > 0) {
      const int64_t held = segment.cache->num_tokens();
      const int64_t known = std::min(before, held);
      conv.history = segment.arena->Allocate(ops_.dtype(), {before, config_.hidden_size});
      conv.history.Zero();
      conv.first_position = held;
      std::vector<int32_t> newest(static_cast<size_t>(known));
      segment.cache->CopyTokens(held - known, held, newest.data());
      TensorView unused;
      const TensorView history = EmbedRows(*segment.arena, TensorView::Of(newest.data(), {known}), &unused);
      std::memcpy(conv.history.Rows(before - known, before).raw(), history.raw(),
                  static_cast<size_t>(history.num_elements()) * SizeOf(history.dtype()));
    }
    ops_.CausalConv(conv);
  });
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

void Model::ForHeadSlices(
    Arena& arena, const TrainingBatch& batch, const PassSaved& saved,
    const std::function<void(int64_t, int64_t, const TensorView&, const TeacherTargets&)>& body) const {
  const int64_t tokens = saved.normed.dim(0);
  const Shape shape = {std::min(tokens, kHeadRows), config_.vocab_size};
  const Arena::Position mark = arena.Mark();
  const TensorView logits = arena.Allocate(ops_.dtype(), shape);
  const TeacherPass& teacher = batch.teacher;
  TensorView teacher_logits;
  if (teacher.normed.present()) teacher_logits = arena.Allocate(ops_.dtype(), shape);
  for (int64_t begin = 0; begin < tokens; begin += kHeadRows) {
    const int64_t end = std::min(begin + kHeadRows, tokens);
    const TensorView slice = logits.Rows(0, end - begin);
    Multiply(ops_, saved.normed.Rows(begin, end), weights_.embedding, slice);
    TeacherTargets expected;
    if (teacher.normed.present()) {
      expected = {teacher_logits.Rows(0, end - begin), teacher.share};
      ops_.MatMul({teacher.normed.Rows(begin, end), teacher.embedding, expected.logits});
    }
    body(begin, end, slice, expected);
  }
  arena.Release(mark);
}

double Model::HeadLoss(Arena& arena, const TrainingBatch& batch, PassSaved& saved) const {
  const TraceSpan span("head");
  const int64_t tokens = saved.last.dim(0);
  saved.normed = arena.Allocate(ops_.dtype(), saved.last.shape());
  ops_.RmsNorm({saved.last, weights_.final_norm, config_.rms_norm_eps, saved.normed});
  saved.token_loss = arena.Allocate(ops_.dtype(), {tokens});
  ForHeadSlices(arena, batch, saved,
                [&](int64_t begin, int64_t end, const TensorView& logits, const TeacherTargets& teacher) {
                  ops_.CrossEntropy(
                      {logits, batch.targets.Rows(begin, end), saved.token_loss.Rows(begin, end), teacher});
                });
  double loss = 0;
  for (int64_t t = 0; t < tokens; ++t)
    loss += LoadElement(batch.weights, t) * LoadElement(saved.token_loss, t);
  return loss;
}

TensorView Model::HeadBackward(Arena& arena, const TrainingBatch& batch, const PassSaved& saved,
                               const ModelWeights& gradient) const {
  const TraceSpan span("head backward");
  const TensorView dx = arena.Allocate(ops_.dtype(), saved.last.shape());
  const Arena::Position mark = arena.Mark();
  const TensorView dnormed = arena.Allocate(ops_.dtype(), saved.last.shape());
  ForHeadSlices(arena, batch, saved,
                [&](int64_t begin, int64_t end, const TensorView& logits, const TeacherTargets& teacher) {
                  ops_.CrossEntropyGrad({logits, batch.targets.Rows(begin, end),
                                         batch.weights.Rows(begin, end), logits, teacher});
                  ops_.MatMulGrad({saved.normed.Rows(begin, end), weights_.embedding.floats, logits,
                                   dnormed.Rows(begin, end), gradient.embedding.floats});
                });
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

void Model::Extend(PassMemory& memory, std::span<const TimelinePart> parts, const TensorView& logits) const {
  memory.rows.Reset();
  memory.parts.resize(std::max(memory.parts.size(), parts.size()));
  std::vector<int32_t> tokens, positions;
  std::vector<PassSegment> segments;
  for (size_t i = 0; i < parts.size(); ++i) {
    const TimelinePart& part = parts[i];
    const int64_t begin = std::ssize(tokens);
    const int32_t* first = part.tokens.data<int32_t>();
    tokens.insert(tokens.end(), first, first + part.tokens.dim(0));
    const int64_t end = std::ssize(tokens);
    positions.resize(tokens.size());
    std::iota(positions.begin() + begin, positions.end(), static_cast<int32_t>(part.cache->num_tokens()));
    memory.parts[i].Reset();
    segments.push_back({begin, end, part.options, &memory.parts[i], part.cache, part.observer});
    part.cache->Append(part.tokens);
  }
  const int64_t count = std::ssize(tokens);
  TokenBatch batch;
  batch.tokens = TensorView::Of(tokens.data(), {count});
  batch.positions = TensorView::Of(positions.data(), {count});
  batch.sequence_length = count;

  Arena& arena = memory.rows;
  const TensorView x = Embed(arena, batch, segments, nullptr);
  const TensorView middle = arena.Allocate(ops_.dtype(), x.shape());
  std::vector<GateSaved> gates(segments.size());
  const Arena::Position group_mark = arena.Mark();
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    const auto i = static_cast<size_t>(layer);
    if (config_.HasGate(layer)) {
      // A gate's outputs live for all the layers it serves; the rest of a layer's memory goes with them.
      arena.Release(group_mark);
      for (const PassSegment& segment : segments) segment.arena->Release({});
    }
    AttentionForward(ops_, arena, {config_, weights_.layers[i], layer, key_codebooks_.OfLayer(layer)}, batch,
                     segments, x, gates, nullptr, nullptr, middle);
    MoeForward(ops_, arena, config_, weights_.layers[i], layer, batch, segments, middle, nullptr, nullptr, x);
  }
  for (const TimelinePart& part : parts)
    if (part.commits) part.cache->Commit();
  if (logits.present()) Head(arena, x, segments, parts, logits);
}

void Model::Head(Arena& arena, const TensorView& x, std::span<const PassSegment> segments,
                 std::span<const TimelinePart> parts, const TensorView& logits) const {
  const TraceSpan span("head");
  // The last rows of the timelines, one after another, for one product.
  const Shape shape = {logits.dim(0), config_.hidden_size};
  const TensorView last = arena.Allocate(ops_.dtype(), shape);
  const TensorView normed = arena.Allocate(ops_.dtype(), shape);
  int64_t rows = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const int64_t count = parts[i].num_logits;
    if (count == 0) continue;
    const TensorView from = x.Rows(segments[i].end - count, segments[i].end);
    std::memcpy(last.Rows(rows, rows + count).raw(), from.raw(),
                static_cast<size_t>(from.num_elements()) * SizeOf(from.dtype()));
    rows += count;
  }
  SLUICE_CHECK_EQ(rows, logits.dim(0));
  MultiplyNormed(ops_, {last, weights_.final_norm, config_.rms_norm_eps, normed},
                 {{weights_.embedding, logits}});
}

}  // namespace sluice
