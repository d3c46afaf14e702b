// The only file that includes Oniguruma. Compilation is serialised; searching is not.
#include "text/regex.h"

#include <oniguruma.h>

#include <mutex>

#include "base/error.h"

namespace sluice {
namespace {

const OnigUChar* Bytes(const char* text) {
  return reinterpret_cast<const OnigUChar*>(text);
}

std::string OnigMessage(int code, OnigErrorInfo* info) {
  OnigUChar buffer[ONIG_MAX_ERROR_MESSAGE_LEN] = {};
  const int length =
      info != nullptr ? onig_error_code_to_str(buffer, code, info) : onig_error_code_to_str(buffer, code);
  return std::string(reinterpret_cast<char*>(buffer), static_cast<size_t>(length));
}

// Compilation touches tables shared by the process.
std::mutex compile_mutex;

}  // namespace

Regex::Regex(const std::string& pattern) : pattern_(pattern) {
  const std::lock_guard lock(compile_mutex);
  OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
  onig_initialize(encodings, 1);
  regex_t* regex = nullptr;
  OnigErrorInfo info = {};
  const char* data = pattern.data();
  const int code = onig_new(&regex, Bytes(data), Bytes(data + pattern.size()), ONIG_OPTION_NONE,
                            ONIG_ENCODING_UTF8, ONIG_SYNTAX_RUBY, &info);
  if (code != ONIG_NORMAL) {
    throw InputError("the regular expression \"{}\" is not valid: {}", pattern, OnigMessage(code, &info));
  }
  compiled_ = std::shared_ptr<void>(regex, [](void* p) { onig_free(static_cast<regex_t*>(p)); });
}

std::optional<RegexMatch> Regex::Search(std::string_view text, size_t start) const {
  const std::unique_ptr<OnigRegion, void (*)(OnigRegion*)> region(
      onig_region_new(), [](OnigRegion* r) { onig_region_free(r, 1); });
  const OnigUChar* end = Bytes(text.data() + text.size());
  const auto result = onig_search(static_cast<regex_t*>(compiled_.get()), Bytes(text.data()), end,
                                  Bytes(text.data() + start), end, region.get(), ONIG_OPTION_NONE);
  if (result == ONIG_MISMATCH) return std::nullopt;
  if (result < 0) {
    throw InputError("the regular expression \"{}\" gave up at byte {} of a text of {} bytes: {}", pattern_,
                     start, text.size(), OnigMessage(static_cast<int>(result), nullptr));
  }
  return RegexMatch{static_cast<size_t>(region->beg[0]), static_cast<size_t>(region->end[0])};
}

}  // namespace sluice
