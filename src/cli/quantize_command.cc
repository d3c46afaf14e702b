// sluice quantize: a model folder with 8-bit matrices, from one in floats.
#include <map>
#include <optional>

#include "backend/backend.h"
#include "base/progress.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "eval/table.h"
#include "model/quantize.h"

namespace sluice {

namespace {

struct QuantizeFlags {
  CommonFlags common;
  std::string output;
  std::string format = NameOf(WeightFormat::kQ8);
  bool gates = false;
};

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
    row.figures.format = figures.format;
    row.figures.bytes_before += figures.bytes_before;
    row.figures.bytes_after += figures.bytes_after;
    row.figures.largest_error = std::max(row.figures.largest_error, figures.largest_error);
  };
  for (const QuantizedFigures& figures : all_figures) {
    const std::string name = NameInAllLayers(figures.name);
    const auto same = [&](const Row& row) { return row.figures.name == name; };
    auto row = std::find_if(rows.begin(), rows.end(), same);
    if (row == rows.end()) row = rows.insert(row, {{.name = name}, 0});
    add(*row, figures);
    add(total, figures);
  }
  rows.push_back(total);
  Table table(
      {"tensor", "tensors", "format", "bytes before", "bytes after", "largest error / block's largest"});
  for (const Row& row : rows) {
    const bool quantized = row.figures.format != WeightFormat::kFloat;
    table.AddRow(
        {row.figures.name, FormatCount(row.tensors),
         &row == &rows.back() ? "" : (quantized ? NameOf(row.figures.format) : "as it was"),
         FormatCount(row.figures.bytes_before), FormatCount(row.figures.bytes_after),
         row.figures.largest_error > 0 ? fmt::format("{:.3f}%", 100 * row.figures.largest_error) : ""});
  }
  fmt::print("{}", table.ToString());
}

void RunQuantize(const QuantizeFlags& flags) {
  ApplyThreads(flags.common);
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const std::unique_ptr<Model> model = LoadModel(flags.common.model, *ops);
  QuantizeOptions options;
  options.gates = flags.gates;
  std::optional<ProgressBar> bar;
  const std::vector<QuantizedFigures> figures = SaveQuantizedModel(
      {flags.common.model}, *model, flags.output, options, [&](int64_t done, int64_t total) {
        if (!bar) bar.emplace("quantising", total, "weights");
        bar->Update(done);
      });
  bar.reset();
  PrintFigures(figures);
  fmt::print("written: {}; use it with --model {}\n", flags.output, flags.output);
}

}  // namespace

void AddQuantizeCommand(CLI::App& app) {
  auto flags = std::make_shared<QuantizeFlags>();
  CLI::App* command = app.add_subcommand(
      "quantize", "Make a model with 8-bit weights: under a third of the memory, faster answers");
  command->footer(
      "Rounds the matrices of a model to 8 bits, in blocks of 32 along each row with one float16 scale\n"
      "(docs/formats/weights.md): 8.5 bits a weight. Norms, routers, convolutions and sinks stay as they "
      "are,\n"
      "and so do the gates unless --gates says otherwise, and matrices whose rows are no multiple of 32.\n"
      "Tokenizer, generation config and router profiles are copied; a profile's figures are those of the\n"
      "weights that it was made with. OUTPUT must not exist; it appears when it is whole.\n"
      "The result runs everywhere that --model stands, but cannot be trained further.\n\n"
      "Examples:\n"
      "  sluice quantize --model models/nano --output nano-q8\n"
      "  sluice eval perplexity --model nano-q8 book.txt");
  command->add_option("--output", flags->output, "Folder to write; it must not exist")->required();
  command->add_option("--format", flags->format, "Format of the matrices")
      ->check(CLI::IsMember({NameOf(WeightFormat::kQ8)}))
      ->capture_default_str();
  command->add_flag("--gates", flags->gates, "Quantise the gates' matrices too");
  AddPlainFlags(*command, flags->common);
  command->callback([flags] { RunQuantize(*flags); });
}

}  // namespace sluice
