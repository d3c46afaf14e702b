// The training run as one readable file (configs/nano.json): model, data, optimiser, router, stages.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/pass.h"

namespace sluice {

// A source of text, relative to the data folder, and its share of the sampled tokens.
struct SourceConfig {
  std::string path;
  double weight = 1;
};

// Shares of the kinds of documents a stage is made of; they sum to 1 (train/documents.h).
struct DataMix {
  double text = 1;
  double retrieval = 0;
  double quote = 0;
  double repeat = 0;
};

// One stage: what is trained, on what, and how the coefficients move from its first step to its last.
struct StageConfig {
  std::string name;
  int64_t steps = 0;
  int64_t sequence_length = 1024;
  int64_t batch_tokens = 8192;  // Tokens per optimiser step, over all micro-batches.
  int64_t micro_batch_tokens = 8192;
  bool recompute_experts = false;  // A third less memory for some time more: for the longest rows.
  AttentionMode attention = AttentionMode::kDense;
  bool gate_only = false;  // Warm-up: only the gates learn.
  // Share of a sparse stage's steps that run dense, and the length of their rows: full attention shows the
  // gate every key, at a cost that grows with the square of the length.
  double dense_share = 0;
  int64_t dense_sequence_length = 1024;
  // Share of those steps that run as if there were no gate, without bias and distillation: so attention can
  // do without the gate's bias, should a guarantee have to make up for a gate that is worth nothing.
  double gateless_share = 0;
  int64_t top_k_begin = 128;
  int64_t top_k_end = 128;
  double gate_kl_weight = 0;
  double temperature_begin = 1;
  double temperature_end = 1;
  bool straight_through = true;
  int64_t num_extra = 64;
  int64_t num_random = 32;
  double lr_scale = 1;
  double answer_weight = 2;  // Loss weight of an answer's tokens; text has 1.
  DataMix mix;
};

struct OptimizerConfig {
  std::string matrices = "muon";  // Or "adamw": the rule for hidden matrices.
  double muon_lr = 0.004;
  double adamw_lr = 0.004;
  double gate_lr = 0.0015;  // AdamW's, for the gates: small networks that must follow, not lead.
  double momentum = 0.95;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double weight_decay = 0.01;
  double clip = 1;  // Largest norm of the whole gradient.
  int64_t warmup_steps = 50;
  double decay_share = 0.3;  // Share of all steps, at the end, over which the rate falls linearly
  double final_lr = 0.05;    // to this share of its peak.
  // Parameters that keep the values they start with, by the last part of their names: "gate_bias".
  std::vector<std::string> frozen;
};

// How a step's tokens move the router's selection bias (train/router_balance.h).
enum class BiasRule { kNone, kQuantile, kSign };

struct RouterConfig {
  RouterLossWeights loss;
  RouterCapacity capacity;
  double capacity_until = 0.85;  // Share of all steps that run with capacity.
  BiasRule bias_rule = BiasRule::kQuantile;
  double bias_smoothing = 0.1;  // Quantile: how far a step moves the bias to the newest quantiles.
  double bias_rate = 0.001;     // Sign: how far a step moves it up or down.
  double bias_until = 0.95;     // Share of all steps after which the bias is frozen.
};

// A trained model of the same tokenizer that the loss goes by in part (ops/loss.h).
struct TeacherConfig {
  std::string model;  // Folder, relative to the working directory; empty: no teacher.
  double share = 0;   // Of the teacher's distribution in that which a token is measured against.
};

struct TrainConfig {
  std::string name;
  int64_t seed = 1;
  ModelConfig model;
  std::string tokenizer;  // Path, relative to the working directory.
  std::vector<SourceConfig> sources;
  double question_weight = 0.2;
  TeacherConfig teacher;
  OptimizerConfig optimizer;
  RouterConfig router;
  double gate_kl_mass_floor = 0.1;
  int64_t checkpoint_every = 100;
  std::vector<StageConfig> stages;

  int64_t total_steps() const;
};

// Throws InputError naming the file, the place in it, and what would be right.
TrainConfig ReadTrainConfig(const std::filesystem::path& file);

}  // namespace sluice
