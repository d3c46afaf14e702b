// UTF-8 by the letter of Unicode 15, section 3.9: no overlong forms, no surrogates, nothing above
// U+10FFFF. Text from outside is bytes: what is not valid is reported with its place, or replaced.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

enum class Utf8Status : uint8_t {
  kValid,
  kInvalid,     // No continuation of the text can make it valid.
  kIncomplete,  // The text ends inside a sequence that is valid so far.
};

// One code point at the start of a text. For anything but kValid, `code_point` is U+FFFD and `length`
// the maximal subpart: the longest prefix of a valid sequence that is there, at least 1.
struct Utf8Char {
  uint32_t code_point;
  uint32_t length;
  Utf8Status status;
};

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// REQUIRES: text is not empty.
Utf8Char DecodeUtf8(std::string_view text);

// Appends the encoding of a code point. REQUIRES: code_point <= 0x10FFFF and not a surrogate.
void AppendUtf8(uint32_t code_point, std::string* out);

// Offset of the first byte that is not part of a valid sequence; nothing if the text is valid.
std::optional<size_t> ValidateUtf8(std::string_view text);

// The text with U+FFFD in place of every maximal invalid subpart.
std::string SanitizeUtf8(std::string_view text);

}  // namespace sluice
