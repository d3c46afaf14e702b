// sluice train: a training run from a config file, resumed where it was left.

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/threads.h"
#include "base/trace.h"
#include "cli/commands.h"
#include "eval/training_curves.h"
#include "model/model_folder.h"
#include "tensor/host.h"
#include "train/trainer.h"

namespace sluice {

namespace {

struct TrainFlags {
  std::string config;
  std::string data;
  std::string output;
  std::string init;
  bool fresh_gates = false;
  std::vector<double> gate_bias;
  std::optional<int64_t> seed;
  std::string cache = "build/corpus";
  int64_t last_step = INT64_MAX;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  bool trace = false;
};

void PrintTrace() {
  fmt::print("\n{:<32} {:>10} {:>12}\n", "span", "calls", "seconds");
  for (const TraceTotal& total : TraceTotals()) {
    fmt::print("{:<32} {:>10} {:>12.2f}\n", total.name, total.calls, total.seconds);
  }
}

// --gate-bias: one weight per layer, the same for all its heads.
void SetGateBias(const std::vector<double>& by_layer, const Model& model) {
  const ModelConfig& config = model.config();
  if (!config.gate.bias || static_cast<int64_t>(by_layer.size()) != config.num_layers) {
    throw InputError(
        "--gate-bias: it takes {} weights with commas between, one per layer, of a model whose config says "
        "\"bias\": true in \"gate\"; it has {}",
        config.num_layers, by_layer.size());
  }
  const ModelWeights weights = model.table().Bind(model.parameters());
  for (size_t layer = 0; layer < by_layer.size(); ++layer) {
    const TensorView bias = weights.layers[layer].gate_bias;
    for (int64_t head = 0; head < config.num_heads; ++head) StoreElement(bias, head, by_layer[layer]);
  }
}

void StartWeights(const TrainFlags& flags, const TrainConfig& config, const Model& model) {
  const auto seed = static_cast<uint64_t>(config.seed);
  model.table().Initialize(model.parameters(), seed);
  if (!flags.init.empty()) {
    LoadWeights(ModelFolder{flags.init}.weights_file(), model,
                {.gates = !flags.fresh_gates, .gate_bias = flags.gate_bias.empty()});
  }
  if (!flags.gate_bias.empty()) SetGateBias(flags.gate_bias, model);
}

// The model of config.teacher; null if there is none.
std::unique_ptr<Model> LoadTeacher(const TrainFlags& flags, const TrainConfig& config, Ops& ops) {
  if (config.teacher.model.empty()) return nullptr;
  const ModelFolder folder{config.teacher.model};
  folder.RequireFiles();
  if (ReadFile(folder.tokenizer_file()) != ReadFile(config.tokenizer)) {
    throw InputError("{}: teacher: {} is not the run's tokenizer, {}; both models must have the same tokens",
                     flags.config, folder.tokenizer_file().string(), config.tokenizer);
  }
  std::unique_ptr<Model> teacher = LoadModel(folder.path, ops);
  if (!teacher->config().quantization.empty()) {
    throw InputError("{}: teacher: {} has quantised weights; a teacher must have them in floats",
                     flags.config, config.teacher.model);
  }
  return teacher;
}

void RunTrain(const TrainFlags& flags) {
  SetNumThreads(flags.threads);
  EnableTracing(flags.trace);
  TrainConfig config = ReadTrainConfig(flags.config);
  config.seed = flags.seed.value_or(config.seed);
  const Tokenizer tokenizer = Tokenizer::FromFile(config.tokenizer);
  if (tokenizer.vocab_size() != config.model.vocab_size) {
    throw InputError("{}: vocab_size is {}, but {} has {} tokens", flags.config, config.model.vocab_size,
                     config.tokenizer, tokenizer.vocab_size());
  }
  CorpusOptions corpus_options;
  corpus_options.cache_folder = flags.cache;
  for (const SourceConfig& source : config.sources) {
    corpus_options.sources.push_back({std::filesystem::path(flags.data) / source.path, source.weight});
  }
  const Corpus corpus = Corpus::Open(corpus_options, tokenizer);
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  Model model(config.model, *ops);
  fmt::print("{}: {:.2f} M parameters, {:.2f} M active per token; {} steps; {:.1f} M tokens of text\n",
             config.name, static_cast<double>(model.table().num_elements()) / 1e6,
             static_cast<double>(model.table().num_active_elements()) / 1e6, config.total_steps(),
             static_cast<double>(corpus.num_tokens()) / 1e6);
  StartWeights(flags, config, model);
  const std::unique_ptr<Model> teacher = LoadTeacher(flags, config, *ops);
  Trainer trainer(config, model, teacher.get(), corpus, tokenizer, flags.output);
  if (trainer.steps_done() > 0) fmt::print("continuing after step {}\n", trainer.steps_done());
  const TrainingEnd end = trainer.Run(flags.last_step);
  const std::filesystem::path folder = std::filesystem::path(flags.output) / "model";
  SaveModel(folder, model, config.tokenizer);
  fmt::print("{} steps done; model in {}\n", trainer.steps_done(), folder.string());
  if (trainer.steps_done() > 0) {
    const std::filesystem::path curves = std::filesystem::path(flags.output) / "curves.svg";
    PlotTraining(MetricsFile(flags.output), curves);
    fmt::print("curves in {}\n", curves.string());
  }
  if (flags.trace) PrintTrace();
  if (end == TrainingEnd::kInterrupted && InterruptRequested()) {
    fmt::print(stderr, "training stopped on request; run the same command again to continue\n");
    throw Interrupted();
  }
}

}  // namespace

void AddTrainCommand(CLI::App& app) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = app.add_subcommand("train", "Train a model from a config file, or continue a run");
  command->footer(
      "A run lives in its --output folder: state.safetensors (written atomically every checkpoint_every\n"
      "steps), metrics.csv (a line a step), curves.svg and model/ (what other commands take as --model).\n"
      "Running the same command again continues after the last saved step, bit for bit.\n\n"
      "Example:\n  sluice train --config configs/nano.json --data data/train --output build/nano");
  command->add_option("--config", flags->config, "The run's config file")->required();
  command->add_option("--data", flags->data, "Folder that the config's sources are in")->required();
  command->add_option("--output", flags->output, "Folder of the run; created if missing")->required();
  CLI::Option* init = command->add_option(
      "--init", flags->init, "Model folder whose weights a new run starts from; else random ones");
  command
      ->add_flag("--fresh-gates", flags->fresh_gates,
                 "With --init: the gates start from random weights all the same; the model may have none")
      ->needs(init);
  command
      ->add_option(
          "--gate-bias", flags->gate_bias,
          "Weights that the gate's bias starts from, one per layer with commas between; with --init\n"
          "those of its own folder are not read, which need not have any")
      ->delimiter(',');
  command->add_option("--seed", flags->seed,
                      "In place of the config's: for runs that differ in nothing else, whose weights\n"
                      "`sluice average` takes the mean of");
  command->add_option("--cache", flags->cache, "Folder for the tokenised text")->capture_default_str();
  command->add_option(
      "--last-step", flags->last_step,
      "Stop after this step of the config's schedule; 0: write the model that a run starts from");
  command->add_option("--threads", flags->threads, "Threads to use")->capture_default_str();
  command->add_flag("--trace", flags->trace, "Print where the time went");
  command->callback([flags] { RunTrain(*flags); });
}

}  // namespace sluice
