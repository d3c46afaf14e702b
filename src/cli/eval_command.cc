// sluice eval: measures of a model, each in a file of its own.
#include "cli/commands.h"
#include "cli/eval_commands.h"

namespace sluice {

std::vector<std::filesystem::path> Paths(const std::vector<std::string>& names) {
  return {names.begin(), names.end()};
}

SessionOptions MakeModesOptions(SessionFlags session, const std::string& attention) {
  if (attention == "dense") session.attention = attention;
  return MakeSessionOptions(session);
}

SessionOptions InMode(SessionOptions options, AttentionMode mode) {
  options.attention = mode;
  if (mode == AttentionMode::kDense) options.guarantee = 0;
  return options;
}

void AddEvalCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand("eval", "Measure a model");
  command->require_subcommand(1);
  AddEvalPerplexity(*command);
  AddEvalNeedle(*command);
  AddEvalGating(*command);
  AddEvalRouting(*command);
}

}  // namespace sluice
