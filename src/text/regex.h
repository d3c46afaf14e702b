// One compiled Oniguruma pattern (Ruby syntax, UTF-8), as Hugging Face tokenizers use: look-ahead and
// Unicode properties. Immutable after construction; any number of threads may search with it.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

struct RegexMatch {
  size_t begin;
  size_t end;
};

class Regex {
 public:
  // Throws InputError with Oniguruma's own message if the pattern is not valid.
  explicit Regex(const std::string& pattern);

  // The leftmost match that begins at or after `start`. REQUIRES: text is valid UTF-8 (Oniguruma may
  // read past the end of anything else). Throws InputError if the search gives up (retry limit).
  std::optional<RegexMatch> Search(std::string_view text, size_t start) const;

  const std::string& pattern() const { return pattern_; }

 private:
  std::string pattern_;
  std::shared_ptr<void> compiled_;
};

}  // namespace sluice
