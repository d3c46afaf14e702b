// sluice info: what a model folder holds and what running it takes.
#include <fmt/ranges.h>

#include <map>
#include <vector>

#include "base/progress.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "eval/table.h"
#include "model/flops.h"
#include "model/router_profile.h"

namespace sluice {

namespace {

struct InfoFlags {
  CommonFlags common;
  bool tensors = false;
};

// "q8 8.48 M, float 0.33 M": parameters of each format.
std::string Formats(const WeightsTable& table) {
  std::map<WeightFormat, int64_t> elements;
  for (const ParameterInfo& parameter : table.parameters()) {
    elements[parameter.format] += parameter.shape.num_elements();
  }
  std::string text;
  for (const auto& [format, count] : elements) {
    text += fmt::format("{}{} {:.2f} M", text.empty() ? "" : ", ", NameOf(format),
                        static_cast<double>(count) / 1e6);
  }
  return text;
}

// "12, 3, 3", layer by layer.
std::string KeyCodeSizes(const KeyCodebooks& codebooks) {
  std::vector<int64_t> bytes;
  for (const int64_t stages : codebooks.NumStages()) bytes.push_back(KeyCodeBytes(stages));
  return fmt::format("{}", fmt::join(bytes, ", "));
}

void PrintShape(const Engine& engine) {
  const ModelConfig& config = engine.config();
  const WeightsTable& table = engine.model().table();
  int64_t parameters = 0;
  for (const ParameterInfo& parameter : table.parameters()) parameters += parameter.shape.num_elements();
  Table shape({"model", ""});
  shape.AddRow({"parameters", FormatCount(parameters)});
  shape.AddRow({"parameters a token passes through", FormatCount(table.num_active_elements())});
  shape.AddRow({"weight formats", Formats(table)});
  shape.AddRow({"vocabulary", FormatCount(config.vocab_size)});
  shape.AddRow({"context, tokens", FormatCount(config.context_length)});
  shape.AddRow({"layers", FormatCount(config.num_layers)});
  shape.AddRow({"hidden size", FormatCount(config.hidden_size)});
  shape.AddRow(
      {"query heads / key-value heads", fmt::format("{} / {}", config.num_heads, config.num_kv_heads)});
  shape.AddRow({"head size", FormatCount(config.head_dim)});
  shape.AddRow({"window / sinks / selected keys",
                fmt::format("{} / {} / {}", config.window, config.num_sinks, config.top_k)});
  shape.AddRow({"gates, heads x size",
                fmt::format("{}, {} x {}", config.num_gates(), config.gate.num_heads, config.gate.head_dim)});
  shape.AddRow(
      {"experts, per token", fmt::format("{}, {}", config.moe.num_experts, config.moe.experts_per_token)});
  shape.AddRow({"expert size / shared expert size",
                fmt::format("{} / {}", config.moe.intermediate_size, config.moe.shared_intermediate_size)});
  shape.AddRow({"bytes a key for --guarantee, by layer", KeyCodeSizes(engine.model().key_codebooks())});
  fmt::print("{}\n", shape.ToString());
}

// Memory and attention work by context length.
void PrintPlan(const Engine& engine) {
  const ModelConfig& config = engine.config();
  const auto weights = static_cast<double>(engine.model().WeightBytes());
  Table plan({"tokens", "weights", "cache and index", "multi-head cache", "attention/token",
              "full attention/token"});
  for (int64_t tokens = 1024; tokens <= config.context_length; tokens *= 2) {
    const auto n = static_cast<double>(tokens);
    SessionOptions session;
    session.capacity = tokens;
    const double cache = static_cast<double>(SessionCacheShape(engine, session).BytesFor(tokens, tokens));
    const double near =
        static_cast<double>(std::min(tokens, config.window + config.num_sinks + config.top_k));
    const double layers = static_cast<double>(config.num_layers);
    const double gates = static_cast<double>(config.num_gates());
    const double sparse = layers * near * AttentionFlopsPerKey(config) +
                          gates * (n * GateScanFlopsPerKey(config) + GateFlopsPerToken(config));
    plan.AddRow({FormatCount(tokens), FormatBytes(weights), FormatBytes(cache),
                 FormatBytes(n * KvBytesPerToken(config, config.num_heads, session.cache_format)),
                 FormatFlops(sparse), FormatFlops(layers * n * AttentionFlopsPerKey(config))});
  }
  fmt::print("{}", plan.ToString());
}

void PrintProfiles(const ModelFolder& files, const Model& model) {
  const std::vector<std::string>& names = model.config().router_profiles;
  if (names.empty()) return;
  Table profiles(
      {"profile", "tokens", "blend", "held-out tokens", "utilisation", "with it", "nats/token", "with it"});
  for (const std::string& name : names) {
    const RouterProfileFigures figures = ReadRouterProfile(files, model, name).figures;
    profiles.AddRow({name, FormatCount(figures.calibration_tokens), fmt::format("{:.3f}", figures.blend),
                     FormatCount(figures.held_out_tokens), FormatShare(figures.utilisation_before),
                     FormatShare(figures.utilisation_after), fmt::format("{:.4f}", figures.loss_before),
                     fmt::format("{:.4f}", figures.loss_after)});
  }
  fmt::print("\n{}", profiles.ToString());
}

void RunInfo(const InfoFlags& flags) {
  const Engine engine = LoadEngine(flags.common);
  PrintShape(engine);
  PrintPlan(engine);
  PrintProfiles({flags.common.model}, engine.model());
  if (!flags.tensors) return;
  Table tensors({"tensor", "shape", "elements", "format", "bytes in memory"});
  for (const ParameterInfo& parameter : engine.model().table().parameters()) {
    tensors.AddRow({parameter.name, parameter.shape.ToString(), FormatCount(parameter.shape.num_elements()),
                    NameOf(parameter.format), FormatCount(parameter.num_bytes())});
  }
  fmt::print("\n{}", tensors.ToString());
}

}  // namespace

void AddInfoCommand(CLI::App& app) {
  auto flags = std::make_shared<InfoFlags>();
  CLI::App* command = app.add_subcommand("info", "Show a model's shape, parameters and memory plan");
  command->footer(
      "Loads the model (and so checks its files), then prints its shape, and for growing documents the\n"
      "memory it takes and the attention work per token at that depth, and its router profiles.\n\n"
      "Example:\n  sluice info --model models/nano --tensors");
  command->add_flag("--tensors", flags->tensors, "List every tensor");
  AddCommonFlags(*command, flags->common);
  command->callback([flags] { RunInfo(*flags); });
}

}  // namespace sluice
