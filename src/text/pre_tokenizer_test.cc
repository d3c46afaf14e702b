// The scanners against Oniguruma on the patterns they stand for, and the regular-expression path.
#include "text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "text/testing.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Pieces(const PreTokenizer& pre_tokenizer, std::string_view text) {
  std::vector<std::string> pieces;
  pre_tokenizer.ForEachPiece(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

std::vector<std::string> Pieces(std::string_view pattern, std::string_view text) {
  return Pieces(PreTokenizer({{std::string(pattern), true}}), text);
}

TEST(PreTokenizer, DefaultPattern) {
  EXPECT_THAT(Pieces(kDefaultPattern, ""), ElementsAre());
  EXPECT_THAT(Pieces(kDefaultPattern, "Hello world, it's 1234!"),
              ElementsAre("Hello", " world", ",", " it", "'s", " ", "1", "2", "3", "4", "!"));
  EXPECT_THAT(Pieces(kDefaultPattern, "f(x);\n\n  y = 1\n"),
              ElementsAre("f", "(x", ");\n\n", " ", " y", " =", " ", "1", "\n"));
  EXPECT_THAT(Pieces(kDefaultPattern, "a  \n \n  b   "), ElementsAre("a", "  \n \n", " ", " b", "   "));
  EXPECT_THAT(Pieces(kDefaultPattern, "I'LL 'x \u00E9t\u00E9 -- \tq"),
              ElementsAre("I", "'LL", " '", "x", " \u00E9t\u00E9", " --", " ", "\tq"));
}

TEST(PreTokenizer, Gpt2Pattern) {
  EXPECT_THAT(Pieces(kGpt2Pattern, "Hello world, it's 1234!"),
              ElementsAre("Hello", " world", ",", " it", "'s", " 1234", "!"));
  EXPECT_THAT(Pieces(kGpt2Pattern, "I'LL  go\n\n x "),
              ElementsAre("I", "'", "LL", " ", " go", "\n\n", " x", " "));
}

TEST(PreTokenizer, InvalidBytesAreSymbols) {
  for (const bool scan : {false, true}) {
    const PreTokenizer pre_tokenizer({{std::string(kDefaultPattern), true}}, scan);
    EXPECT_THAT(Pieces(pre_tokenizer, "ab\xFF\xE4 \xC3x"), ElementsAre("ab", "\xFF\xE4", " \xC3", "x"));
    EXPECT_THAT(Pieces(pre_tokenizer, "\xE4\xB8"), ElementsAre("\xE4\xB8"));
    EXPECT_THAT(Pieces(pre_tokenizer, "\xFFq"), ElementsAre("\xFFq"));
  }
}

class Scanner : public ::testing::TestWithParam<std::string_view> {
 protected:
  // Code points that Oniguruma's tables, perhaps older than utf8proc's, do not know yet, become 'x'.
  static std::string WithoutUnassigned(std::string_view text) {
    static const std::vector<bool> unassigned = [] {
      const Regex pattern(R"(\p{Cn})");
      std::vector<bool> table(0x110000);
      for (uint32_t c = 0x80; c < table.size(); ++c) {
        if (c >= 0xD800 && c <= 0xDFFF) continue;
        std::string encoded;
        AppendUtf8(c, &encoded);
        table[c] = pattern.Search(encoded, 0).has_value();
      }
      return table;
    }();
    std::string kept;
    while (!text.empty()) {
      const Utf8Char c = DecodeUtf8(text);
      const bool replace = c.status == Utf8Status::kValid && unassigned[c.code_point];
      kept += replace ? "x" : text.substr(0, c.length);
      text.remove_prefix(c.length);
    }
    return kept;
  }
  void ExpectEqual(const std::string& text) {
    const std::vector<std::string> scanned = Pieces(scanner_, text);
    ASSERT_EQ(scanned, Pieces(regex_, text)) << text;
    std::string joined;
    for (const std::string& piece : scanned) joined += piece;
    ASSERT_EQ(joined, text);
  }
  PreTokenizer scanner_{{{std::string(GetParam()), true}}, true};
  PreTokenizer regex_{{{std::string(GetParam()), true}}, false};
};

TEST_P(Scanner, EqualsOnigurumaOnFragments) {
  Random random(1);
  for (int i = 0; i < 5000; ++i) ExpectEqual(testing::RandomFragments(&random, 1 + random.Below(24)));
}

TEST_P(Scanner, EqualsOnigurumaOnRandomCodePoints) {
  Random random(2);
  for (int i = 0; i < 5000; ++i) {
    ExpectEqual(WithoutUnassigned(testing::RandomCodePoints(&random, 1 + random.Below(24))));
  }
}

TEST_P(Scanner, EqualsOnigurumaOnRandomBytes) {
  Random random(3);
  for (int i = 0; i < 5000; ++i)
    ExpectEqual(WithoutUnassigned(testing::RandomBytes(&random, 1 + random.Below(40))));
}

TEST_P(Scanner, EqualsOnigurumaOnEveryShortAsciiText) {
  constexpr std::string_view kAlphabet = " \n\ra1'sL.";
  for (size_t n = 0; n < 9 * 9 * 9 * 9 * 9; ++n) {
    std::string text;
    for (size_t rest = n; rest > 0; rest /= 9) text += kAlphabet[rest % 9];
    ExpectEqual(text);
  }
}

TEST_P(Scanner, EqualsOnigurumaOnEveryCodePoint) {
  std::string all;
  for (uint32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    // Of the large uniform blocks (ideographs, Hangul, private use, the higher planes) a sample.
    const bool uniform = (c >= 0x3400 && c < 0xA000) || (c >= 0xAC00 && c < 0xD700) ||
                         (c >= 0xE000 && c < 0xF900) || (c >= 0x20000 && c < 0xE0000) || c >= 0xE0200;
    if (uniform && c % 61 != 0) continue;
    all += " 'x";
    AppendUtf8(c, &all);
    all += "1\n";
    if (all.size() > 4000) {
      ExpectEqual(WithoutUnassigned(all));
      all.clear();
    }
  }
  ExpectEqual(WithoutUnassigned(all));
}

INSTANTIATE_TEST_SUITE_P(Patterns, Scanner, ::testing::Values(kGpt2Pattern, kDefaultPattern));

TEST(PreTokenizer, StepsApplyInOrder) {
  const PreTokenizer steps({{R"(\p{N}{1,3})", true}, {"[a-z]+", true}});
  EXPECT_THAT(Pieces(steps, "ab12345CDef"), ElementsAre("ab", "123", "45", "CD", "ef"));
}

TEST(PreTokenizer, GapsCanBeDropped) {
  EXPECT_THAT(Pieces(PreTokenizer({{"[a-z]+", false}}), "--ab--cd-"), ElementsAre("ab", "cd"));
  EXPECT_THAT(Pieces(PreTokenizer({{"[a-z]+", true}}), "--ab--cd-"),
              ElementsAre("--", "ab", "--", "cd", "-"));
}

TEST(PreTokenizer, EmptyMatchesEndAndLoseNothing) {
  EXPECT_THAT(Pieces("x*", "a\u00E9xxb"), ElementsAre("a", "\u00E9", "xx", "b"));
  EXPECT_THAT(Pieces("(?=b)", "abb"), ElementsAre("a", "b", "b"));
}

TEST(PreTokenizer, BadPatternIsAnInputError) {
  EXPECT_THROW(PreTokenizer({{"(", true}}), InputError);
}

}  // namespace
}  // namespace sluice
