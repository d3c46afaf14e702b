// Random text for the tests of this folder: plain bytes, and adversarial mixtures of what the
// pre-tokenizer patterns tell apart.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/random.h"
#include "text/utf8.h"

namespace sluice::testing {

inline std::string RandomBytes(Random* random, size_t size) {
  std::string bytes;
  while (bytes.size() < size) bytes.push_back(static_cast<char>(random->Below(256)));
  return bytes;
}

// Valid UTF-8: apostrophes in every position, white space of all kinds, letters, marks, digits,
// symbols of one to four bytes.
inline std::string RandomFragments(Random* random, size_t num_fragments) {
  static constexpr std::string_view kFragments[] = {"'s",
                                                    "'S",
                                                    "'t",
                                                    "'ll",
                                                    "'LL",
                                                    "'Re",
                                                    "'ve",
                                                    "'m",
                                                    "'D",
                                                    "'l",
                                                    "'r",
                                                    "'\u017F",
                                                    "'",
                                                    "'\u212A",
                                                    " ",
                                                    "  ",
                                                    "\n",
                                                    "\r\n",
                                                    "\r",
                                                    "\t",
                                                    "\v",
                                                    "\u00A0",
                                                    "\u3000",
                                                    "\u2028",
                                                    "\u0085",
                                                    "\u1680",
                                                    "\u200B",
                                                    "a",
                                                    "B",
                                                    "\u00E9",
                                                    "\u4E2D",
                                                    "\u6587",
                                                    "1",
                                                    "23",
                                                    "\u0663",
                                                    "\u00BD",
                                                    "\u2167",
                                                    "!",
                                                    "...",
                                                    "$",
                                                    "-",
                                                    "_",
                                                    "\u20AC",
                                                    "\u2014",
                                                    "\U0001F680",
                                                    "\u0301",
                                                    "\u200D",
                                                    "e\u0301",
                                                    "\uFB01",
                                                    "\uFEFF",
                                                    "Don",
                                                    "WORLD",
                                                    "\x1A",
                                                    "\x7F",
                                                    "\u01C5",
                                                    "\u02B0",
                                                    "\u00AA",
                                                    "\u0903",
                                                    "\U0001D49C",
                                                    "\U00010348",
                                                    "\uFFFD",
                                                    "\u180E",
                                                    "\U000E0001",
                                                    "{\n",
                                                    ";\n\n",
                                                    " \n \n a",
                                                    "\u00DFss",
                                                    "  \u2029\n\t",
                                                    "<|endoftext|>"};
  std::string text;
  for (size_t i = 0; i < num_fragments; ++i) text += kFragments[random->Below(std::size(kFragments))];
  return text;
}

// Any code points but surrogates, half of them below U+0300.
inline std::string RandomCodePoints(Random* random, size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    static constexpr uint64_t kLimits[] = {0x80, 0x300, 0x10000, 0x110000};
    auto code_point = static_cast<uint32_t>(random->Below(kLimits[random->Below(4)]));
    if (code_point >= 0xD800 && code_point <= 0xDFFF) code_point = 'x';
    AppendUtf8(code_point, &text);
  }
  return text;
}

}  // namespace sluice::testing
