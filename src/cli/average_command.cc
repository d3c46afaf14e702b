// sluice average: one model folder from several training runs.
#include "backend/backend.h"
#include "base/error.h"
#include "base/pending_folder.h"
#include "cli/commands.h"
#include "model/average.h"
#include "model/model_folder.h"

namespace sluice {

namespace {

struct AverageFlags {
  std::vector<std::filesystem::path> models;
  std::filesystem::path output;
};

void RunAverage(const AverageFlags& flags) {
  if (flags.models.size() < 2) throw InputError("one model has no mean; name two or more");
  PendingFolder folder(flags.output);
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const std::unique_ptr<Model> mean = AverageModels(flags.models, *ops);
  SaveModel(folder.temporary(), *mean, ModelFolder{flags.models[0]}.tokenizer_file());
  folder.Commit();
  fmt::print("written: {}, the mean of {} models\n", flags.output.string(), flags.models.size());
}

}  // namespace

void AddAverageCommand(CLI::App& app) {
  auto flags = std::make_shared<AverageFlags>();
  CLI::App* command =
      app.add_subcommand("average", "Make one model of several training runs: the mean of their weights");
  command->footer(
      "For runs that began at the same weights (sluice train --init): the mean of their weights is often\n"
      "better than any of them. Configs and tokenizers must be the same, weights in floats. The result has\n"
      "no router profiles; sluice calibrate makes them. OUTPUT must not exist.\n\n"
      "Example:\n"
      "  sluice average build/run1/model build/run2/model --output build/mean");
  command->add_option("MODELS", flags->models, "Model folders, two or more")->required();
  command->add_option("--output", flags->output, "Folder to write; it must not exist")->required();
  command->callback([flags] { RunAverage(*flags); });
}

}  // namespace sluice
