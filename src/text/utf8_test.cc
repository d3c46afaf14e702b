// UTF-8 validation against the table of the standard, and replacement by maximal subparts.
#include "text/utf8.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "text/testing.h"
#include "text/unicode.h"

namespace sluice {
namespace {

TEST(Utf8, EveryCodePointRoundTrips) {
  for (uint32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, &text);
    const Utf8Char decoded = DecodeUtf8(text);
    ASSERT_EQ(decoded.status, Utf8Status::kValid) << c;
    ASSERT_EQ(decoded.code_point, c);
    ASSERT_EQ(decoded.length, text.size());
    for (size_t cut = 1; cut < text.size(); ++cut) {
      ASSERT_EQ(DecodeUtf8(std::string_view(text).substr(0, cut)).status, Utf8Status::kIncomplete) << c;
    }
  }
}

TEST(Utf8, SurrogatesAndLargeValuesCannotBeWritten) {
  std::string text;
  EXPECT_THROW(AppendUtf8(0xD800, &text), Bug);
  EXPECT_THROW(AppendUtf8(0x110000, &text), Bug);
}

TEST(Utf8, ValidateNamesTheFirstBadByte) {
  EXPECT_EQ(ValidateUtf8(""), std::nullopt);
  EXPECT_EQ(ValidateUtf8("plain text, longer than eight bytes"), std::nullopt);
  EXPECT_EQ(ValidateUtf8("caf\u00E9 \u4E2D\U0001F680"), std::nullopt);
  EXPECT_EQ(ValidateUtf8(std::string_view("a\0b", 3)), std::nullopt);
  EXPECT_EQ(ValidateUtf8("12345678901234\xFF"), 14u);
  EXPECT_EQ(ValidateUtf8("ab\x80"), 2u);            // A continuation alone.
  EXPECT_EQ(ValidateUtf8("ab\xC0\xAF"), 2u);        // Overlong.
  EXPECT_EQ(ValidateUtf8("\xE0\x80\xAF"), 0u);      // Overlong.
  EXPECT_EQ(ValidateUtf8("\xED\xA0\x80"), 0u);      // A surrogate.
  EXPECT_EQ(ValidateUtf8("\xF4\x90\x80\x80"), 0u);  // Above U+10FFFF.
  EXPECT_EQ(ValidateUtf8("x\xF0\x9F\x9A"), 1u);     // Cut short.
  EXPECT_EQ(ValidateUtf8("\xF0\x80\x80\x80"), 0u);  // Overlong.
  EXPECT_EQ(ValidateUtf8("\xE4\xB8\xADx\xE4"), 4u);
}

// The example of the Unicode standard, table 3-8.
TEST(Utf8, SanitizeReplacesMaximalSubparts) {
  EXPECT_EQ(SanitizeUtf8("a\xF1\x80\x80\xE1\x80\xC2"
                         "b\x80"
                         "c\x80\xBF"
                         "d"),
            "a\uFFFD\uFFFD\uFFFD"
            "b\uFFFD"
            "c\uFFFD\uFFFD"
            "d");
  EXPECT_EQ(SanitizeUtf8("\xC0\xAF"), "\uFFFD\uFFFD");
  EXPECT_EQ(SanitizeUtf8("ok \xE4\xB8"), "ok \uFFFD");
}

TEST(Utf8, SanitizedTextIsValidAndValidTextIsKept) {
  Random random(1);
  for (int i = 0; i < 2000; ++i) {
    EXPECT_EQ(ValidateUtf8(SanitizeUtf8(testing::RandomBytes(&random, random.Below(40)))), std::nullopt);
    const std::string valid = testing::RandomCodePoints(&random, random.Below(20));
    EXPECT_EQ(SanitizeUtf8(valid), valid);
  }
}

TEST(Unicode, NfcComposesAndKeepsInvalidBytes) {
  EXPECT_EQ(NormalizeNfc("abc"), "abc");
  EXPECT_EQ(NormalizeNfc("e\u0301"), "\u00E9");
  EXPECT_EQ(NormalizeNfc("\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(NormalizeNfc("\u212B"), "\u00C5");
  EXPECT_EQ(NormalizeNfc("e\u0301\xFF\xE4"
                         "e\u0301"),
            "\u00E9\xFF\xE4\u00E9");
  EXPECT_EQ(NormalizeNfc(std::string_view("e\u0301\0e\u0301", 7)), std::string_view("\u00E9\0\u00E9", 5));
}

TEST(Unicode, Classes) {
  EXPECT_EQ(ClassOf('\n'), CharClass::kNewline);
  EXPECT_EQ(ClassOf('\r'), CharClass::kNewline);
  for (const uint32_t c : {0x09u, 0x0Bu, 0x20u, 0x85u, 0xA0u, 0x1680u, 0x2028u, 0x3000u}) {
    EXPECT_EQ(ClassOf(c), CharClass::kSpace) << c;
  }
  for (const uint32_t c : {0x41u, 0xAAu, 0x1C5u, 0x2B0u, 0x4E2Du, 0x1D49Cu}) {
    EXPECT_EQ(ClassOf(c), CharClass::kLetter) << c;
  }
  for (const uint32_t c : {0x30u, 0xBDu, 0x663u, 0x2167u, 0x1D7CEu})
    EXPECT_EQ(ClassOf(c), CharClass::kNumber) << c;
  for (const uint32_t c : {0x00u, 0x21u, 0x5Fu, 0x301u, 0x200Bu, 0xFFFDu, 0x1F680u}) {
    EXPECT_EQ(ClassOf(c), CharClass::kOther) << c;
  }
  for (uint32_t c = 0; c < 0x10000; ++c) ASSERT_EQ(BmpClasses()[c], ClassOf(c));
}

}  // namespace
}  // namespace sluice
