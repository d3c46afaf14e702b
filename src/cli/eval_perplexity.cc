// sluice eval perplexity: how well a model predicts text.
#include <cmath>

#include "base/progress.h"
#include "cli/common_flags.h"
#include "cli/eval_commands.h"
#include "eval/documents.h"
#include "eval/perplexity.h"
#include "eval/plot.h"

namespace sluice {

namespace {

struct PerplexityFlags {
  CommonFlags common;
  SessionFlags session;
  ReportFlags report;
  std::vector<std::string> files;
  std::string attention = "sparse";
  int64_t context = PerplexityOptions().context;
  int64_t max_tokens = 0;
};

void PlotPerplexity(const std::vector<PerplexityResult>& results, const std::string& file) {
  LinePlot plot;
  plot.title = "Loss by place in the window";
  plot.x_label = "tokens before";
  plot.y_label = "nats per token";
  plot.log_x = true;
  for (const PerplexityResult& result : results) {
    PlotSeries series;
    series.name = NameOf(result.attention);
    for (size_t bucket = 0; bucket < result.bucket_nats.size(); ++bucket) {
      if (result.bucket_tokens[bucket] == 0) continue;
      series.x.push_back(std::ldexp(1.0, static_cast<int>(bucket)));
      series.y.push_back(result.bucket_nats[bucket] / static_cast<double>(result.bucket_tokens[bucket]));
    }
    plot.series.push_back(std::move(series));
  }
  WritePlot(plot, file);
}

void RunPerplexityCommand(const PerplexityFlags& flags) {
  const Engine engine = LoadEngine(flags.common);
  const std::vector<std::string> texts = ReadTexts(Paths(flags.files));
  PerplexityOptions options;
  options.context = std::min(flags.context, engine.config().context_length);
  options.max_tokens = flags.max_tokens;
  const SessionOptions session = MakeModesOptions(flags.session, flags.attention);
  std::vector<PerplexityResult> results;
  for (const AttentionMode mode : AttentionModes(flags.attention)) {
    options.session = InMode(session, mode);
    ProgressCallback bar(NameOf(mode), "tokens");
    results.push_back(RunPerplexity(engine, texts, options, std::ref(bar)));
  }
  fmt::print("{}", PerplexityTable(results));
  WriteJsonReport(flags.report, PerplexityJson(results, options.context));
  if (!flags.report.plot.empty()) PlotPerplexity(results, flags.report.plot);
}

}  // namespace

void AddEvalPerplexity(CLI::App& eval) {
  auto flags = std::make_shared<PerplexityFlags>();
  CLI::App* command = eval.add_subcommand("perplexity", "How well the model predicts text");
  command->footer(
      "Every document is cut into windows of --context tokens, each read on its own. With --attention both\n"
      "the same weights run with all keys and with the gate's selection, and the difference is shown.\n"
      "JSON keys: context, results[] (attention, tokens, bytes, nats_per_token, perplexity, bits_per_byte,\n"
      "selected_keys, seconds, by_position[] (from, tokens, nats_per_token), guarantee), sparse_to_dense.\n\n"
      "Example:\n  sluice eval perplexity --attention both --context 32768 data/eval/longdocs --json "
      "ppl.json");
  command->add_option("files", flags->files, "Text files or folders (.txt, .md, .jsonl)")->required();
  AddModesFlag(*command, flags->attention);
  command->add_option("--context", flags->context, "Tokens per window, up to the model's context")
      ->capture_default_str();
  command->add_option("--max-tokens", flags->max_tokens, "Stop after this many tokens; 0: read everything")
      ->capture_default_str();
  AddReportFlags(*command, flags->report);
  AddPassFlags(*command, flags->session);
  AddGuaranteeFlag(*command, flags->session);
  AddCommonFlags(*command, flags->common);
  command->callback([flags] { RunPerplexityCommand(*flags); });
}

}  // namespace sluice
