// \s is the White_Space property, which general categories give but for the controls U+0009..U+000D
// and U+0085.
#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "base/check.h"

namespace sluice {

CharClass ClassOf(uint32_t code_point) {
  if (code_point == '\r' || code_point == '\n') return CharClass::kNewline;
  if ((code_point >= 0x09 && code_point <= 0x0D) || code_point == 0x85) return CharClass::kSpace;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::kNumber;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharClass::kSpace;
    default:
      return CharClass::kOther;
  }
}

const CharClass* BmpClasses() {
  static const std::vector<CharClass> table = [] {
    std::vector<CharClass> classes(0x10000);
    for (uint32_t c = 0; c < classes.size(); ++c) classes[c] = ClassOf(c);
    return classes;
  }();
  return table.data();
}

namespace {

void AppendNfc(std::string_view valid, std::string* out) {
  if (std::all_of(valid.begin(), valid.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; })) {
    out->append(valid);
    return;
  }
  utf8proc_uint8_t* raw = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(valid.data()), static_cast<utf8proc_ssize_t>(valid.size()),
      &raw, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(raw, &std::free);
  if (size == UTF8PROC_ERROR_NOMEM) throw std::bad_alloc();
  SLUICE_CHECK_GE(size, 0);
  out->append(reinterpret_cast<const char*>(raw), static_cast<size_t>(size));
}

}  // namespace

std::string NormalizeNfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t valid = ValidateUtf8(text).value_or(text.size());
    if (valid > 0) AppendNfc(text.substr(0, valid), &out);
    text.remove_prefix(valid);
    if (text.empty()) break;
    out.push_back(text[0]);
    text.remove_prefix(1);
  }
  return out;
}

}  // namespace sluice
