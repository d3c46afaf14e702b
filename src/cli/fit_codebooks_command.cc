// sluice fit-codebooks: what makes a model's guarantees cheap, from some text.
#include "base/file.h"
#include "base/progress.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "eval/documents.h"
#include "eval/fit_codebooks.h"
#include "model/model_folder.h"

namespace sluice {

namespace {

struct FitCodebooksFlags {
  CommonFlags common;
  FitCodebooksOptions options;
  std::vector<std::string> files;
  std::string json;
};

void RunFitCodebooks(const FitCodebooksFlags& flags) {
  const Engine engine = LoadEngine(flags.common);
  const ModelFolder files{flags.common.model};
  RequireWritable(files.path);
  FitCodebooksOptions options = flags.options;
  options.seed = flags.common.seed;
  options.text.context = std::min(options.text.context, engine.config().context_length);
  ProgressCallback bar("fitting", "tokens");
  const FitCodebooksResult result =
      FitCodebooks(engine, ReadTexts({flags.files.begin(), flags.files.end()}), options, std::ref(bar));
  bar.Finish();
  WriteKeyCodebooks(files.codebooks_file(), result.codebooks, engine.config());
  fmt::print("{}", FitCodebooksTable(result));
  WriteJsonReport({flags.json, ""}, FitCodebooksJson(result));
  fmt::print("written: {}; --guarantee uses them\n", files.codebooks_file().string());
}

}  // namespace

void AddFitCodebooksCommand(CLI::App& app) {
  auto flags = std::make_shared<FitCodebooksFlags>();
  CLI::App* command = app.add_subcommand(
      "fit-codebooks", "Fit codebooks to a model's keys, so that a guarantee reads fewer of them");
  command->footer(
      "A guarantee (--guarantee of ask, generate and eval) bounds what a key that is not read could have\n"
      "contributed, by a few bytes kept of each. Codebooks say what these bytes mean. Bounds are true "
      "whatever\n"
      "they are; fitted to the keys that the model has on text like yours they are tight, and fewer keys "
      "are\n"
      "read. Fit them anew when the model was trained on. Slack is how many nats a bound is above what it\n"
      "bounds. They are written into the model's folder, key_codebooks.safetensors, in place of what was "
      "there.\n"
      "JSON keys: share, seconds, layers[] (stages, slack_before, slack).\n\n"
      "Example:\n"
      "  sluice fit-codebooks --model models/nano data/train/books data/train/law");
  command->add_option("files", flags->files, "Text files or folders (.txt, .md, .jsonl)")->required();
  command->add_option("--tokens", flags->options.text.tokens, "Tokens to fit to, spread over the texts")
      ->capture_default_str();
  command
      ->add_option("--context", flags->options.text.context, "Tokens per window, up to the model's context")
      ->capture_default_str();
  command
      ->add_option("--share", flags->options.share,
                   "Bytes that codes may take, as a share of keys and values in bfloat16")
      ->capture_default_str();
  command->add_option("--max-stages", flags->options.max_stages, "Most stages, of a byte each, of a layer")
      ->capture_default_str();
  command->add_option("--json", flags->json, "Write the results to this file, as JSON");
  AddPlainFlags(*command, flags->common);
  command->callback([flags] { RunFitCodebooks(*flags); });
}

}  // namespace sluice
