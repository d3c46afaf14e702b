// sluice quantize: a model folder with matrices in fewer bits, from one in floats.
#include <algorithm>

#include "backend/backend.h"
#include "base/progress.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "eval/documents.h"
#include "eval/spread_windows.h"
#include "eval/table.h"
#include "model/quantize.h"

namespace sluice {

namespace {

struct QuantizeFlags {
  CommonFlags common;
  std::string output;
  std::string format = NameOf(WeightFormat::kQ8);
  std::vector<std::string> rules;
  bool gates = false;
  std::vector<std::string> calibration_files;
  SpreadOptions calibration;
};

// "PATTERN=FORMAT".
TensorRule ParseRule(const std::string& text) {
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0) {
    throw InputError("--tensor takes PATTERN=FORMAT, such as *.down_proj=q8, not \"{}\"", text);
  }
  return {text.substr(0, equals), ParseWeightFormat(text.substr(equals + 1), "--tensor " + text)};
}

// "model.layers.3.mlp.router.weight" as "model.layers.*.mlp.router.weight": a row for all layers.
std::string NameInAllLayers(const std::string& name) {
  const std::string prefix = "model.layers.";
  if (!name.starts_with(prefix)) return name;
  return prefix + "*" + name.substr(name.find('.', prefix.size()));
}

void PrintFigures(const std::vector<QuantizedFigures>& all_figures) {
  struct Row {
    QuantizedFigures figures;
    int64_t tensors = 0;
  };
  std::vector<Row> rows;
  Row total{{.name = "all"}, 0};
  const auto add = [](Row& row, const QuantizedFigures& figures) {
    ++row.tensors;
    row.figures.bytes_before += figures.bytes_before;
    row.figures.bytes_after += figures.bytes_after;
    row.figures.error_squares += figures.error_squares;
    row.figures.weight_squares += figures.weight_squares;
  };
  for (const QuantizedFigures& figures : all_figures) {
    const std::string name = NameInAllLayers(figures.name);
    const auto same = [&](const Row& row) {
      return row.figures.name == name && row.figures.format == figures.format;
    };
    auto row = std::find_if(rows.begin(), rows.end(), same);
    if (row == rows.end()) row = rows.insert(row, {{.name = name, .format = figures.format}, 0});
    add(*row, figures);
    add(total, figures);
  }
  rows.push_back(total);
  Table table({"tensor", "tensors", "format", "bytes before", "bytes after", "rms error / rms weight"});
  for (const Row& row : rows) {
    const bool quantized = row.figures.format != WeightFormat::kFloat;
    const double error = row.figures.relative_error();
    table.AddRow({row.figures.name, FormatCount(row.tensors),
                  &row == &rows.back() ? "" : (quantized ? NameOf(row.figures.format) : "as it was"),
                  FormatCount(row.figures.bytes_before), FormatCount(row.figures.bytes_after),
                  quantized ? fmt::format("{:.3f}%", 100 * error) : ""});
  }
  fmt::print("{}", table.ToString());
}

void RunQuantize(const QuantizeFlags& flags) {
  ApplyThreads(flags.common);
  QuantizeOptions options;
  options.format = ParseWeightFormat(flags.format, "--format");
  options.gates = flags.gates;
  for (const std::string& rule : flags.rules) options.rules.push_back(ParseRule(rule));
  const ModelFolder files{flags.common.model};
  files.RequireFiles();
  std::unique_ptr<Ops> ops = MakeOps("cpu");
  std::unique_ptr<Model> model = LoadModel(files.path, *ops);
  InputSquaresByName inputs;
  if (!flags.calibration_files.empty()) {
    model->CollectInputs(inputs);
    options.inputs = &inputs;
  }
  const Engine engine(std::move(ops), std::move(model), Tokenizer::FromFile(files.tokenizer_file()));
  if (options.inputs != nullptr) {
    SpreadOptions calibration = flags.calibration;
    calibration.context = std::min(calibration.context, engine.config().context_length);
    ProgressCallback bar("calibrating", "tokens");
    ReadSpreadWindows(engine, ReadTexts({flags.calibration_files.begin(), flags.calibration_files.end()}),
                      calibration, std::ref(bar));
  }
  ProgressCallback bar("quantising", "weights");
  const std::vector<QuantizedFigures> figures =
      SaveQuantizedModel(files, engine.model(), flags.output, options, std::ref(bar));
  bar.Finish();
  PrintFigures(figures);
  fmt::print("written: {}; use it with --model {}\n", flags.output, flags.output);
}

}  // namespace

void AddQuantizeCommand(CLI::App& app) {
  auto flags = std::make_shared<QuantizeFlags>();
  CLI::App* command = app.add_subcommand(
      "quantize",
      "Make a model with 8-bit or 4-bit weights: a quarter of the memory or less, faster answers");
  command->footer(
      "Rounds the matrices of a model (docs/formats/weights.md): q8 takes 8.5 bits a weight, q4 5, bf16 16,\n"
      "in the file and in memory; with q4 the embedding, which is the output head too, takes q8. Norms,\n"
      "routers, convolutions and sinks stay as they are, and so do the gates unless --gates or --tensor\n"
      "says otherwise, and in q8 and q4 matrices whose rows are no multiple of 32.\n"
      "With --calibrate, an error of a q4 weight counts as much as the inputs of its channel are large in\n"
      "that text; without, all count the same. The error column counts them so too.\n"
      "Tokenizer, generation config and router profiles are copied; a profile's figures are those of the\n"
      "weights that it was made with. OUTPUT must not exist; it appears when it is whole.\n"
      "The result runs everywhere that --model stands, but cannot be trained further.\n\n"
      "Examples:\n"
      "  sluice quantize --model models/nano --output nano-q8\n"
      "  sluice quantize --model models/nano --format q4 --calibrate texts --output nano-q4\n"
      "  sluice quantize --model models/nano --format q4 --tensor '*.down_proj*=q8' --output nano-mixed\n"
      "  sluice eval perplexity --model nano-q8 book.txt");
  command->add_option("--output", flags->output, "Folder to write; it must not exist")->required();
  command->add_option("--format", flags->format, "Format of the matrices")
      ->check(
          CLI::IsMember({NameOf(WeightFormat::kQ8), NameOf(WeightFormat::kQ4), NameOf(WeightFormat::kBF16)}))
      ->capture_default_str();
  command
      ->add_option("--tensor", flags->rules,
                   "PATTERN=FORMAT: other formats (q8, q4, bf16, float) for tensors of these names, where * "
                   "stands for "
                   "any text; the first that matches counts")
      ->expected(1)
      ->take_all();
  command->add_flag("--gates", flags->gates, "Quantise the gates' matrices too");
  command->add_option("--calibrate", flags->calibration_files,
                      "Text files or folders (.txt, .md, .jsonl) like those that the model will read");
  command
      ->add_option("--tokens", flags->calibration.tokens, "Tokens to calibrate with, spread over the texts")
      ->capture_default_str();
  command->add_option("--context", flags->calibration.context, "Tokens per window, up to the model's context")
      ->capture_default_str();
  AddPlainFlags(*command, flags->common);
  command->callback([flags] { RunQuantize(*flags); });
}

}  // namespace sluice
