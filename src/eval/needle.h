// Needles in haystacks: facts that training never saw, hidden in real text at ten depths and asked for.
//
// A document of `length` tokens (question and answer included) carries ten needles, one per depth 5%,
// 15% … 95%, each from a group of its own with `distractors` alike facts planted at random depths. It is
// read once; every question continues from the same prefix. The answer is greedy. It is right if it
// contains the value, not as a part of a longer word or number.
//
// From six distractors on, a group is one attribute of different subjects: with seven, multi-key needles,
// eight alike and one asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/guarantee_figures.h"
#include "engine/session.h"
#include "eval/haystack.h"

namespace sluice {

struct NeedleOptions {
  static constexpr int64_t kDepths = 10;

  std::vector<int64_t> lengths = {4096, 16384, 65536, 131072};
  int64_t needles = 100;  // Per length; rounded up to whole documents of ten.
  int64_t distractors = 3;
  uint64_t seed = 1;
  SessionOptions session;  // `capacity` is set per length.
  int64_t max_answer_tokens = 64;
};

struct NeedleTrial {
  int64_t length = 0;
  int64_t document = 0;
  int64_t depth_idx = 0;
  int64_t position = 0;  // Depth in tokens, before the sentence's end is looked for.
  std::string question;
  std::string value;
  std::string answer;
  bool correct = false;
};

struct NeedleResult {
  NeedleOptions options;
  std::vector<NeedleTrial> trials;
  double seconds = 0;
  std::optional<GuaranteeFigures> guarantee;  // Where one was asked for.

  // Share of right answers at a length; at a length and depth (depth_idx >= 0).
  double Accuracy(int64_t length, int64_t depth_idx = -1) const;
};

// The document numbered `document_idx` of a length: a pure function of its arguments.
struct NeedleDocument {
  std::vector<int32_t> tokens;  // <|document|> and text
  std::vector<Fact> needles;    // By depth.
  std::vector<Fact> distractors;
};
NeedleDocument MakeNeedleDocument(const Tokenizer& tokenizer, const Haystack& haystack,
                                  const NeedleOptions& options, int64_t length, int64_t document_idx);

// `on_trial` is told about every answer as it comes, `progress` about (done, total) tokens of documents;
// either may be absent. Throws InputError if a length does not fit the model's context or is too short for
// ten needles.
NeedleResult RunNeedles(const Engine& engine, const Haystack& haystack, const NeedleOptions& options,
                        const std::function<void(const NeedleTrial&)>& on_trial = {},
                        const Session::Progress& progress = {});

// Lengths and depths at which `sparse` finds fewer than `dense`, run on the same documents.
struct NeedleLoss {
  int64_t length = 0;
  int64_t depth_idx = 0;
  double sparse = 0;  // Shares of right answers.
  double dense = 0;
};
std::vector<NeedleLoss> NeedleLosses(const NeedleResult& sparse, const NeedleResult& dense);

// True if `value` stands in `text` between characters that are no letters or digits.
bool ContainsValue(const std::string& text, const std::string& value);

// Depth of column `depth_idx`, in (0, 1).
double NeedleDepth(int64_t depth_idx);

// A table of percentages: a row per length and way of attending, a column per depth and one for all depths.
// Where there are both ways, then the places where sparse attention finds fewer.
std::string NeedleTable(const std::vector<NeedleResult>& results);
// {"seed", "needles", "distractors", "top_k", "depths": [..], "results": [{"attention", "seconds",
//  "lengths": [{"length", "accuracy", "by_depth": [..]}], "trials": [{"length", "document", "depth",
//  "position", "question", "value", "answer", "correct"}]}]}, and where there are both ways
//  "sparse_below_dense": [{"length", "depth", "sparse", "dense"}]; accuracies are shares in [0, 1].
// REQUIRES: at least one result, all of the same documents.
nlohmann::ordered_json NeedleJson(const std::vector<NeedleResult>& results);

}  // namespace sluice
