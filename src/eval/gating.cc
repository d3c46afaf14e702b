#include "eval/gating.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "engine/generate.h"
#include "engine/prompt.h"
#include "eval/needle.h"
#include "eval/selectors.h"

namespace sluice {

namespace {

// Scored tokens come in slices, so that progress shows where a selector is slow.
constexpr size_t kSlice = 64;
constexpr int64_t kAnswerTokens = 32;

void CheckOptions(const GatingOptions& options, const ModelConfig& config) {
  if (options.length < 2 || options.length > config.context_length) {
    throw InputError("--length must be between 2 and this model's context of {} tokens, not {}",
                     config.context_length, options.length);
  }
  if (options.scored < 1 || options.scored >= options.length) {
    throw InputError("--scored must be between 1 and --length less one, {}, not {}", options.length - 1,
                     options.scored);
  }
}

// Far keys of the last of `length` tokens that a selection may leave out.
int64_t LeftOut(const GatingOptions& options, const ModelConfig& config, int64_t length) {
  const int64_t top_k = options.session.top_k > 0 ? options.session.top_k : config.top_k;
  return length - config.window - config.num_sinks - top_k;
}

// A document as it will be read.
struct Reading {
  std::vector<int32_t> tokens;
  const EvalQuestion* question = nullptr;
};

// The most tokens that question and answer can take.
int64_t QuestionTokens(const Tokenizer& tokenizer, const EvalQuestion& question) {
  auto answer = static_cast<size_t>(kAnswerTokens);
  for (const std::string& text : question.candidates())
    answer = std::max(answer, tokenizer.Encode(text).size());
  return static_cast<int64_t>(QuestionPrompt(tokenizer, question.question).size() + answer);
}

// Of more than `length` tokens the first and the last.
std::vector<int32_t> WithoutMiddle(std::vector<int32_t> tokens, int64_t length) {
  const int64_t extra = static_cast<int64_t>(tokens.size()) - length;
  if (extra > 0) tokens.erase(tokens.begin() + length / 2, tokens.begin() + length / 2 + extra);
  return tokens;
}

std::vector<Reading> CutDocuments(const Engine& engine, const std::vector<EvalDocument>& documents,
                                  const GatingOptions& options) {
  const Tokenizer& tokenizer = engine.tokenizer();
  std::vector<Reading> readings;
  size_t longest = 0;
  for (const EvalDocument& document : documents) {
    if (static_cast<int64_t>(readings.size()) == options.documents) break;
    Reading reading{tokenizer.Encode(document.text), nullptr};
    longest = std::max(longest, reading.tokens.size());
    int64_t shortest = options.length;
    if (document.question) {
      reading.question = &*document.question;
      const int64_t room = engine.config().context_length - QuestionTokens(tokenizer, *document.question) - 1;
      reading.tokens =
          DocumentPrompt(WithoutMiddle(std::move(reading.tokens), std::min(options.length, room)));
      shortest = options.scored + 1;
    }
    const auto size = static_cast<int64_t>(reading.tokens.size());
    if (size < shortest || LeftOut(options, engine.config(), size) <= 0) continue;
    if (!document.question) reading.tokens.resize(static_cast<size_t>(options.length));
    readings.push_back(std::move(reading));
  }
  if (readings.empty()) {
    throw InputError("no document has {} tokens, the longest has {}: give longer texts or a shorter --length",
                     options.length, longest);
  }
  return readings;
}

// What one way of attending gave, summed over documents.
struct Run {
  std::string name;
  std::unique_ptr<Selector> selector;
  AttentionMode attention = AttentionMode::kSparse;
  GateIndex index = GateIndex::kAuto;
  GateMass mass;
  double nats = 0;
  AnswerFigures answers;
};

// Where a document's part that is read with the gate ends.
size_t HeadTokens(const Reading& reading, const GatingOptions& options) {
  const auto page = static_cast<size_t>(KvCache::kPageTokens);
  return (reading.tokens.size() - static_cast<size_t>(options.scored)) / page * page;
}

// Reads the head of the document with the gate, unless it is in the cache, then the rest in this run's way.
void ScoreTail(Session& session, const Reading& reading, const GatingOptions& options, Run& run,
               const Session::Progress& progress) {
  const std::span<const int32_t> tokens = reading.tokens;
  const size_t head = HeadTokens(reading, options);
  const size_t scored_begin = tokens.size() - static_cast<size_t>(options.scored);
  session.SetAttention(AttentionMode::kSparse);
  session.SetIndex(options.session.index);
  session.Observe(nullptr);
  if (head > 0) {
    session.Sync(tokens.first(head));
  } else {
    session.Clear();
  }
  std::vector<int64_t> positions = SpreadPositions(options.scored, options.queries);
  for (int64_t& position : positions) position += static_cast<int64_t>(scored_begin);
  run.mass.SetPositions(std::move(positions));
  session.SetAttention(run.attention, run.selector.get());
  session.SetIndex(run.index);
  session.Observe(&run.mass);
  for (size_t begin = head; begin < tokens.size(); begin += kSlice) {
    const size_t end = std::min(begin + kSlice, tokens.size());
    const std::vector<float> losses = session.AppendScored(tokens.subspan(begin, end - begin));
    const size_t before = std::min(end, std::max(begin, scored_begin)) - begin;
    run.nats += std::accumulate(losses.begin() + static_cast<std::ptrdiff_t>(before), losses.end(), 0.0);
    if (progress) progress(static_cast<int64_t>(end - head), static_cast<int64_t>(tokens.size() - head));
  }
  session.Observe(nullptr);
}

// Goes on behind the document, in the way the session attends now.
void AskQuestion(Session& session, const Reading& reading, AnswerFigures& figures) {
  const Tokenizer& tokenizer = session.engine().tokenizer();
  const EvalQuestion& question = *reading.question;
  std::vector<int32_t> prompt = reading.tokens;
  const std::vector<int32_t> rest = QuestionPrompt(tokenizer, question.question);
  prompt.insert(prompt.end(), rest.begin(), rest.end());
  struct Loss {
    double nats = 0;
    int64_t tokens = 0;
    double mean() const { return nats / static_cast<double>(tokens); }
  };
  std::vector<Loss> losses;
  for (const std::string& text : question.candidates()) {
    session.Sync(prompt);
    const std::vector<int32_t> tokens = tokenizer.Encode(text);
    const std::vector<float> scores = session.AppendScored(tokens);
    losses.push_back(
        {std::accumulate(scores.begin(), scores.end(), 0.0), static_cast<int64_t>(tokens.size())});
  }
  const auto likeliest =
      static_cast<size_t>(std::min_element(losses.begin(), losses.end(),
                                           [](const Loss& a, const Loss& b) { return a.mean() < b.mean(); }) -
                          losses.begin());
  bool right = likeliest == question.right_choice;
  const Loss& wanted = losses[question.choices.empty() ? likeliest : question.right_choice];
  if (question.choices.empty()) {
    session.Sync(prompt);
    SamplingOptions sampling;
    sampling.max_tokens = kAnswerTokens;
    const std::string answer = Generate(session, sampling).text;
    right = std::any_of(question.answers.begin(), question.answers.end(),
                        [&](const std::string& value) { return ContainsValue(answer, value); });
  }
  figures.questions += 1;
  figures.right += right ? 1 : 0;
  figures.nats += wanted.nats;
  figures.tokens += wanted.tokens;
}

std::vector<Run> MakeRuns(const GatingOptions& options) {
  std::vector<Run> runs;
  const GateIndex index = options.session.index;
  runs.push_back({"dense", nullptr, AttentionMode::kDense, index, GateMass({}), 0, {}});
  for (const std::string& name : options.selectors) {
    runs.push_back({name,
                    MakeSelector(name, options.seed),
                    AttentionMode::kSparse,
                    name == "flat" ? GateIndex::kFlat : index,
                    GateMass({}),
                    0,
                    {}});
  }
  return runs;
}

Session MakeSession(const Engine& engine, const std::vector<Reading>& readings, SessionOptions options) {
  options.capacity = 0;
  for (const Reading& reading : readings) {
    auto size = static_cast<int64_t>(reading.tokens.size());
    if (reading.question != nullptr) size += QuestionTokens(engine.tokenizer(), *reading.question);
    options.capacity = std::max(options.capacity, size);
  }
  return Session(engine, options);
}

}  // namespace

double AnswerFigures::accuracy() const {
  return questions > 0 ? static_cast<double>(right) / static_cast<double>(questions) : 0;
}

double AnswerFigures::nats_per_token() const {
  return tokens > 0 ? nats / static_cast<double>(tokens) : 0;
}

double GatingResult::PerplexityOverDense(const GatingRow& row) const {
  return std::exp(row.nats - dense.nats) - 1;
}

std::optional<double> GatingResult::GateOverFlat() const {
  const auto row = [&](const std::string& name) {
    return std::find_if(rows.begin(), rows.end(), [&](const GatingRow& r) { return r.selector == name; });
  };
  const auto gate = row("gate"), flat = row("flat");
  if (gate == rows.end() || flat == rows.end()) return std::nullopt;
  return gate->mass.retained.mean / flat->mass.retained.mean;
}

GatingResult RunGating(const Engine& engine, const std::vector<EvalDocument>& documents,
                       const GatingOptions& options, const Session::Progress& progress) {
  CheckOptions(options, engine.config());
  if (LeftOut(options, engine.config(), options.length) <= 0) {
    throw InputError(
        "documents of {} tokens have no more keys outside window and sinks than a selection holds; use a "
        "longer --length",
        options.length);
  }
  const auto start = std::chrono::steady_clock::now();
  std::vector<Run> runs = MakeRuns(options);
  const std::vector<Reading> readings = CutDocuments(engine, documents, options);
  Session session = MakeSession(engine, readings, options.session);
  int64_t total = 0;
  for (const Reading& reading : readings) {
    const size_t head = HeadTokens(reading, options);
    total += static_cast<int64_t>(head + runs.size() * (reading.tokens.size() - head));
  }
  int64_t done = 0;
  const auto report = [&](int64_t read, int64_t) {
    if (progress) progress(done + read, total);
  };
  for (const Reading& reading : readings) {
    const size_t head = HeadTokens(reading, options);
    session.SetAttention(AttentionMode::kSparse);
    session.SetIndex(options.session.index);
    if (head > 0) session.Sync(std::span(reading.tokens).first(head), report);
    done += static_cast<int64_t>(head);
    for (Run& run : runs) {
      ScoreTail(session, reading, options, run, report);
      if (reading.question != nullptr) AskQuestion(session, reading, run.answers);
      done += static_cast<int64_t>(reading.tokens.size() - head);
    }
  }
  GatingResult result;
  result.options = options;
  result.options.session.top_k = session.options().top_k;
  result.documents = static_cast<int64_t>(readings.size());
  const auto scored = static_cast<double>(options.scored * result.documents);
  for (const Run& run : runs) {
    const GatingRow row = {run.name, run.mass.Summary(), run.nats / scored, run.answers};
    if (run.attention == AttentionMode::kDense) {
      result.dense = row;
    } else {
      result.rows.push_back(row);
    }
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace sluice
