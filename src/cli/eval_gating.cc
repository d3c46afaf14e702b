// sluice eval gating: the gate against its controls.
#include "base/progress.h"
#include "cli/common_flags.h"
#include "cli/eval_commands.h"
#include "eval/documents.h"
#include "eval/gating.h"
#include "eval/plot.h"
#include "eval/selectors.h"

namespace sluice {

namespace {

struct GatingFlags {
  CommonFlags common;
  SessionFlags session;
  ReportFlags report;
  std::vector<std::string> files;
  GatingOptions options;
};

void RunGatingCommand(const GatingFlags& flags) {
  const Engine engine = LoadEngine(flags.common);
  GatingOptions options = flags.options;
  options.seed = flags.common.seed;
  options.session = MakeSessionOptions(flags.session);
  ProgressCallback bar("gating", "tokens");
  const GatingResult result = RunGating(engine, ReadDocuments(Paths(flags.files)), options, std::ref(bar));
  bar.Finish();
  fmt::print("{}", GatingTable(result));
  WriteJsonReport(flags.report, GatingJson(result));
  if (!flags.report.plot.empty()) WritePlot(GatingPlots(result), flags.report.plot);
}

}  // namespace

void AddEvalGating(CLI::App& eval) {
  auto flags = std::make_shared<GatingFlags>();
  CLI::App* command = eval.add_subcommand("gating", "How well the gate chooses what attention reads");
  command->footer(
      "Of every document the first --length tokens are read; the last --scored ones once for each selector\n"
      "and once with all keys, from the same cache. On --queries of them, in every layer, the selection is\n"
      "held against full attention; the window and the sinks, which are always read, never count.\n"
      "  recall@k      of the k far keys of largest attention mass, the share that was selected\n"
      "  retained      share of the far mass that was selected; 'of oracle's': relative to the best k keys;\n"
      "                mean, 5th percentile (p5), lowest mean of a layer; all of it by distance too\n"
      "  over dense    loss with the selection less loss with all keys, the same weights\n"
      "Selectors: gate; random far keys; recent, the newest far keys; oracle, the best k keys of each "
      "layer;\n"
      "flat, the gate again, all keys scanned: what gate loses to it is what its tree index loses.\n"
      "Lines of JSON as LongBench has them (context, input or question, answers or choices and answer) are\n"
      "documents with a question: it is asked behind the document, for each selector and with all keys.\n"
      "JSON keys: length, documents, scored, queries, top_k, seed, seconds, dense (nats_per_token, "
      "perplexity),\n"
      "selectors[] (selector, samples, keys, recall, far, retained and relative (mean, p5, worst_layer),\n"
      "relative_by_layer[], nats_per_token, perplexity, nats_over_dense, perplexity_over_dense, "
      "by_distance[]\n"
      "(from, wanted, recall, retained, relative)); with questions also questions, answer_accuracy and\n"
      "answer_nats_per_token, of dense and of every selector; with gate and flat also gate_over_flat.\n\n"
      "Examples:\n"
      "  sluice eval gating --length 65536 --top-k 128 data/eval/longdocs --plot gating.svg\n"
      "  sluice eval gating --selector gate --length 32768 longbench/qasper.jsonl --json gating.json\n"
      "  sluice eval gating --selector gate,flat --index tree --length 131072 data/eval/longdocs");
  command->add_option("files", flags->files, "Text files or folders (.txt, .md, .jsonl)")->required();
  command->add_option("--selector", flags->options.selectors, "What to compare, with commas between")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember(SelectorNames()))
      ->capture_default_str();
  command->add_option("--length", flags->options.length, "Tokens of a document that are read")
      ->capture_default_str();
  command->add_option("--documents", flags->options.documents, "Read at most so many documents")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--scored", flags->options.scored, "Last tokens, which are scored")
      ->capture_default_str();
  command->add_option("--queries", flags->options.queries, "Scored tokens whose attention is looked at")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  AddReportFlags(*command, flags->report);
  AddPassFlags(*command, flags->session);
  AddCommonFlags(*command, flags->common);
  command->callback([flags] { RunGatingCommand(*flags); });
}

}  // namespace sluice
