// sluice bench random-model: a model folder of a given size, for what is measured with folders.
#include "backend/backend.h"
#include "base/pending_folder.h"
#include "base/progress.h"
#include "cli/bench_commands.h"
#include "cli/common_flags.h"
#include "eval/shapes.h"
#include "model/model_folder.h"
#include "text/tokenizer.h"

namespace sluice {

namespace {

struct RandomModelFlags {
  std::string shape = "m";
  std::filesystem::path tokenizer = ModelFolder{CommonFlags().model}.tokenizer_file();
  std::filesystem::path output;
  uint64_t seed = 1;
};

void RunRandomModel(const RandomModelFlags& flags) {
  const ModelConfig config = ReadShape(flags.shape);
  const int64_t tokens = Tokenizer::FromFile(flags.tokenizer).vocab_size();
  if (tokens > config.vocab_size) {
    throw InputError(
        "{}: has {} tokens, and the shape a vocabulary of {}; take a tokenizer of no more tokens",
        flags.tokenizer.string(), tokens, config.vocab_size);
  }
  PendingFolder folder(flags.output);
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  ProgressCallback bar("random weights", "weights");
  const std::unique_ptr<Model> model =
      RandomModel(config, WeightFormat::kFloat, flags.seed, *ops, std::ref(bar));
  bar.Finish();
  SaveModel(folder.temporary(), *model, flags.tokenizer);
  folder.Commit();
  fmt::print("written: {}, {:.1f} M parameters\n", flags.output.string(),
             static_cast<double>(model->table().num_elements()) / 1e6);
}

}  // namespace

void AddBenchRandomModel(CLI::App& bench) {
  auto flags = std::make_shared<RandomModelFlags>();
  CLI::App* command = bench.add_subcommand("random-model", "Write a model folder of random weights");
  command->footer(
      "Of a built-in shape or a file like a model's config.json: for measuring what depends on files,\n"
      "such as the time to load them. It says nothing that makes sense. Weights are in floats; sluice\n"
      "quantize makes 8 or 4 bits of them. OUTPUT must not exist.\n\n"
      "Example:\n"
      "  sluice bench random-model --shape m --output build/m\n"
      "  sluice quantize --model build/m --format q8 --output build/m-q8\n"
      "  sluice bench load --model build/m-q8");
  command
      ->add_option("--shape", flags->shape,
                   fmt::format("Built-in shape ({}), or a file", fmt::join(ShapeNames(), ", ")))
      ->capture_default_str();
  command->add_option("--tokenizer", flags->tokenizer, "tokenizer.json to copy, of no more tokens")
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "Of the weights")->capture_default_str();
  command->add_option("--output", flags->output, "Folder to write; it must not exist")->required();
  command->callback([flags] { RunRandomModel(*flags); });
}

}  // namespace sluice
