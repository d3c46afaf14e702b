// One line of figures per training step, as CSV: the run's log.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

namespace sluice {

struct StepMetrics {
  int64_t step = 0;  // Steps done, from 1.
  std::string stage;
  double tokens = 0;         // Trained on so far, this step included.
  double loss = 0;           // The whole objective.
  double lm_loss = 0;        // Weighted mean cross-entropy, nats per token.
  double text_loss = 0;      // Unweighted mean cross-entropy outside answers.
  double answer_loss = 0;    // Unweighted mean cross-entropy of answers; 0 if there are none.
  double repeat_loss = 0;    // The same of repeated passages.
  double gate_loss = 0;      // Distillation, mean over layers.
  double balance_loss = 0;   // Squared coefficient of variation of expert use, mean over layers.
  double gradient_norm = 0;  // Before clipping.
  double lr_factor = 0;      // Of the optimiser's peak rates.
  double tokens_per_second = 0;
};

class MetricsLog {
 public:
  // Continues the file behind `steps_done`: later lines, of steps that a crash undid, are dropped.
  MetricsLog(const std::filesystem::path& file, int64_t steps_done);
  void Write(const StepMetrics& metrics);
  // Tokens trained on by the last kept line, and by every Write since.
  double tokens() const { return tokens_; }

 private:
  std::filesystem::path file_;
  std::ofstream out_;
  double tokens_ = 0;
};

}  // namespace sluice
