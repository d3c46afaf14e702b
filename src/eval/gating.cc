#include "eval/gating.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "base/error.h"
#include "eval/selectors.h"
#include "eval/table.h"

namespace sluice {

namespace {

void CheckOptions(const GatingOptions& options, const ModelConfig& config) {
  if (options.length < 2 || options.length > config.context_length) {
    throw InputError("--length must be between 2 and this model's context of {} tokens, not {}",
                     config.context_length, options.length);
  }
  if (options.scored < 1 || options.scored >= options.length) {
    throw InputError("--scored must be between 1 and --length less one, {}, not {}", options.length - 1,
                     options.scored);
  }
  const int64_t top_k = options.session.top_k > 0 ? options.session.top_k : config.top_k;
  const int64_t far = options.length - config.window - config.num_sinks;
  if (far <= top_k) {
    throw InputError(
        "documents of {} tokens have at most {} keys outside window and sinks, which all fit a selection of "
        "{}; use a longer --length",
        options.length, std::max<int64_t>(far, 0), top_k);
  }
}

// The first `length` tokens of the documents that have them.
std::vector<std::vector<int32_t>> CutDocuments(const Tokenizer& tokenizer,
                                               const std::vector<std::string>& texts,
                                               const GatingOptions& options) {
  std::vector<std::vector<int32_t>> documents;
  size_t longest = 0;
  for (const std::string& text : texts) {
    if (static_cast<int64_t>(documents.size()) == options.documents) break;
    std::vector<int32_t> tokens = tokenizer.Encode(text);
    longest = std::max(longest, tokens.size());
    if (static_cast<int64_t>(tokens.size()) < options.length) continue;
    tokens.resize(static_cast<size_t>(options.length));
    documents.push_back(std::move(tokens));
  }
  if (documents.empty()) {
    throw InputError("no document has {} tokens, the longest has {}: give longer texts or a shorter --length",
                     options.length, longest);
  }
  return documents;
}

// What one way of attending gave, summed over documents.
struct Run {
  std::string name;
  std::unique_ptr<Selector> selector;
  AttentionMode attention = AttentionMode::kSparse;
  GateMass mass;
  double nats = 0;
};

// Reads the head of the document with the gate, unless it is in the cache, then the rest in this run's way.
void ScoreTail(Session& session, std::span<const int32_t> tokens, int64_t scored, Run& run) {
  const size_t head = tokens.size() - static_cast<size_t>(scored);
  session.SetAttention(AttentionMode::kSparse);
  session.Observe(nullptr);
  session.Sync(tokens.first(head));
  session.SetAttention(run.attention, run.selector.get());
  session.Observe(&run.mass);
  const std::vector<float> losses = session.AppendScored(tokens.subspan(head));
  run.nats += std::accumulate(losses.begin(), losses.end(), 0.0);
  session.Observe(nullptr);
}

std::vector<Run> MakeRuns(const GatingOptions& options) {
  std::vector<int64_t> positions = SpreadPositions(options.scored, options.queries);
  for (int64_t& position : positions) position += options.length - options.scored;
  std::vector<Run> runs;
  runs.push_back({"dense", nullptr, AttentionMode::kDense, GateMass({})});
  for (const std::string& name : options.selectors) {
    runs.push_back({name, MakeSelector(name, options.seed), AttentionMode::kSparse, GateMass(positions)});
  }
  return runs;
}

}  // namespace

GatingResult RunGating(const Engine& engine, const std::vector<std::string>& texts,
                       const GatingOptions& options, const Session::Progress& progress) {
  CheckOptions(options, engine.config());
  const auto start = std::chrono::steady_clock::now();
  std::vector<Run> runs = MakeRuns(options);
  const std::vector<std::vector<int32_t>> documents = CutDocuments(engine.tokenizer(), texts, options);
  SessionOptions session_options = options.session;
  session_options.capacity = options.length;
  Session session(engine, session_options);
  const auto num_runs = static_cast<int64_t>(runs.size());
  const int64_t head = options.length - options.scored;
  const int64_t per_document = head + num_runs * options.scored;
  const int64_t total = per_document * static_cast<int64_t>(documents.size());
  int64_t done = 0;
  for (const std::vector<int32_t>& tokens : documents) {
    session.SetAttention(AttentionMode::kSparse);
    session.Sync(std::span(tokens).first(static_cast<size_t>(head)), [&](int64_t read, int64_t) {
      if (progress) progress(done + read, total);
    });
    done += head;
    for (Run& run : runs) {
      ScoreTail(session, tokens, options.scored, run);
      done += options.scored;
      if (progress) progress(done, total);
    }
  }
  GatingResult result;
  result.options = options;
  result.options.session.top_k = session.options().top_k;
  result.documents = static_cast<int64_t>(documents.size());
  const auto scored = static_cast<double>(options.scored * result.documents);
  for (const Run& run : runs) {
    if (run.attention == AttentionMode::kDense) {
      result.dense_nats = run.nats / scored;
    } else {
      result.rows.push_back({run.name, run.mass.Summary(), run.nats / scored});
    }
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

std::string GatingTable(const GatingResult& result) {
  Table table({"selector", fmt::format("recall@{}", result.options.session.top_k), "retained", "of oracle's",
               "5th percentile", "worst layer", "nats/token", "over dense"});
  for (const GatingRow& row : result.rows) {
    table.AddRow({row.selector, FormatShare(row.mass.recall), FormatShare(row.mass.retained),
                  FormatShare(row.mass.relative), FormatShare(row.mass.relative_p5),
                  FormatShare(row.mass.worst_layer), fmt::format("{:.4f}", row.nats),
                  fmt::format("{:+.4f}", row.nats - result.dense_nats)});
  }
  std::vector<std::string> header = {"recall at distance"};
  for (const GatingRow& row : result.rows) header.push_back(row.selector);
  Table by_distance(header);
  for (size_t bucket = 0; bucket < DistanceCounts().size(); ++bucket) {
    std::vector<std::string> cells = {FormatCount(int64_t{1} << bucket) + " on"};
    bool any = false;
    for (const GatingRow& row : result.rows) {
      any = any || row.mass.wanted[bucket] > 0;
      cells.push_back(row.mass.wanted[bucket] > 0 ? FormatShare(row.mass.RecallAt(bucket)) : "-");
    }
    if (any) by_distance.AddRow(cells);
  }
  return fmt::format("{}\n{}\n{} documents of {} tokens, their last {} scored; dense: {:.4f} nats/token\n",
                     table.ToString(), by_distance.ToString(), result.documents,
                     FormatCount(result.options.length), FormatCount(result.options.scored),
                     result.dense_nats);
}

nlohmann::ordered_json GatingJson(const GatingResult& result) {
  const GatingOptions& options = result.options;
  nlohmann::ordered_json json = {{"length", options.length},
                                 {"documents", result.documents},
                                 {"scored", options.scored},
                                 {"queries", options.queries},
                                 {"top_k", options.session.top_k},
                                 {"seed", options.seed},
                                 {"seconds", result.seconds},
                                 {"dense_nats_per_token", result.dense_nats},
                                 {"selectors", nlohmann::ordered_json::array()}};
  for (const GatingRow& row : result.rows) {
    nlohmann::ordered_json by_distance = nlohmann::ordered_json::array();
    for (size_t bucket = 0; bucket < row.mass.wanted.size(); ++bucket) {
      if (row.mass.wanted[bucket] == 0) continue;
      by_distance.push_back({{"from", int64_t{1} << bucket},
                             {"wanted", row.mass.wanted[bucket]},
                             {"recall", row.mass.RecallAt(bucket)}});
    }
    json["selectors"].push_back({{"selector", row.selector},
                                 {"samples", row.mass.num_samples},
                                 {"recall", row.mass.recall},
                                 {"retained", row.mass.retained},
                                 {"relative", row.mass.relative},
                                 {"relative_p5", row.mass.relative_p5},
                                 {"worst_layer", row.mass.worst_layer},
                                 {"relative_by_layer", row.mass.relative_by_layer},
                                 {"far", row.mass.far},
                                 {"nats_per_token", row.nats},
                                 {"nats_over_dense", row.nats - result.dense_nats},
                                 {"by_distance", by_distance}});
  }
  return json;
}

}  // namespace sluice
