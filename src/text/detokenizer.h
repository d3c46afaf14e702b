// Tokens to text as they come. A character may be spread over several tokens, so what Push returns
// is always whole, valid UTF-8; an unfinished sequence waits for its rest.
//   all that Push and Finish returned, joined == SanitizeUtf8(Decode(tokens))
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace sluice {

class Detokenizer {
 public:
  // With `skip_special`, special tokens add nothing to the text.
  explicit Detokenizer(Tokenizer tokenizer, bool skip_special = false)
      : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

  // The text that this token completes, possibly empty. Bytes that can no longer become valid come
  // out as U+FFFD. Throws InputError on an unknown id.
  std::string Push(int32_t token);

  // The rest: an unfinished sequence becomes U+FFFD. Ready for another text afterwards.
  std::string Finish();

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  std::string pending_;  // At most three bytes between calls: a valid sequence's beginning.
};

}  // namespace sluice
