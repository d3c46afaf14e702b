// sluice eval needle: facts hidden in long documents.
#include "base/progress.h"
#include "cli/common_flags.h"
#include "cli/eval_commands.h"
#include "eval/documents.h"
#include "eval/haystack.h"
#include "eval/needle.h"
#include "eval/plot.h"
#include "eval/table.h"

namespace sluice {

namespace {

struct NeedleFlags {
  CommonFlags common;
  SessionFlags session;
  ReportFlags report;
  std::vector<std::string> haystack;
  std::string attention = "sparse";
  NeedleOptions options;
  bool show_misses = false;
};

void PlotNeedles(const std::vector<NeedleResult>& results, const std::string& file) {
  HeatMap map;
  map.title = "Facts found, percent";
  map.x_label = "depth of the fact in the document";
  map.y_label = "document, tokens";
  for (int64_t depth = 0; depth < NeedleOptions::kDepths; ++depth) {
    map.x_names.push_back(fmt::format("{:.0f}%", 100 * NeedleDepth(depth)));
  }
  for (const int64_t length : results.front().options.lengths) {
    for (const NeedleResult& result : results) {
      const std::string mode = NameOf(result.options.session.attention);
      map.y_names.push_back(FormatCount(length) + (results.size() > 1 ? " " + mode : ""));
      std::vector<double> row;
      for (int64_t depth = 0; depth < NeedleOptions::kDepths; ++depth)
        row.push_back(100 * result.Accuracy(length, depth));
      map.values.push_back(std::move(row));
    }
  }
  WritePlot(map, file);
}

void PrintMiss(const NeedleTrial& trial) {
  fmt::print("missed at {} tokens, depth {:.0f}%\n  question: {}\n  wanted:   {}\n  answer:   {}\n",
             trial.length, 100 * NeedleDepth(trial.depth_idx), trial.question, trial.value, trial.answer);
}

void RunNeedleCommand(const NeedleFlags& flags) {
  const Engine engine = LoadEngine(flags.common);
  const Haystack haystack(engine.tokenizer(), ReadTexts(Paths(flags.haystack)));
  NeedleOptions options = flags.options;
  options.seed = flags.common.seed;
  SessionOptions session = MakeModesOptions(flags.session, flags.attention);
  if (session.top_k == 0) session.top_k = engine.config().top_k;
  std::vector<NeedleResult> results;
  for (const AttentionMode mode : AttentionModes(flags.attention)) {
    options.session = InMode(session, mode);
    ProgressCallback bar(fmt::format("needles, {}", NameOf(mode)), "tokens");
    int64_t right = 0, asked = 0;
    const auto on_trial = [&](const NeedleTrial& trial) {
      right += trial.correct ? 1 : 0;
      ++asked;
      if (flags.show_misses && !trial.correct) PrintMiss(trial);
    };
    results.push_back(RunNeedles(engine, haystack, options, on_trial, [&](int64_t done, int64_t total) {
      bar(done, total, fmt::format("{} of {} found", right, asked));
    }));
  }
  fmt::print("{}", NeedleTable(results));
  WriteJsonReport(flags.report, NeedleJson(results));
  if (!flags.report.plot.empty()) PlotNeedles(results, flags.report.plot);
}

}  // namespace

void AddEvalNeedle(CLI::App& eval) {
  auto flags = std::make_shared<NeedleFlags>();
  CLI::App* command = eval.add_subcommand("needle", "How well the model finds facts in long documents");
  command->footer(
      "Invented facts are hidden in real text at ten depths, among alike ones, and asked for. Names, values\n"
      "and half of the phrasings never occur in training; take haystack text that did not either. An answer\n"
      "is right if it holds the exact value. Ten needles share a document. With --attention both the same\n"
      "needles are looked for with all keys and with the gate's selection, and every length and depth at\n"
      "which the selection finds fewer is named. --distractors 7 is the multi-key task: eight alike facts,\n"
      "one asked for.\n"
      "JSON keys: seed, needles, distractors, top_k, depths[], results[] (attention, seconds, lengths[]\n"
      "(length, accuracy, by_depth[]), guarantee, trials[] (length, document, depth, position, question,\n"
      "value, answer, correct)), sparse_below_dense[] (length, depth, sparse, dense).\n\n"
      "Examples:\n"
      "  sluice eval needle --haystack data/eval/longdocs --lengths 4096,131072 --plot needle.svg\n"
      "  sluice eval needle --haystack data/eval/longdocs --lengths 131072 --distractors 7\n"
      "  sluice eval needle --haystack data/eval/longdocs --lengths 4096,16384 --attention both");
  command->add_option("--haystack", flags->haystack, "Text files or folders to hide the facts in")
      ->required();
  command
      ->add_option("--lengths", flags->options.lengths, "Lengths of documents in tokens, with commas between")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--needles", flags->options.needles, "Needles per length; ten share a document")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--distractors", flags->options.distractors, "Alike facts planted beside each needle")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--show-misses", flags->show_misses, "Print every wrong answer");
  AddModesFlag(*command, flags->attention);
  AddReportFlags(*command, flags->report);
  AddPassFlags(*command, flags->session);
  AddGuaranteeFlag(*command, flags->session);
  AddCommonFlags(*command, flags->common);
  command->callback([flags] { RunNeedleCommand(*flags); });
}

}  // namespace sluice
