// sluice bench attention: what attention costs at growing length.
#include <optional>

#include "base/file.h"
#include "base/progress.h"
#include "cli/bench_commands.h"
#include "cli/common_flags.h"
#include "eval/attention_cost.h"
#include "model/model_folder.h"

namespace sluice {

namespace {

struct BenchAttentionFlags {
  CommonFlags common;
  ReportFlags report;
  std::string csv;
  AttentionCostOptions options;
  std::optional<int64_t> top_k;
  bool quick = false;
};

void RunBenchAttention(const BenchAttentionFlags& flags) {
  ApplyThreads(flags.common);
  const ModelConfig config = ReadModelConfig(ModelFolder{flags.common.model}.config_file());
  AttentionCostOptions options = flags.options;
  options.seed = flags.common.seed;
  options.top_k = NumberOfKeys(flags.top_k);
  if (flags.quick) {
    std::erase_if(options.lengths, [](int64_t length) { return length > 65536; });
    options.prefill_seconds = std::min(options.prefill_seconds, 5.0);
  }
  ProgressCallback bar("attention", "tokens");
  const std::vector<AttentionCostRow> rows = MeasureAttention(config, options, std::ref(bar));
  bar.Finish();
  fmt::print("{}", AttentionCostTable(rows));
  const int64_t top_k = options.top_k > 0 ? options.top_k : config.top_k;
  WriteJsonReport(flags.report, AttentionCostJson(rows, top_k));
  if (!flags.csv.empty()) WriteFileAtomically(flags.csv, AttentionCostCsv(rows));
  if (!flags.report.plot.empty()) WritePlot(AttentionCostPlots(rows), flags.report.plot);
}

}  // namespace

void AddBenchAttention(CLI::App& bench) {
  auto flags = std::make_shared<BenchAttentionFlags>();
  flags->options.methods = AttentionMethodNames();
  CLI::App* command = bench.add_subcommand("attention", "Time and FLOPs of attention at growing length");
  command->footer(
      "Attention and selection alone, in all layers, on random keys of the model's shape: one decoded token "
      "at\n"
      "the end of each length, and a prefill of all of it. A prefill that would take longer than\n"
      "--prefill-seconds is estimated from costs per query at several positions, and marked. The whole "
      "model's\n"
      "FLOPs add all matrix products. Methods: dense, all keys; flat, the gate scans all keys;\n"
      "tree, it searches its tree, at every length, and sorting keys counts in the prefill; guarantee, flat\n"
      "under --guarantee 0.01, which on random keys reads nearly all of them: the worst case.\n"
      "CSV columns and JSON keys (rows[]): method, length, query_seconds, query_flops, query_int8_ops,\n"
      "prefill_seconds, prefill_estimated, prefill_flops, prefill_int8_ops, model_flops; JSON also threads, "
      "top_k.\n\n"
      "Examples:\n"
      "  sluice bench attention --quick\n"
      "  sluice bench attention --csv attention.csv --plot attention.svg");
  command->add_option("--methods", flags->options.methods, "What to measure, with commas between")
      ->delimiter(',')
      ->check(CLI::IsMember(AttentionMethodNames()))
      ->capture_default_str();
  command->add_option("--lengths", flags->options.lengths, "Tokens, with commas between")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--top-k", flags->top_k, "Keys that the gate selects; default: the model's own number");
  command->add_option("--prefill-seconds", flags->options.prefill_seconds, "Longer prefills are estimated")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--quick", flags->quick, "At most 65,536 tokens, and prefills of at most 5 seconds");
  command->add_option("--csv", flags->csv, "Write the results to this file, as CSV");
  AddReportFlags(*command, flags->report);
  AddPlainFlags(*command, flags->common);
  command->callback([flags] { RunBenchAttention(*flags); });
}

}  // namespace sluice
