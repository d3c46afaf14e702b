#include "train/train_config.h"

#include <cmath>

#include "base/error.h"
#include "checkpoint/json_object.h"

namespace sluice {

namespace {

void Require(bool holds, const JsonObject& object, const char* what) {
  if (!holds) throw InputError("{}: {}", object.where(), what);
}

DataMix ReadMix(JsonObject json) {
  DataMix mix;
  json.Read("text", mix.text);
  json.Read("retrieval", mix.retrieval);
  json.Read("quote", mix.quote);
  json.Read("repeat", mix.repeat);
  json.RejectUnknown();
  Require(mix.text >= 0 && mix.retrieval >= 0 && mix.quote >= 0 && mix.repeat >= 0, json,
          "shares must not be negative");
  Require(std::abs(mix.text + mix.retrieval + mix.quote + mix.repeat - 1) < 1e-6, json,
          "shares must sum to 1");
  return mix;
}

StageConfig ReadStage(JsonObject json) {
  StageConfig stage;
  json.Read("name", stage.name);
  json.Read("steps", stage.steps);
  json.Read("sequence_length", stage.sequence_length);
  json.Read("batch_tokens", stage.batch_tokens);
  json.Read("micro_batch_tokens", stage.micro_batch_tokens);
  json.ReadOptional("recompute_experts", stage.recompute_experts);
  json.Read("attention", {{"dense", AttentionMode::kDense}, {"sparse", AttentionMode::kSparse}},
            stage.attention);
  json.Read("gate_only", stage.gate_only);
  json.Read("dense_share", stage.dense_share);
  json.Read("dense_sequence_length", stage.dense_sequence_length);
  json.ReadOptional("gateless_share", stage.gateless_share);
  json.Read("top_k_begin", stage.top_k_begin);
  json.Read("top_k_end", stage.top_k_end);
  json.Read("gate_kl_weight", stage.gate_kl_weight);
  json.Read("temperature_begin", stage.temperature_begin);
  json.Read("temperature_end", stage.temperature_end);
  json.Read("straight_through", stage.straight_through);
  json.Read("num_extra", stage.num_extra);
  json.Read("num_random", stage.num_random);
  json.Read("lr_scale", stage.lr_scale);
  json.Read("answer_weight", stage.answer_weight);
  stage.mix = ReadMix(json.Object("mix"));
  json.RejectUnknown();
  // Names are a column of metrics.csv.
  Require(stage.name.find_first_of(",\"\r\n") == std::string::npos, json,
          "\"name\" must be without commas, quotation marks and line breaks");
  Require(stage.steps > 0, json, "\"steps\" must be positive");
  Require(stage.sequence_length >= 16, json, "\"sequence_length\" must be at least 16");
  Require(stage.micro_batch_tokens >= stage.sequence_length &&
              stage.micro_batch_tokens % stage.sequence_length == 0,
          json, "\"micro_batch_tokens\" must be a multiple of \"sequence_length\"");
  Require(stage.dense_sequence_length >= 16 && stage.micro_batch_tokens % stage.dense_sequence_length == 0,
          json, "\"dense_sequence_length\" must be at least 16 and divide \"micro_batch_tokens\"");
  Require(
      stage.batch_tokens >= stage.micro_batch_tokens && stage.batch_tokens % stage.micro_batch_tokens == 0,
      json, "\"batch_tokens\" must be a multiple of \"micro_batch_tokens\"");
  Require(stage.top_k_begin > 0 && stage.top_k_end > 0, json,
          "\"top_k_begin\" and \"top_k_end\" must be positive");
  Require(stage.num_extra >= 0 && stage.num_random >= 0, json, "candidate counts must not be negative");
  Require(stage.temperature_begin > 0 && stage.temperature_end > 0, json, "temperatures must be positive");
  Require(stage.answer_weight > 0, json, "\"answer_weight\" must be positive");
  Require(stage.dense_share >= 0 && stage.dense_share <= 1, json, "\"dense_share\" must be between 0 and 1");
  Require(stage.gateless_share >= 0 && stage.gateless_share <= 1, json,
          "\"gateless_share\" must be between 0 and 1");
  return stage;
}

OptimizerConfig ReadOptimizer(JsonObject json) {
  OptimizerConfig optimizer;
  json.Read("matrices", optimizer.matrices);
  json.Read("muon_lr", optimizer.muon_lr);
  json.Read("adamw_lr", optimizer.adamw_lr);
  json.Read("gate_lr", optimizer.gate_lr);
  json.Read("momentum", optimizer.momentum);
  json.Read("beta1", optimizer.beta1);
  json.Read("beta2", optimizer.beta2);
  json.Read("weight_decay", optimizer.weight_decay);
  json.Read("clip", optimizer.clip);
  json.Read("warmup_steps", optimizer.warmup_steps);
  json.Read("decay_share", optimizer.decay_share);
  json.Read("final_lr", optimizer.final_lr);
  json.ReadOptional("frozen", optimizer.frozen);
  json.RejectUnknown();
  Require(optimizer.matrices == "muon" || optimizer.matrices == "adamw", json,
          "\"matrices\" must be \"muon\" or \"adamw\"");
  Require(optimizer.clip > 0, json, "\"clip\" must be positive");
  Require(optimizer.decay_share > 0 && optimizer.decay_share <= 1, json,
          "\"decay_share\" must be above 0 and at most 1");
  return optimizer;
}

TeacherConfig ReadTeacher(JsonObject json) {
  TeacherConfig teacher;
  json.Read("model", teacher.model);
  json.Read("share", teacher.share);
  json.RejectUnknown();
  Require(!teacher.model.empty(), json, "\"model\" must be a model's folder");
  Require(teacher.share > 0 && teacher.share <= 1, json, "\"share\" must be above 0 and at most 1");
  return teacher;
}

RouterConfig ReadRouter(JsonObject json) {
  RouterConfig router;
  json.Read("balance_loss", router.loss.balance);
  json.Read("sequence_balance_loss", router.loss.sequence_balance);
  json.Read("z_loss", router.loss.z);
  json.Read(
      "capacity",
      {{"none", CapacityRule::kNone}, {"dynamic", CapacityRule::kDynamic}, {"fixed", CapacityRule::kFixed}},
      router.capacity.rule);
  json.Read("capacity_factor", router.capacity.factor);
  json.Read("capacity_prior_tokens", router.capacity.prior_tokens);
  json.Read("capacity_gamma_max", router.capacity.gamma_max);
  json.Read("capacity_reroutes", router.capacity.reroutes);
  json.Read("capacity_until", router.capacity_until);
  json.Read("bias_rule",
            {{"none", BiasRule::kNone}, {"quantile", BiasRule::kQuantile}, {"sign", BiasRule::kSign}},
            router.bias_rule);
  json.Read("bias_smoothing", router.bias_smoothing);
  json.Read("bias_rate", router.bias_rate);
  json.Read("bias_until", router.bias_until);
  json.RejectUnknown();
  return router;
}

}  // namespace

int64_t TrainConfig::total_steps() const {
  int64_t steps = 0;
  for (const StageConfig& stage : stages) steps += stage.steps;
  return steps;
}

TrainConfig ReadTrainConfig(const std::filesystem::path& file) {
  const nlohmann::ordered_json document = ReadJson(file);
  JsonObject json(document, file.string());
  TrainConfig config;
  json.Read("name", config.name);
  json.Read("seed", config.seed);
  config.model = ModelConfigFromJson(json.Find("model"), file.string() + ": model");
  if (!config.model.quantization.empty()) {
    throw InputError(
        "{}: model: \"quantization\" cannot be trained with; leave it out, and run `sluice quantize` on the "
        "trained model",
        file.string());
  }
  json.Read("tokenizer", config.tokenizer);
  for (JsonObject& source : json.Objects("sources")) {
    SourceConfig entry;
    source.Read("path", entry.path);
    source.Read("weight", entry.weight);
    source.RejectUnknown();
    Require(entry.weight > 0, source, "\"weight\" must be positive");
    config.sources.push_back(entry);
  }
  Require(!config.sources.empty(), json, "\"sources\" must name at least one folder or file");
  json.Read("question_weight", config.question_weight);
  if (document.contains("teacher")) config.teacher = ReadTeacher(json.Object("teacher"));
  config.optimizer = ReadOptimizer(json.Object("optimizer"));
  config.router = ReadRouter(json.Object("router"));
  json.Read("gate_kl_mass_floor", config.gate_kl_mass_floor);
  json.Read("checkpoint_every", config.checkpoint_every);
  Require(config.checkpoint_every > 0, json, "\"checkpoint_every\" must be positive");
  for (JsonObject& stage : json.Objects("stages")) config.stages.push_back(ReadStage(stage));
  Require(!config.stages.empty(), json, "\"stages\" must hold at least one stage");
  json.RejectUnknown();
  return config;
}

}  // namespace sluice
