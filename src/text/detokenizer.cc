// Only the end of the text can be unfinished: everything before it is decided by SanitizeUtf8.
#include "text/detokenizer.h"

#include <algorithm>
#include <utility>

#include "text/utf8.h"

namespace sluice {
namespace {

// Where an unfinished sequence at the end of the text begins; its size if there is none.
size_t UnfinishedBegin(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const size_t begin = text.size() - back;
    if ((static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) continue;  // Inside a sequence.
    return DecodeUtf8(text.substr(begin)).status == Utf8Status::kIncomplete ? begin : text.size();
  }
  return text.size();
}

}  // namespace

std::string Detokenizer::Push(int32_t token) {
  const std::string_view bytes = tokenizer_.TokenBytes(token);
  if (skip_special_ && tokenizer_.IsSpecial(token)) return "";
  pending_ += bytes;
  const size_t begin = UnfinishedBegin(pending_);
  std::string text = SanitizeUtf8(std::string_view(pending_).substr(0, begin));
  pending_.erase(0, begin);
  return text;
}

std::string Detokenizer::Finish() {
  return SanitizeUtf8(std::exchange(pending_, std::string()));
}

}  // namespace sluice
