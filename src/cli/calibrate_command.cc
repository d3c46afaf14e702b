// sluice calibrate: a router profile for a domain, from some of its text.
#include <algorithm>

#include "base/file.h"
#include "base/progress.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "eval/calibrate.h"
#include "eval/documents.h"
#include "model/router_profile.h"

namespace sluice {

namespace {

struct CalibrateFlags {
  CommonFlags common;
  CalibrationOptions options;
  std::string name;
  std::vector<std::string> files;
  bool force = false;
  std::string json;
};

// What can be known before the work is done: whether its result may be written.
void CheckTarget(const ModelFolder& files, const ModelConfig& config, const CalibrateFlags& flags) {
  const std::vector<std::string>& names = config.router_profiles;
  if (!flags.force && std::find(names.begin(), names.end(), flags.name) != names.end()) {
    throw InputError("{}: the profile exists already; pass --force to replace it, or take another --name",
                     ProfileFile(files, flags.name).string());
  }
  RequireWritable(files.path);
  if (std::filesystem::exists(files.profiles_folder())) RequireWritable(files.profiles_folder());
}

RouterProfileFigures ProfileFigures(const CalibrationResult& result) {
  return {.calibration_tokens = result.tokens,
          .held_out_tokens = result.held_out_tokens,
          .blend = result.blend,
          .loss_before = result.held_out_before.nats_per_token,
          .loss_after = result.held_out_after.nats_per_token,
          .utilisation_before = result.held_out_before.utilisation,
          .utilisation_after = result.held_out_after.utilisation};
}

void RunCalibrate(const CalibrateFlags& flags) {
  CheckProfileName(flags.name);
  Engine engine = LoadEngine(flags.common);
  const ModelFolder files{flags.common.model};
  CheckTarget(files, engine.config(), flags);
  // Two at a time would lose one's name in config.json.
  const FolderLock lock(files.path);
  CalibrationOptions options = flags.options;
  options.context = std::min(options.context, engine.config().context_length);
  ProgressCallback bar("calibrating", "tokens");
  const CalibrationResult result =
      Calibrate(engine, ReadTexts({flags.files.begin(), flags.files.end()}), options, std::ref(bar));
  bar.Finish();
  fmt::print("{}", CalibrationTable(result));
  WriteJsonReport({flags.json, ""}, CalibrationJson(result));
  if (result.blend == 0) {
    throw InputError(
        "no blend with the balanced biases keeps the held-out loss within {:g}% of what it was; nothing was "
        "written. Raise --max-loss-rise, or give more text with --tokens",
        100 * result.max_loss_rise);
  }
  WriteRouterProfile(files, engine.model(), {flags.name, RouterBias(engine.model()), ProfileFigures(result)});
  fmt::print("written: {}; use it with --profile {}\n", ProfileFile(files, flags.name).string(), flags.name);
}

}  // namespace

void AddCalibrateCommand(CLI::App& app) {
  auto flags = std::make_shared<CalibrateFlags>();
  CLI::App* command = app.add_subcommand(
      "calibrate", "Make a router profile, which uses a model's experts evenly in a domain");
  command->footer(
      "Moves the routers' selection biases until the experts are evenly used on --tokens of the texts, as\n"
      "training does, then goes back towards the model's own biases as far as the loss on --held-out-tokens\n"
      "others needs. Both are windows spread over the texts, which should be of one domain; many documents\n"
      "are better than one. The profile is written into the model's folder, profiles/NAME.safetensors, and\n"
      "recorded in config.json; it fits these weights alone.\n"
      "Exit code 2, and nothing written, if the loss allows no step.\n"
      "JSON keys: tokens, held_out_tokens, max_loss_rise, blend, seconds, pass_utilisation[], calibration\n"
      "(before, after), held_out (before, after, balanced), each (nats_per_token, utilisation,\n"
      "worst_utilisation).\n\n"
      "Examples:\n"
      "  sluice calibrate --name physics physics_papers.txt\n"
      "  sluice ask --profile physics --document paper.txt --question \"What is measured?\"");
  command->add_option("files", flags->files, "Text files or folders (.txt, .md, .jsonl)")->required();
  command
      ->add_option("--name", flags->name, "The profile's name: letters, digits, dots, hyphens, underscores")
      ->required();
  command->add_option("--tokens", flags->options.tokens, "Tokens to calibrate with")->capture_default_str();
  command
      ->add_option("--held-out-tokens", flags->options.held_out_tokens, "Other tokens, which limit the loss")
      ->capture_default_str();
  command
      ->add_option("--max-loss-rise", flags->options.max_loss_rise,
                   "Largest rise of the held-out loss, as a share of it")
      ->capture_default_str();
  command
      ->add_option("--passes", flags->options.passes,
                   "Times that the calibration tokens are run; deeper layers follow the ones before them")
      ->capture_default_str();
  command->add_option("--context", flags->options.context, "Tokens per window, up to the model's context")
      ->capture_default_str();
  command->add_flag("--force", flags->force, "Replace a profile of this name");
  command->add_option("--json", flags->json, "Write the results to this file, as JSON");
  AddPlainFlags(*command, flags->common);
  command->callback([flags] { RunCalibrate(*flags); });
}

}  // namespace sluice
