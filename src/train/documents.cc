#include "train/documents.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

#include "text/prompt.h"

namespace sluice {

namespace {

// A round of question and answer takes about this many tokens.
constexpr int64_t kRoundTokens = 48;
// The shortest document that tasks are made from.
constexpr int64_t kMinTaskTokens = 192;
// A document has at most this many rounds, or one per kTokensPerRound of its tokens if that is more.
constexpr int64_t kMaxRounds = 48;
constexpr int64_t kTokensPerRound = 256;

int64_t MostRounds(int64_t length) {
  return std::max(kMaxRounds, length / kTokensPerRound);
}

std::vector<int32_t> ToIds(std::span<const uint16_t> tokens) {
  return {tokens.begin(), tokens.end()};
}

}  // namespace

struct DocumentSampler::Document {
  std::vector<int32_t> tokens;
  // Of predicting tokens[i]; the first token is never predicted.
  std::vector<float> weights;
  std::vector<TokenPart> parts;

  void Append(std::span<const int32_t> ids, float weight, TokenPart part = TokenPart::kText) {
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    weights.resize(tokens.size(), weight);
    parts.resize(tokens.size(), part);
  }
  void Append(int32_t id, float weight, TokenPart part = TokenPart::kText) {
    Append(std::span(&id, 1), weight, part);
  }
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
};

DocumentSampler::DocumentSampler(const TrainConfig& config, const Corpus& corpus, const Tokenizer& tokenizer)
    : config_(config), corpus_(corpus), tokenizer_(tokenizer) {
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.TokenBytes(id);
    const char last = bytes.empty() ? '\0' : bytes.back();
    ends_sentence_.push_back(last == '.' || last == '\n' ? 1 : 0);
  }
}

void DocumentSampler::AddRound(const std::vector<int32_t>& question, const std::vector<int32_t>& answer,
                               double answer_weight, Document& document) const {
  const auto question_weight = static_cast<float>(config_.question_weight);
  const auto weight = static_cast<float>(answer_weight);
  document.Append(kUser, 0);
  document.Append(question, question_weight);
  document.Append(kAssistant, 0);
  document.Append(answer, weight, TokenPart::kAnswer);
  document.Append(kEndOfText, weight, TokenPart::kAnswer);
}

DocumentSampler::Document DocumentSampler::Text(Random& random, int64_t length) const {
  Document document;
  document.Append(ToIds(corpus_.SampleSpan(random, length - 1)), 1);
  document.Append(kEndOfText, 0);
  return document;
}

DocumentSampler::Document DocumentSampler::Retrieval(Random& random, int64_t length,
                                                     double answer_weight) const {
  // Up to half of the document is questions and answers: they are what it is for.
  const int64_t rounds = std::clamp<int64_t>(length / (2 * kRoundTokens), 1, MostRounds(length));
  const int64_t most_facts = rounds + rounds / 3;
  FactGenerator generator(random.NextU64(), FactSplit::kTrain);
  std::vector<Fact> facts;
  std::set<std::string> asked;
  while (static_cast<int64_t>(facts.size()) < rounds ||
         (random.Below(3) != 0 && static_cast<int64_t>(facts.size()) < most_facts)) {
    const auto alike = static_cast<int>(1 + random.Below(9));
    for (Fact& fact : generator.NextGroup(alike)) {
      // The same thing said twice, with two values, would have no right answer.
      if (asked.insert(fact.subject + "\n" + fact.attribute).second) facts.push_back(std::move(fact));
    }
  }
  // Groups are planted in shuffled order, so that like facts do not stand side by side.
  for (size_t i = facts.size(); i > 1; --i) std::swap(facts[i - 1], facts[random.Below(i)]);

  std::vector<std::vector<int32_t>> sentences;
  int64_t planted = 0;
  for (const Fact& fact : facts) {
    sentences.push_back(tokenizer_.Encode(" " + fact.sentence));
    planted += static_cast<int64_t>(sentences.back().size());
  }
  const int64_t text_tokens = std::max(length - planted - rounds * kRoundTokens, length / 4);
  const std::vector<int32_t> text = ToIds(corpus_.SampleSpan(random, text_tokens));

  std::vector<int64_t> places;
  for (size_t i = 0; i < facts.size(); ++i) {
    auto place = static_cast<int64_t>(random.Below(text.size() + 1));
    const int64_t limit = std::min<int64_t>(place + 64, static_cast<int64_t>(text.size()));
    int64_t end = place;
    while (end < limit &&
           !(end > 0 && ends_sentence_[static_cast<size_t>(text[static_cast<size_t>(end - 1)])]))
      ++end;
    places.push_back(end);
  }
  std::sort(places.begin(), places.end());

  Document document;
  document.Append(kDocument, 0);
  int64_t begin = 0;
  for (size_t i = 0; i < facts.size(); ++i) {
    document.Append(
        std::span(text).subspan(static_cast<size_t>(begin), static_cast<size_t>(places[i] - begin)), 1);
    document.Append(sentences[i], 0.3f);
    begin = places[i];
  }
  document.Append(std::span(text).subspan(static_cast<size_t>(begin)), 1);

  std::vector<size_t> order(facts.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
  for (int64_t round = 0; round < std::min<int64_t>(rounds, static_cast<int64_t>(order.size())); ++round) {
    const Fact& fact = facts[order[static_cast<size_t>(round)]];
    AddRound(tokenizer_.Encode(fact.question), tokenizer_.Encode(fact.answer), answer_weight, document);
  }
  return document;
}

DocumentSampler::Document DocumentSampler::Quote(Random& random, int64_t length, double answer_weight) const {
  constexpr int64_t kGivenTokens = 12;    // Quoted in the question.
  constexpr int64_t kRestatedTokens = 5;  // Of these, restated at the start of the answer.
  constexpr int64_t kAnswerTokens = 28;   // Restated ones and how the text goes on.
  const int64_t rounds = std::clamp<int64_t>(length / (3 * kRoundTokens), 1, MostRounds(length));
  const std::vector<int32_t> text = ToIds(corpus_.SampleSpan(random, length - rounds * (kRoundTokens + 4)));
  Document document;
  document.Append(kDocument, 0);
  document.Append(text, 1);
  const auto size = static_cast<int64_t>(text.size());
  if (size < kGivenTokens + kAnswerTokens) return document;
  for (int64_t round = 0; round < rounds; ++round) {
    const auto begin =
        static_cast<int64_t>(random.Below(static_cast<uint64_t>(size - kGivenTokens - kAnswerTokens + 1)));
    const auto given = text.begin() + begin;
    std::vector<int32_t> question = tokenizer_.Encode("Continue:");
    question.insert(question.end(), given, given + kGivenTokens);
    const auto answer = given + kGivenTokens - kRestatedTokens;
    AddRound(question, {answer, answer + kAnswerTokens}, answer_weight, document);
  }
  return document;
}

DocumentSampler::Document DocumentSampler::Repeat(Random& random, int64_t length) const {
  constexpr double kMinPassage = 8;
  const double most = static_cast<double>(length) / 2;
  const auto passage_tokens =
      static_cast<int64_t>(kMinPassage * std::pow(most / kMinPassage, random.Uniform()));
  std::vector<int32_t> passage;
  const bool of_text = random.Below(2) == 0;
  if (of_text) {
    passage = ToIds(corpus_.SampleSpan(random, passage_tokens));
  } else {
    const auto first = static_cast<int32_t>(kSpecialTokens.size());
    const auto choices = static_cast<uint64_t>(tokenizer_.vocab_size() - first);
    for (int64_t i = 0; i < passage_tokens; ++i)
      passage.push_back(first + static_cast<int32_t>(random.Below(choices)));
  }
  Document document;
  document.Append(passage, of_text ? 1 : 0);  // Random tokens cannot be foretold the first time.
  while (document.size() < length) document.Append(passage, 1, TokenPart::kRepeat);
  return document;
}

TrainingRow DocumentSampler::Row(const StageConfig& stage, int64_t length, int64_t step, int64_t row) const {
  Random random(static_cast<uint64_t>(config_.seed),
                (static_cast<uint64_t>(step) << 20) + static_cast<uint64_t>(row) + 1);
  const auto size = static_cast<size_t>(length);
  TrainingRow result;
  while (result.tokens.size() < size) {
    const int64_t room = length - static_cast<int64_t>(result.tokens.size());
    // Half of the documents take all the room there is; the others are shorter, evenly in log length.
    int64_t wanted = room;
    if (random.Below(2) == 0 && room > 2 * kMinTaskTokens) {
      const double low = std::log(static_cast<double>(kMinTaskTokens));
      wanted = std::llround(std::exp(low + random.Uniform() * (std::log(static_cast<double>(room)) - low)));
    }
    const double kind = random.Uniform();
    const bool task_fits = wanted >= kMinTaskTokens;
    Document document;
    if (task_fits && kind < stage.mix.retrieval) {
      document = Retrieval(random, wanted, stage.answer_weight);
    } else if (task_fits && kind < stage.mix.retrieval + stage.mix.quote) {
      document = Quote(random, wanted, stage.answer_weight);
    } else if (task_fits && kind < stage.mix.retrieval + stage.mix.quote + stage.mix.repeat) {
      document = Repeat(random, wanted);
    } else {
      document = Text(random, std::max<int64_t>(wanted, 2));
    }
    const auto begin = static_cast<int32_t>(result.tokens.size());
    const auto used = std::min(document.tokens.size(), size - result.tokens.size());
    for (size_t i = 0; i < used; ++i) {
      const bool has_next = i + 1 < document.tokens.size();
      result.tokens.push_back(document.tokens[i]);
      result.targets.push_back(has_next ? document.tokens[i + 1] : -1);
      result.weights.push_back(has_next ? document.weights[i + 1] : 0.0f);
      result.parts.push_back(has_next ? document.parts[i + 1] : TokenPart::kText);
      result.segment_start.push_back(begin);
    }
  }
  return result;
}

}  // namespace sluice
