// sluice ask: questions about a document, which is read once; then what that cost and why it was cheap.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <sstream>

#include "base/progress.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "cli/expert_load_flag.h"
#include "cli/logprobs_report.h"
#include "cli/sampling_flags.h"
#include "engine/generate.h"
#include "engine/guarantee_figures.h"
#include "engine/prompt.h"
#include "eval/balance.h"
#include "eval/gate_mass.h"
#include "eval/memory.h"
#include "eval/pass_figures.h"
#include "eval/table.h"
#include "model/flops.h"

namespace sluice {

namespace {

// Queries of the document whose full attention is computed for the gate's figures.
constexpr int64_t kSampledQueries = 24;

struct AskFlags {
  CommonFlags common;
  SessionFlags session;
  SamplingFlags sampling{.max_tokens = 64};
  std::string document;
  std::vector<std::string> questions;
  std::string questions_file;
  std::string cache;
  bool truncate = false;
  bool no_table = false;
  std::string json;
  std::string expert_load;
};

struct Answer {
  std::string question;
  Generation generation;
};

struct AskFigures {
  std::vector<Balance> expert_use;  // By layer.
  int64_t document_tokens = 0;
  int64_t timeline_tokens = 0;
  double kv_bytes = 0;          // Keys and values,
  double multi_head_bytes = 0;  // and of multi-head attention in the same format.
  double gate_index_bytes = 0;
  int64_t prefill_tokens = 0;
  int64_t reused_tokens = 0;
  double prefill_seconds = 0;
  int64_t decoded_tokens = 0;
  bool speculates = false;
  int64_t drafted_tokens = 0;
  int64_t accepted_tokens = 0;
  double decode_seconds = 0;

  double WorstUtilisation() const {
    return expert_use[static_cast<size_t>(WorstLayer(expert_use))].utilisation;
  }
};

// The document's tokens, cut to `room` if that was asked for.
std::vector<int32_t> EncodeDocument(const Engine& engine, const AskFlags& flags, int64_t reserved) {
  std::vector<int32_t> tokens = engine.tokenizer().Encode(ReadTextInput(flags.document));
  const int64_t context = engine.config().context_length;
  const int64_t room = context - reserved;
  if (room < 1) {
    throw InputError(
        "questions and answer need {} tokens, but the model's context is {} tokens: shorten the questions "
        "or --max-tokens",
        reserved, context);
  }
  const auto size = static_cast<int64_t>(tokens.size());
  if (size <= room) return tokens;
  if (!flags.truncate) {
    throw InputError(
        "{}: the document has {} tokens, but the model's context is {} tokens, of which {} are kept for "
        "question and answer; shorten it, or pass --truncate to read its first {} tokens",
        flags.document, size, context, reserved, room);
  }
  fmt::print(stderr, "warning: {}: {} tokens; only the first {} are read\n", flags.document, size, room);
  tokens.resize(static_cast<size_t>(room));
  return tokens;
}

// Makes the session read `prompt`, with a progress bar.
void Read(Session& session, const std::vector<int32_t>& prompt, const GateMass& mass, AskFigures& figures) {
  const double sampling_before = mass.seconds();
  ProgressCallback bar("reading", "tokens");
  const SyncStats sync = session.Sync(prompt, [&](int64_t done, int64_t total) {
    const double utilisation = MeanOf(BalanceByLayer(session.expert_load())).utilisation;
    bar(done, total, done > 0 ? fmt::format("experts {:.0f}%", 100 * utilisation) : "");
  });
  bar.Finish();
  figures.prefill_seconds += sync.seconds - (mass.seconds() - sampling_before);
  figures.prefill_tokens += sync.computed_tokens;
  figures.reused_tokens += sync.reused_tokens;
}

// The document alone, from a file where an earlier run has left it and to that file otherwise.
void ReadDocument(Session& session, const std::vector<int32_t>& document, const std::filesystem::path& file,
                  const GateMass& mass, AskFigures& figures) {
  if (std::filesystem::exists(file)) session.Load(file);
  std::vector<int32_t> prompt = AskPrompt(document, session.engine().tokenizer(), "");
  prompt.resize(document.size() + 1);
  const int64_t computed_before = figures.prefill_tokens;
  Read(session, prompt, mass, figures);
  // Going back to the document's end computes less than a page anew.
  if (figures.prefill_tokens - computed_before > KvCache::kPageTokens) session.Save(file);
}

Answer AskOne(Session& session, const std::vector<int32_t>& document, const std::string& question,
              const SamplingOptions& sampling, const GateMass& mass, AskFigures& figures) {
  Read(session, AskPrompt(document, session.engine().tokenizer(), question), mass, figures);
  fmt::print("Question: {}\nAnswer:   ", question);
  std::fflush(stdout);
  Answer answer{question, Generate(session, sampling, [](std::string_view text) {
                  std::fwrite(text.data(), 1, text.size(), stdout);
                  std::fflush(stdout);
                })};
  fmt::print("\n\n");
  if (sampling.logprobs) {
    fmt::print("{}\n", LogprobsTable(session.engine().tokenizer(), answer.generation.logprobs));
  }
  figures.decoded_tokens += answer.generation.passes + answer.generation.accepted;
  figures.drafted_tokens += answer.generation.drafted;
  figures.accepted_tokens += answer.generation.accepted;
  figures.decode_seconds += answer.generation.seconds;
  figures.timeline_tokens = std::max(figures.timeline_tokens, session.num_tokens());
  return answer;
}

double Rate(int64_t count, double seconds) {
  return static_cast<double>(count) / std::max(seconds, 1e-9);
}

// Times a quantity is smaller: "34.1x less".
std::string Less(double ours, double other) {
  return fmt::format("{:.1f}x less", other / std::max(ours, 1e-9));
}

nlohmann::ordered_json AnswerJson(const Tokenizer& tokenizer, const Answer& answer) {
  const Generation& generation = answer.generation;
  nlohmann::ordered_json json = {{"question", answer.question},
                                 {"answer", generation.text},
                                 {"tokens", generation.tokens.size()},
                                 {"stop", NameOf(generation.stop)}};
  if (!generation.logprobs.empty()) json["logprobs"] = LogprobsJson(tokenizer, generation.logprobs);
  return json;
}

nlohmann::ordered_json FiguresJson(const Engine& engine, const AskFigures& figures, const PassFigures& passes,
                                   const GateMassSummary& mass, const GuaranteeFigures* guarantee,
                                   const std::vector<Answer>& answers) {
  const AttentionCost cost = passes.Cost();
  nlohmann::ordered_json json;
  json["answers"] = nlohmann::ordered_json::array();
  for (const Answer& answer : answers) {
    json["answers"].push_back(AnswerJson(engine.tokenizer(), answer));
  }
  json["document_tokens"] = figures.document_tokens;
  json["prefill_tokens"] = figures.prefill_tokens;
  json["reused_tokens"] = figures.reused_tokens;
  json["prefill_tokens_per_second"] = Rate(figures.prefill_tokens, figures.prefill_seconds);
  json["decode_tokens_per_second"] = Rate(figures.decoded_tokens, figures.decode_seconds);
  if (figures.speculates) {
    json["drafted_tokens"] = figures.drafted_tokens;
    json["accepted_tokens"] = figures.accepted_tokens;
  }
  json["attention_flops"] = cost.attention_flops;
  json["gate_scan_int8_ops"] = cost.gate_scan_flops;
  json["gate_mlp_flops"] = cost.gate_mlp_flops;
  json["full_attention_flops"] = cost.full_flops;
  json["selected_keys"] = passes.MeanSelected();
  json["kv_cache_bytes"] = figures.kv_bytes;
  json["gate_index_bytes"] = figures.gate_index_bytes;
  json["multi_head_kv_bytes"] = figures.multi_head_bytes;
  json["gate_samples"] = mass.num_samples;
  json["retained_mass"] = mass.retained.mean;
  json["retained_mass_of_oracle"] = mass.relative.mean;
  json["retained_mass_of_oracle_p5"] = mass.relative.p5;
  json["retained_mass_of_oracle_worst_layer"] = mass.relative.worst_layer;
  json["far_attention_share"] = mass.far;
  if (guarantee != nullptr) json["guarantee"] = guarantee->Json();
  json["expert_utilisation_mean"] = MeanOf(figures.expert_use).utilisation;
  json["expert_utilisation_worst_layer"] = figures.WorstUtilisation();
  json["peak_memory_bytes"] = PeakMemoryBytes();
  return json;
}

void PrintTable(const ModelConfig& config, const AskFigures& figures, const PassFigures& passes,
                const GateMassSummary& mass, const GuaranteeFigures* guarantee) {
  const AttentionCost cost = passes.Cost();
  const double kv_bytes = figures.kv_bytes + figures.gate_index_bytes;
  const double mha_bytes = figures.multi_head_bytes;
  Table table({"measure", "this run", "compared with", ""});
  table.AddRow({"document", FormatCount(figures.document_tokens) + " tokens", "context",
                FormatCount(config.context_length) + " tokens"});
  table.AddRow({"prefill",
                fmt::format("{:.0f} tokens/s", Rate(figures.prefill_tokens, figures.prefill_seconds)),
                FormatCount(figures.prefill_tokens) + " tokens computed",
                FormatCount(figures.reused_tokens) + " reused"});
  table.AddRow({"decode",
                fmt::format("{:.0f} tokens/s", Rate(figures.decoded_tokens, figures.decode_seconds)),
                figures.speculates ? FormatCount(figures.drafted_tokens) + " tokens drafted ahead" : "",
                figures.speculates ? FormatCount(figures.accepted_tokens) + " of them right" : ""});
  table.AddRow({"attention, with the gate", FormatFlops(cost.sparse_flops()),
                "full attention " + FormatFlops(cost.full_flops),
                Less(cost.sparse_flops(), cost.full_flops)});
  table.AddRow({"  of it int8, scanning gate keys", FormatFlops(cost.gate_scan_flops), "", ""});
  table.AddRow({"keys selected per query", fmt::format("{:.1f}", passes.MeanSelected()), "", ""});
  table.AddRow({"key-value cache, with the gate's index", FormatBytes(kv_bytes),
                "multi-head attention " + FormatBytes(mha_bytes), Less(kv_bytes, mha_bytes)});
  if (mass.num_samples > 0) {
    table.AddRow({"far attention that the gate keeps", FormatShare(mass.retained.mean),
                  fmt::format("best {:.4g} keys, same queries", mass.keys),
                  FormatShare(mass.relative.mean) + " of the best"});
  }
  if (guarantee != nullptr) {
    table.AddRow({"attention left unread, at most", fmt::format("{:.4g}", guarantee->largest_bound()),
                  fmt::format("guarantee {:g}", guarantee->epsilon()),
                  fmt::format("mean {:.4g}", guarantee->mean_bound())});
    table.AddRow({"keys read for the guarantee", FormatShare(guarantee->share_read()), "all keys", ""});
  }
  table.AddRow({"expert utilisation (mean/max load)", FormatShare(MeanOf(figures.expert_use).utilisation),
                "worst layer", FormatShare(figures.WorstUtilisation())});
  table.AddRow({"peak memory", FormatBytes(PeakMemoryBytes()), "", ""});
  fmt::print("{}", table.ToString());
}

// Those of --question, then the lines of --questions.
std::vector<std::string> ListQuestions(const AskFlags& flags) {
  std::vector<std::string> questions = flags.questions;
  if (!flags.questions_file.empty()) {
    std::istringstream lines(ReadTextInput(flags.questions_file));
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (!line.empty()) questions.push_back(line);
    }
  }
  if (questions.empty())
    throw InputError("ask something with --question TEXT, or --questions FILE with a line each");
  for (const std::string& question : questions) {
    if (question.empty()) throw InputError("--question: empty; ask something");
  }
  return questions;
}

void RunAsk(const AskFlags& flags) {
  const std::vector<std::string> questions = ListQuestions(flags);
  const Engine engine = LoadEngine(flags.common);
  int64_t longest_question = 0;
  for (const std::string& question : questions) {
    const auto size = static_cast<int64_t>(QuestionPrompt(engine.tokenizer(), question).size());
    longest_question = std::max(longest_question, size);
  }
  const SamplingOptions sampling = MakeSamplingOptions(flags.sampling, flags.common, engine);
  const int64_t reserved = 1 + longest_question + sampling.max_tokens;
  const std::vector<int32_t> document = EncodeDocument(engine, flags, reserved);

  SessionOptions options = MakeSessionOptions(flags.session);
  options.capacity = static_cast<int64_t>(document.size()) + reserved;
  Session session(engine, options);
  PassFigures passes(engine.config());
  GateMass mass(SpreadPositions(static_cast<int64_t>(document.size()) + 1, kSampledQueries));
  GuaranteeFigures guarantee;
  ObserverList observers({&passes, &mass, &guarantee});
  session.Observe(&observers);
  AskFigures figures;
  figures.speculates = sampling.max_draft > 0;
  figures.document_tokens = static_cast<int64_t>(document.size());
  if (!flags.cache.empty()) ReadDocument(session, document, flags.cache, mass, figures);
  std::vector<Answer> answers;
  for (const std::string& question : questions) {
    answers.push_back(AskOne(session, document, question, sampling, mass, figures));
  }
  figures.expert_use = BalanceByLayer(session.expert_load());
  const auto kv_bytes = [&](int64_t heads) {
    return static_cast<double>(figures.timeline_tokens) *
           KvBytesPerToken(engine.config(), heads, options.cache_format);
  };
  figures.kv_bytes = kv_bytes(engine.config().num_kv_heads);
  figures.multi_head_bytes = kv_bytes(engine.config().num_heads);
  figures.gate_index_bytes =
      static_cast<double>(figures.timeline_tokens) * GateIndexBytesPerToken(engine.config()) +
      static_cast<double>(session.cache().shape().TreeBytesFor(figures.timeline_tokens));
  const GuaranteeFigures* proved = options.guarantee > 0 ? &guarantee : nullptr;
  if (!flags.no_table) PrintTable(engine.config(), figures, passes, mass.Summary(), proved);
  WriteJsonReport({flags.json, ""}, FiguresJson(engine, figures, passes, mass.Summary(), proved, answers));
  ReportExpertLoad(flags.expert_load, session.expert_load());
}

}  // namespace

void AddAskCommand(CLI::App& app) {
  auto flags = std::make_shared<AskFlags>();
  CLI::App* command =
      app.add_subcommand("ask", "Ask questions about a document of up to the model's context");
  command->footer(
      std::string(
          "The document is read once; every --question continues from there. Afterwards a table says what\n"
          "it took: attention work against full attention, cache size against multi-head attention, how\n"
          "much of full attention the gate kept (measured on a sample of queries), how evenly experts were\n"
          "used. A document longer than the context is an error unless --truncate is given.\n\n"
          "With --cache FILE a document is read once for ever: the file holds the model's keys and values,\n"
          "fits only this model and these options, and is replaced when the document changes.\n\n") +
      kSamplingHelp + "\n" + kExpertLoadHelp +
      "\n"
      "Examples:\n"
      "  sluice ask --document book.txt --question \"What is the access code of Marlow Finch?\"\n"
      "  sluice ask --document - --question \"Who signed?\" --question \"When?\" < contract.txt\n"
      "  sluice ask --document book.txt --question \"Who signed?\" --expert-load -\n"
      "  sluice ask --document contract.txt --cache contract.cache --cache-format bf16 --question \"When?\"");
  command->add_option("--document", flags->document, "Text file to read; -: standard input")->required();
  command->add_option("--question", flags->questions, "A question; may be given several times")
      ->allow_extra_args(false);
  command->add_option("--questions", flags->questions_file, "File with a question per line");
  command->add_option("--cache", flags->cache,
                      "Keep what was read of the document in this file, and take it from there next time");
  command->add_flag("--truncate", flags->truncate, "Read only the beginning of a document that is too long");
  command->add_flag("--no-table", flags->no_table, "Print the answers only");
  command->add_option("--json", flags->json, "Write answers and figures to this file, as JSON");
  AddExpertLoadFlag(*command, flags->expert_load);
  AddSamplingFlags(*command, flags->sampling);
  AddSessionFlags(*command, flags->session);
  AddCommonFlags(*command, flags->common);
  command->callback([flags] { RunAsk(*flags); });
}

}  // namespace sluice
