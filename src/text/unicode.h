// The character classes that pre-tokenizer patterns speak of (\p{L}, \p{N}, \s and line ends), and
// normalisation form C. Categories come from utf8proc; the Basic Multilingual Plane is tabulated once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "text/utf8.h"

namespace sluice {

// Exactly one class per code point. kNewline is \r or \n: they are white space as well.
enum class CharClass : uint8_t { kOther, kLetter, kNumber, kSpace, kNewline };

// A character of a text that may hold any bytes: an invalid byte is one character of class kOther.
struct ClassifiedChar {
  CharClass char_class;
  uint32_t length;
};

// Classes of U+0000 .. U+FFFF.
const CharClass* BmpClasses();

CharClass ClassOf(uint32_t code_point);

// REQUIRES: text is not empty.
inline ClassifiedChar ClassifyFirst(const CharClass* bmp_classes, std::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  if (first < 0x80) [[likely]]
    return {bmp_classes[first], 1};
  const Utf8Char c = DecodeUtf8(text);
  if (c.status != Utf8Status::kValid) return {CharClass::kOther, 1};
  return {c.code_point < 0x10000 ? bmp_classes[c.code_point] : ClassOf(c.code_point), c.length};
}

// Unicode normalisation form C. Invalid bytes are kept as they are, and end the text before them.
std::string NormalizeNfc(std::string_view text);

}  // namespace sluice
