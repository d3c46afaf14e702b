#include "eval/needle.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <optional>
#include <set>

#include "engine/generate.h"
#include "engine/prompt.h"
#include "eval/table.h"

namespace sluice {

namespace {

// Beside the facts a document has at least this much text.
constexpr int64_t kMinTextTokens = 256;
// Facts of one group have this many attempts to be unlike all others of the document.
constexpr int kAttempts = 100;

bool IsWordCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || (c & 0x80) != 0;
}

// Facts of one document: a group per depth, the first of each is the needle. No question comes twice.
std::vector<std::vector<Fact>> MakeGroups(const NeedleOptions& options, uint64_t seed) {
  FactGenerator generator(seed, FactSplit::kHeldOut);
  std::set<std::string> questions;
  std::vector<std::vector<Fact>> groups;
  for (int64_t depth = 0; depth < NeedleOptions::kDepths; ++depth) {
    std::vector<Fact> group;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      group = generator.NextGroup(static_cast<int>(1 + options.distractors));
      const bool fresh = std::none_of(group.begin(), group.end(),
                                      [&](const Fact& fact) { return questions.contains(fact.question); });
      if (fresh) break;
    }
    for (const Fact& fact : group) questions.insert(fact.question);
    groups.push_back(std::move(group));
  }
  return groups;
}

NeedleTrial Ask(Session& session, const NeedleDocument& document, size_t needle_idx,
                const NeedleOptions& options) {
  const Fact& fact = document.needles[needle_idx];
  std::vector<int32_t> prompt = document.tokens;
  const std::vector<int32_t> question = QuestionPrompt(session.engine().tokenizer(), fact.question);
  prompt.insert(prompt.end(), question.begin(), question.end());
  session.Sync(prompt);
  SamplingOptions sampling;
  sampling.max_tokens = options.max_answer_tokens;
  NeedleTrial trial;
  trial.depth_idx = static_cast<int64_t>(needle_idx);
  trial.position =
      static_cast<int64_t>(NeedleDepth(trial.depth_idx) * static_cast<double>(document.tokens.size()));
  trial.question = fact.question;
  trial.value = fact.value;
  trial.answer = Generate(session, sampling).text;
  trial.correct = ContainsValue(trial.answer, trial.value);
  return trial;
}

// What sparse attention misses, where `results` holds both ways of attending.
std::optional<std::vector<NeedleLoss>> BothWays(const std::vector<NeedleResult>& results) {
  const NeedleResult* sparse = nullptr;
  const NeedleResult* dense = nullptr;
  for (const NeedleResult& result : results) {
    (result.options.session.attention == AttentionMode::kDense ? dense : sparse) = &result;
  }
  if (sparse == nullptr || dense == nullptr) return std::nullopt;
  return NeedleLosses(*sparse, *dense);
}

nlohmann::ordered_json ResultJson(const NeedleResult& result) {
  nlohmann::ordered_json json = {{"attention", NameOf(result.options.session.attention)},
                                 {"seconds", result.seconds},
                                 {"lengths", nlohmann::ordered_json::array()},
                                 {"trials", nlohmann::ordered_json::array()}};
  for (const int64_t length : result.options.lengths) {
    nlohmann::ordered_json by_depth = nlohmann::ordered_json::array();
    for (int64_t depth = 0; depth < NeedleOptions::kDepths; ++depth)
      by_depth.push_back(result.Accuracy(length, depth));
    json["lengths"].push_back(
        {{"length", length}, {"accuracy", result.Accuracy(length)}, {"by_depth", by_depth}});
  }
  for (const NeedleTrial& trial : result.trials) {
    json["trials"].push_back({{"length", trial.length},
                              {"document", trial.document},
                              {"depth", NeedleDepth(trial.depth_idx)},
                              {"position", trial.position},
                              {"question", trial.question},
                              {"value", trial.value},
                              {"answer", trial.answer},
                              {"correct", trial.correct}});
  }
  return json;
}

}  // namespace

NeedleDocument MakeNeedleDocument(const Tokenizer& tokenizer, const Haystack& haystack,
                                  const NeedleOptions& options, int64_t length, int64_t document_idx) {
  const uint64_t seed =
      options.seed * 1000003 + static_cast<uint64_t>(length) * 1009 + static_cast<uint64_t>(document_idx);
  Random random(seed, /*stream=*/7);
  NeedleDocument document;
  std::vector<Planting> plantings;
  int64_t planted = 0;
  int64_t longest_question = 0;
  const std::vector<std::vector<Fact>> groups = MakeGroups(options, seed);
  for (size_t depth = 0; depth < groups.size(); ++depth) {
    for (size_t i = 0; i < groups[depth].size(); ++i) {
      const Fact& fact = groups[depth][i];
      const double place = i == 0 ? NeedleDepth(static_cast<int64_t>(depth)) : random.Uniform();
      plantings.push_back({place, tokenizer.Encode(" " + fact.sentence)});
      planted += static_cast<int64_t>(plantings.back().tokens.size());
    }
    document.distractors.insert(document.distractors.end(), groups[depth].begin() + 1, groups[depth].end());
    const Fact& needle = groups[depth].front();
    const auto question = static_cast<int64_t>(tokenizer.Encode(needle.question).size());
    longest_question = std::max(longest_question, question);
    document.needles.push_back(needle);
  }
  // Three marks: <|document|>, <|user|>, <|assistant|>.
  const int64_t text_tokens = length - planted - longest_question - options.max_answer_tokens - 3;
  if (text_tokens < kMinTextTokens) {
    throw InputError(
        "a document of {} tokens has no room for {} facts of {} tokens: use longer --lengths or fewer "
        "--distractors",
        length, plantings.size(), planted);
  }
  // Documents start in different places of the haystack.
  const int64_t begin = static_cast<int64_t>(random.Below(static_cast<uint64_t>(haystack.num_tokens())));
  document.tokens = DocumentPrompt(Plant(haystack, haystack.Slice(begin, text_tokens), std::move(plantings)));
  return document;
}

double NeedleDepth(int64_t depth_idx) {
  return (static_cast<double>(depth_idx) + 0.5) / static_cast<double>(NeedleOptions::kDepths);
}

bool ContainsValue(const std::string& text, const std::string& value) {
  for (size_t at = text.find(value); at != std::string::npos; at = text.find(value, at + 1)) {
    const size_t end = at + value.size();
    const bool starts = at == 0 || !IsWordCharacter(text[at - 1]);
    const bool ends = end == text.size() || !IsWordCharacter(text[end]);
    if (starts && ends) return true;
  }
  return false;
}

NeedleResult RunNeedles(const Engine& engine, const Haystack& haystack, const NeedleOptions& options,
                        const std::function<void(const NeedleTrial&)>& on_trial,
                        const Session::Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  NeedleResult result;
  result.options = options;
  const int64_t documents = (options.needles + NeedleOptions::kDepths - 1) / NeedleOptions::kDepths;
  int64_t total = 0;
  for (const int64_t length : options.lengths) {
    if (length > engine.config().context_length) {
      throw InputError("--lengths: {} is more than this model's context of {} tokens", length,
                       engine.config().context_length);
    }
    total += length * documents;
  }
  int64_t done = 0;
  for (const int64_t length : options.lengths) {
    SessionOptions session_options = options.session;
    session_options.capacity = length;
    Session session(engine, session_options);
    for (int64_t d = 0; d < documents; ++d) {
      const NeedleDocument document = MakeNeedleDocument(engine.tokenizer(), haystack, options, length, d);
      session.Sync(document.tokens, [&](int64_t read, int64_t) {
        if (progress) progress(done + read, total);
      });
      for (size_t i = 0; i < document.needles.size(); ++i) {
        NeedleTrial trial = Ask(session, document, i, options);
        trial.length = length;
        trial.document = d;
        result.trials.push_back(std::move(trial));
        if (on_trial) on_trial(result.trials.back());
      }
      done += length;
      if (progress) progress(done, total);
    }
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

double NeedleResult::Accuracy(int64_t length, int64_t depth_idx) const {
  double correct = 0, count = 0;
  for (const NeedleTrial& trial : trials) {
    if (trial.length != length || (depth_idx >= 0 && trial.depth_idx != depth_idx)) continue;
    correct += trial.correct ? 1 : 0;
    count += 1;
  }
  return count > 0 ? correct / count : 0;
}

std::vector<NeedleLoss> NeedleLosses(const NeedleResult& sparse, const NeedleResult& dense) {
  std::vector<NeedleLoss> losses;
  for (const int64_t length : sparse.options.lengths) {
    for (int64_t depth = 0; depth < NeedleOptions::kDepths; ++depth) {
      const NeedleLoss loss = {length, depth, sparse.Accuracy(length, depth), dense.Accuracy(length, depth)};
      if (loss.sparse < loss.dense) losses.push_back(loss);
    }
  }
  return losses;
}

std::string NeedleTable(const std::vector<NeedleResult>& results) {
  std::vector<std::string> header = {"length", "attention"};
  for (int64_t depth = 0; depth < NeedleOptions::kDepths; ++depth) {
    header.push_back(fmt::format("{:.0f}%", 100 * NeedleDepth(depth)));
  }
  header.emplace_back("all");
  Table table(header);
  for (const int64_t length : results.front().options.lengths) {
    for (const NeedleResult& result : results) {
      std::vector<std::string> row = {FormatCount(length), NameOf(result.options.session.attention)};
      for (int64_t depth = 0; depth < NeedleOptions::kDepths; ++depth) {
        row.push_back(fmt::format("{:.0f}", 100 * result.Accuracy(length, depth)));
      }
      row.push_back(FormatShare(result.Accuracy(length)));
      table.AddRow(row);
    }
  }
  std::string text = table.ToString();
  const auto losses = BothWays(results);
  if (!losses) return text;
  text += losses->empty() ? "sparse attention finds no fewer at any length and depth\n" : "";
  for (const NeedleLoss& loss : *losses) {
    text += fmt::format("sparse below dense at {} tokens, depth {:.0f}%: {} against {}\n",
                        FormatCount(loss.length), 100 * NeedleDepth(loss.depth_idx), FormatShare(loss.sparse),
                        FormatShare(loss.dense));
  }
  return text;
}

nlohmann::ordered_json NeedleJson(const std::vector<NeedleResult>& results) {
  const NeedleOptions& options = results.front().options;
  nlohmann::ordered_json json = {{"seed", options.seed},
                                 {"needles", options.needles},
                                 {"distractors", options.distractors},
                                 {"top_k", options.session.top_k}};
  json["depths"] = nlohmann::ordered_json::array();
  for (int64_t depth = 0; depth < NeedleOptions::kDepths; ++depth)
    json["depths"].push_back(NeedleDepth(depth));
  json["results"] = nlohmann::ordered_json::array();
  for (const NeedleResult& result : results) json["results"].push_back(ResultJson(result));
  if (const auto losses = BothWays(results)) {
    json["sparse_below_dense"] = nlohmann::ordered_json::array();
    for (const NeedleLoss& loss : *losses) {
      json["sparse_below_dense"].push_back({{"length", loss.length},
                                            {"depth", NeedleDepth(loss.depth_idx)},
                                            {"sparse", loss.sparse},
                                            {"dense", loss.dense}});
    }
  }
  return json;
}

}  // namespace sluice
