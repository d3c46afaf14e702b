// Training documents: real text, and tasks made from real text that teach a model to find and copy.
//
//   text       a span of the corpus
//   retrieval  a span with facts planted in it, some asked for afterwards; facts come in groups that
//              are alike, so that the model must read the whole phrase (train/facts.h)
//   quote      a span, then a few of its words; the answer is how the text went on
//   repeat     a passage, of text or of random tokens, over and over: the plainest copying task, which
//              teaches a fresh model to look up what followed the last time
//
// Row r of step s is a pure function of (seed, s, r): a resumed run sees the same data.
#pragma once

#include <cstdint>
#include <vector>

#include "text/tokenizer.h"
#include "train/facts.h"
#include "train/text_corpus.h"
#include "train/train_config.h"

namespace sluice {

// What a token belongs to, for the figures of the log.
enum class TokenPart : uint8_t { kText, kAnswer, kRepeat };

// One row of a batch. All vectors have one entry per token.
struct TrainingRow {
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;        // The next token; -1 at a document's end.
  std::vector<float> weights;          // Loss weight of the target.
  std::vector<int32_t> segment_start;  // Index, within the row, of the document's first token.
  std::vector<TokenPart> parts;        // Of the target.
};

class DocumentSampler {
 public:
  // All referenced objects outlive the sampler.
  DocumentSampler(const TrainConfig& config, const Corpus& corpus, const Tokenizer& tokenizer);

  // A row of `length` tokens, of the stage's mix.
  TrainingRow Row(const StageConfig& stage, int64_t length, int64_t step, int64_t row) const;

 private:
  struct Document;

  Document Text(Random& random, int64_t length) const;
  Document Retrieval(Random& random, int64_t length, double answer_weight) const;
  Document Quote(Random& random, int64_t length, double answer_weight) const;
  Document Repeat(Random& random, int64_t length) const;
  // Puts <|user|> question <|assistant|> answer <|endoftext|> behind a document.
  void AddRound(const std::vector<int32_t>& question, const std::vector<int32_t>& answer,
                double answer_weight, Document& document) const;

  const TrainConfig& config_;
  const Corpus& corpus_;
  const Tokenizer& tokenizer_;
  std::vector<uint8_t> ends_sentence_;  // Per token id: a fact may be planted behind it.
};

}  // namespace sluice
