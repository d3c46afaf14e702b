#include "train/trainer.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/trace.h"
#include "tensor/host.h"
#include "train/training_state.h"

namespace sluice {

std::filesystem::path StateFile(const std::filesystem::path& run) {
  return run / "state.safetensors";
}
std::filesystem::path MetricsFile(const std::filesystem::path& run) {
  return run / "metrics.csv";
}

namespace {

struct MeanLoss {
  double sum = 0;
  double count = 0;
  void Add(double loss) {
    sum += loss;
    ++count;
  }
  double Mean() const { return count > 0 ? sum / count : 0; }
};

}  // namespace

struct Trainer::Batch {
  std::vector<int32_t> tokens, positions, segment_start, targets;
  std::vector<TokenPart> parts;
  Buffer weights;

  TrainingBatch View(int64_t sequence_length) {
    const auto count = static_cast<int64_t>(tokens.size());
    TrainingBatch view;
    view.tokens.tokens = TensorView::Of(tokens.data(), {count});
    view.tokens.positions = TensorView::Of(positions.data(), {count});
    view.tokens.segment_start = TensorView::Of(segment_start.data(), {count});
    view.tokens.sequence_length = sequence_length;
    view.targets = TensorView::Of(targets.data(), {count});
    view.weights = weights;
    return view;
  }
};

Trainer::Trainer(const TrainConfig& config, Model& model, const Model* teacher, const Corpus& corpus,
                 const Tokenizer& tokenizer, std::filesystem::path run)
    : config_(config),
      model_(model),
      teacher_(teacher),
      run_(std::move(run)),
      sampler_(config, corpus, tokenizer),
      optimizer_(model, config.optimizer),
      balance_(model, config.router),
      gradient_(model.ops().dtype(), {model.table().num_elements()}) {
  std::filesystem::create_directories(run_);
  lock_ = std::make_unique<FolderLock>(run_);
  if (std::filesystem::exists(StateFile(run_))) {
    steps_done_ = LoadTrainingState(StateFile(run_), model_, optimizer_);
  }
  steps_saved_ = steps_done_;
  log_ = std::make_unique<MetricsLog>(MetricsFile(run_), steps_done_);
}

void Trainer::FillBatch(const StepPlan& plan, int64_t micro, Batch& batch) const {
  const TraceSpan span("documents");
  const StageConfig& stage = *plan.stage;
  const int64_t rows = stage.micro_batch_tokens / plan.sequence_length;
  const auto count = static_cast<size_t>(stage.micro_batch_tokens);
  for (auto* column : {&batch.tokens, &batch.positions, &batch.segment_start, &batch.targets})
    column->resize(count);
  batch.parts.resize(count);
  batch.weights = Buffer(model_.ops().dtype(), {stage.micro_batch_tokens});
  double weight_sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const TrainingRow row = sampler_.Row(stage, plan.sequence_length, plan.step, micro * rows + r);
    const int64_t begin = r * plan.sequence_length;
    for (int64_t i = 0; i < plan.sequence_length; ++i) {
      const auto from = static_cast<size_t>(i);
      const auto to = static_cast<size_t>(begin + i);
      batch.tokens[to] = row.tokens[from];
      batch.targets[to] = row.weights[from] > 0 ? row.targets[from] : -1;
      batch.segment_start[to] = static_cast<int32_t>(begin) + row.segment_start[from];
      batch.positions[to] = static_cast<int32_t>(i) - row.segment_start[from];
      batch.parts[to] = row.parts[from];
      StoreElement(batch.weights, begin + i, row.weights[from]);
      weight_sum += row.weights[from];
    }
  }
  // The step's loss is the mean over its micro-batches of their weighted means.
  const auto micro_batches = static_cast<double>(stage.batch_tokens / stage.micro_batch_tokens);
  model_.ops().Scale({batch.weights, 1 / (std::max(weight_sum, 1e-9) * micro_batches)});
}

InputError Trainer::Diverged(const std::string& what) const {
  return InputError(
      "training stopped at step {}: {}. The last good state, of step {}, is in {}; lower the learning rates "
      "or the "
      "clip in the config and run the same command again",
      steps_done_ + 1, what, steps_saved_, StateFile(run_).string());
}

TeacherPass Trainer::Teach(const TrainingBatch& batch, const PassOptions& options) {
  const TraceSpan span("teacher");
  PassOptions pass;
  pass.attention = options.attention;
  pass.top_k = teacher_->config().top_k;
  pass.gate.num_extra = pass.gate.num_random = 0;
  pass.recompute_experts = options.recompute_experts;
  PassSaved saved;
  teacher_->ForwardLoss(arena_, batch, pass, saved);
  teacher_normed_ = Buffer(saved.normed.dtype(), saved.normed.shape());
  std::memcpy(teacher_normed_.view().raw(), saved.normed.raw(),
              static_cast<size_t>(saved.normed.num_elements()) * SizeOf(saved.normed.dtype()));
  const ModelWeights weights = teacher_->table().Bind(teacher_->parameters());
  return {teacher_normed_, weights.embedding.floats, config_.teacher.share};
}

PassLosses Trainer::ForwardLoss(const TrainingBatch& batch, const PassOptions& options, PassSaved& saved) {
  try {
    return model_.ForwardLoss(arena_, batch, options, saved);
  } catch (const InputError& error) {
    throw Diverged(error.what());  // An op refused its input: the router does for NaN.
  }
}

void Trainer::Save() {
  SaveTrainingState(StateFile(run_), model_, optimizer_, steps_done_);
  steps_saved_ = steps_done_;
}

StepMetrics Trainer::Step() {
  const auto start = std::chrono::steady_clock::now();
  const StepPlan plan = PlanStep(config_, steps_done_);
  const StageConfig& stage = *plan.stage;
  const int64_t micro_batches = stage.batch_tokens / stage.micro_batch_tokens;
  const auto layers = static_cast<double>(model_.config().num_layers);
  StepMetrics metrics;
  std::array<MeanLoss, 3> part_losses;  // By TokenPart.

  // Losses that are means over a micro-batch count by its share of the step.
  PassOptions options = plan.options;
  options.gate.kl_weight /= static_cast<double>(micro_batches);
  options.router.balance /= static_cast<double>(micro_batches);
  options.router.sequence_balance /= static_cast<double>(micro_batches);
  options.router.z /= static_cast<double>(micro_batches);

  // Counts never outlive a step: they are not part of the saved state.
  const bool balances = plan.update_bias && !stage.gate_only;
  gradient_.view().Zero();
  Batch batch;
  PassSaved saved;
  for (int64_t micro = 0; micro < micro_batches; ++micro) {
    FillBatch(plan, micro, batch);
    options.gate.random_seed = plan.options.gate.random_seed + static_cast<uint64_t>(micro);
    TrainingBatch view = batch.View(plan.sequence_length);
    if (teacher_ != nullptr) view.teacher = Teach(view, options);
    const PassLosses losses = ForwardLoss(view, options, saved);
    metrics.loss += losses.total;
    metrics.lm_loss += losses.lm;
    metrics.gate_loss += losses.gate.sum / (layers * static_cast<double>(micro_batches));
    metrics.balance_loss += losses.router.balance / (layers * static_cast<double>(micro_batches));
    if (!std::isfinite(losses.total)) break;
    for (size_t t = 0; t < batch.tokens.size(); ++t) {
      if (batch.targets[t] < 0) continue;
      const double loss = LoadElement(saved.token_loss, static_cast<int64_t>(t));
      part_losses[static_cast<size_t>(batch.parts[t])].Add(loss);
    }
    if (balances) balance_.Count(saved);
    model_.Backward(arena_, view, options, saved, gradient_);
  }
  if (std::isfinite(metrics.loss)) {
    metrics.gradient_norm = optimizer_.Step(gradient_, steps_done_ + 1, plan.lr_factor, stage.gate_only);
    if (balances) balance_.Update();
  }
  if (!std::isfinite(metrics.loss) || !std::isfinite(metrics.gradient_norm)) {
    throw Diverged(
        fmt::format("the loss is {} and the gradient's norm {}", metrics.loss, metrics.gradient_norm));
  }
  ++steps_done_;
  metrics.step = steps_done_;
  metrics.stage = stage.name;
  metrics.tokens = log_->tokens() + static_cast<double>(stage.batch_tokens);
  metrics.text_loss = part_losses[static_cast<size_t>(TokenPart::kText)].Mean();
  metrics.answer_loss = part_losses[static_cast<size_t>(TokenPart::kAnswer)].Mean();
  metrics.repeat_loss = part_losses[static_cast<size_t>(TokenPart::kRepeat)].Mean();
  metrics.lr_factor = plan.lr_factor;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  metrics.tokens_per_second = static_cast<double>(stage.batch_tokens) / seconds.count();
  return metrics;
}

TrainingEnd Trainer::Run(int64_t last_step) {
  const int64_t last = std::min(last_step, config_.total_steps());
  ProgressBar bar("train", last, "steps");
  bar.Update(steps_done_);
  while (steps_done_ < last && !InterruptRequested()) {
    const StepMetrics metrics = Step();
    log_->Write(metrics);
    bar.Update(steps_done_, fmt::format("{} loss {:.3f} answers {:.3f} {:.0f} tokens/s", metrics.stage,
                                        metrics.text_loss, metrics.answer_loss, metrics.tokens_per_second));
    if (steps_done_ % config_.checkpoint_every == 0) Save();
  }
  if (steps_saved_ != steps_done_) Save();
  return steps_done_ < last ? TrainingEnd::kInterrupted : TrainingEnd::kFinished;
}

}  // namespace sluice
