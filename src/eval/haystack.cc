#include "eval/haystack.h"

#include <algorithm>

namespace sluice {

namespace {

// The furthest a planting is moved to reach the end of a sentence.
constexpr size_t kMostTokensMoved = 96;

}  // namespace

Haystack::Haystack(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    const std::vector<int32_t> tokens = tokenizer.Encode(text);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  }
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.TokenBytes(id);
    ends_sentence_.push_back(!bytes.empty() && (bytes.back() == '.' || bytes.back() == '\n'));
  }
}

std::vector<int32_t> Haystack::Slice(int64_t begin, int64_t length) const {
  std::vector<int32_t> slice;
  slice.reserve(static_cast<size_t>(length));
  for (int64_t i = 0; i < length; ++i)
    slice.push_back(tokens_[static_cast<size_t>((begin + i) % num_tokens())]);
  return slice;
}

std::vector<int32_t> Plant(const Haystack& haystack, const std::vector<int32_t>& text,
                           std::vector<Planting> plantings) {
  std::stable_sort(plantings.begin(), plantings.end(),
                   [](const Planting& a, const Planting& b) { return a.depth < b.depth; });
  std::vector<int32_t> document;
  size_t begin = 0;
  for (const Planting& planting : plantings) {
    auto place = static_cast<size_t>(planting.depth * static_cast<double>(text.size()));
    place = std::clamp(place, begin, text.size());
    const size_t limit = std::min(place + kMostTokensMoved, text.size());
    while (place < limit && !(place > 0 && haystack.EndsSentence(text[place - 1]))) ++place;
    document.insert(document.end(), text.begin() + static_cast<std::ptrdiff_t>(begin),
                    text.begin() + static_cast<std::ptrdiff_t>(place));
    document.insert(document.end(), planting.tokens.begin(), planting.tokens.end());
    begin = place;
  }
  document.insert(document.end(), text.begin() + static_cast<std::ptrdiff_t>(begin), text.end());
  return document;
}

}  // namespace sluice
