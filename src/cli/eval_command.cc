// sluice eval: perplexity, needles and the gate.
#include <cmath>

#include "base/progress.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "eval/documents.h"
#include "eval/gating.h"
#include "eval/haystack.h"
#include "eval/needle.h"
#include "eval/perplexity.h"
#include "eval/plot.h"
#include "eval/selectors.h"
#include "eval/table.h"

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

struct NeedleFlags {
  CommonFlags common;
  SessionFlags session;
  ReportFlags report;
  std::vector<std::string> haystack;
  std::string attention = "sparse";
  NeedleOptions options;
  bool show_misses = false;
};

struct GatingFlags {
  CommonFlags common;
  SessionFlags session;
  ReportFlags report;
  std::vector<std::string> files;
  GatingOptions options;
};

std::vector<std::filesystem::path> Paths(const std::vector<std::string>& names) {
  return {names.begin(), names.end()};
}

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

// Options of a command that attends in the modes of --attention; a guarantee with dense alone is an error.
SessionOptions MakeModesOptions(SessionFlags session, const std::string& attention) {
  if (attention == "dense") session.attention = attention;
  return MakeSessionOptions(session);
}

// The same for one of the modes: a guarantee is for the sparse one.
SessionOptions InMode(SessionOptions options, AttentionMode mode) {
  options.attention = mode;
  if (mode == AttentionMode::kDense) options.guarantee = 0;
  return options;
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
    std::optional<ProgressBar> bar;
    results.push_back(RunPerplexity(engine, texts, options, [&](int64_t done, int64_t total) {
      if (!bar) bar.emplace(NameOf(mode), total, "tokens");
      bar->Update(done);
    }));
  }
  fmt::print("{}", PerplexityTable(results));
  WriteJsonReport(flags.report, PerplexityJson(results, options.context));
  if (!flags.report.plot.empty()) PlotPerplexity(results, flags.report.plot);
}

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
    std::optional<ProgressBar> bar;
    int64_t right = 0, asked = 0;
    const auto on_trial = [&](const NeedleTrial& trial) {
      right += trial.correct ? 1 : 0;
      ++asked;
      if (flags.show_misses && !trial.correct) PrintMiss(trial);
    };
    results.push_back(RunNeedles(engine, haystack, options, on_trial, [&](int64_t done, int64_t total) {
      if (!bar) bar.emplace(fmt::format("needles, {}", NameOf(mode)), total, "tokens");
      bar->Update(done, fmt::format("{} of {} found", right, asked));
    }));
  }
  fmt::print("{}", NeedleTable(results));
  WriteJsonReport(flags.report, NeedleJson(results));
  if (!flags.report.plot.empty()) PlotNeedles(results, flags.report.plot);
}

void RunGatingCommand(const GatingFlags& flags) {
  const Engine engine = LoadEngine(flags.common);
  GatingOptions options = flags.options;
  options.seed = flags.common.seed;
  options.session = MakeSessionOptions(flags.session);
  std::optional<ProgressBar> bar;
  const GatingResult result =
      RunGating(engine, ReadDocuments(Paths(flags.files)), options, [&](int64_t done, int64_t total) {
        if (!bar) bar.emplace("gating", total, "tokens");
        bar->Update(done);
      });
  bar.reset();
  fmt::print("{}", GatingTable(result));
  WriteJsonReport(flags.report, GatingJson(result));
  if (!flags.report.plot.empty()) WritePlot(GatingPlots(result), flags.report.plot);
}

void AddPerplexity(CLI::App& eval) {
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

void AddNeedle(CLI::App& eval) {
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

void AddGating(CLI::App& eval) {
  auto flags = std::make_shared<GatingFlags>();
  flags->options.selectors = SelectorNames();
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
      "layer.\n"
      "Lines of JSON as LongBench has them (context, input or question, answers or choices and answer) are\n"
      "documents with a question: it is asked behind the document, for each selector and with all keys.\n"
      "JSON keys: length, documents, scored, queries, top_k, seed, seconds, dense (nats_per_token, "
      "perplexity),\n"
      "selectors[] (selector, samples, keys, recall, far, retained and relative (mean, p5, worst_layer),\n"
      "relative_by_layer[], nats_per_token, perplexity, nats_over_dense, perplexity_over_dense, "
      "by_distance[]\n"
      "(from, wanted, recall, retained, relative)); with questions also questions, answer_accuracy and\n"
      "answer_nats_per_token, of dense and of every selector.\n\n"
      "Examples:\n"
      "  sluice eval gating --length 65536 --top-k 128 data/eval/longdocs --plot gating.svg\n"
      "  sluice eval gating --selector gate --length 32768 longbench/qasper.jsonl --json gating.json");
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

}  // namespace

void AddEvalCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand("eval", "Measure a model");
  command->require_subcommand(1);
  AddPerplexity(*command);
  AddNeedle(*command);
  AddGating(*command);
}

}  // namespace sluice
