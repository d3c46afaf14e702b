// The training loop: documents, forward, backward, optimiser, balance, metrics, checkpoints.
#pragma once

#include <filesystem>
#include <memory>

#include "base/file.h"
#include "model/model.h"
#include "text/tokenizer.h"
#include "train/documents.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/router_balance.h"
#include "train/train_config.h"

namespace sluice {

// Files of a run's folder.
std::filesystem::path StateFile(const std::filesystem::path& run);    // state.safetensors
std::filesystem::path MetricsFile(const std::filesystem::path& run);  // metrics.csv

enum class TrainingEnd { kFinished, kInterrupted };

class Trainer {
 public:
  // `run` is the folder that state and metrics are kept in. A state that is there is continued; without
  // one the run starts from the weights that the model has.
  // `teacher`: the model of config.teacher, of the same vocabulary and over the same backend; null if there
  // is none. All that is referred to outlives the trainer.
  Trainer(const TrainConfig& config, Model& model, const Model* teacher, const Corpus& corpus,
          const Tokenizer& tokenizer, std::filesystem::path run);

  // Runs up to `last_step` (or the config's end, if that is sooner) or until Ctrl-C, saving the state
  // every config.checkpoint_every steps and at the end. A loss that is not finite throws Error naming
  // the step; the last good state stays on disk.
  TrainingEnd Run(int64_t last_step);

  int64_t steps_done() const { return steps_done_; }

 private:
  // A batch and its memory.
  struct Batch;
  void FillBatch(const StepPlan& plan, int64_t micro, Batch& batch) const;
  // What the teacher expects of a batch that has no teacher yet. Uses the arena.
  TeacherPass Teach(const TrainingBatch& batch, const PassOptions& options);
  PassLosses ForwardLoss(const TrainingBatch& batch, const PassOptions& options, PassSaved& saved);
  StepMetrics Step();
  void Save();
  InputError Diverged(const std::string& what) const;

  const TrainConfig& config_;
  Model& model_;
  const Model* teacher_;  // Null: none.
  std::filesystem::path run_;
  std::unique_ptr<FolderLock> lock_;  // Of run_: two runs in one folder would mix their logs.
  DocumentSampler sampler_;
  Optimizer optimizer_;
  RouterBalance balance_;
  Buffer gradient_;
  Arena arena_;
  Buffer teacher_normed_;
  int64_t steps_done_ = 0;
  int64_t steps_saved_ = 0;
  std::unique_ptr<MetricsLog> log_;
};

}  // namespace sluice
