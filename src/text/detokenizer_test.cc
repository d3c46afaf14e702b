// Whatever the tokens, what comes out piece by piece is valid, and joined it is the sanitised text.
#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "text/bpe_trainer.h"
#include "text/testing.h"
#include "text/utf8.h"

namespace sluice {
namespace {

Tokenizer MakeTokenizer() {
  BpeTrainer trainer({.vocab_size = 300, .special_tokens = {"<|end|>"}, .show_progress = false});
  // Merges that join halves of characters: "\xE4\xB8" and "\x9F\x9A".
  for (int i = 0; i < 50; ++i)
    trainer.AddDocument("the \u4E2D\u4E2E\u4E2F \U0001F680\U0001F681 caf\u00E9 the");
  return trainer.Train();
}

int32_t ByteToken(const Tokenizer& tokenizer, char byte) {
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.TokenBytes(id) == std::string_view(&byte, 1)) return id;
  }
  return -1;
}

std::string Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens) {
  Detokenizer detokenizer(tokenizer);
  std::string joined;
  for (const int32_t token : tokens) {
    const std::string text = detokenizer.Push(token);
    EXPECT_EQ(ValidateUtf8(text), std::nullopt);
    joined += text;
  }
  return joined + detokenizer.Finish();
}

TEST(Detokenizer, BytesComeOutAsSoonAsTheCharacterIsWhole) {
  const Tokenizer tokenizer = MakeTokenizer();
  Detokenizer detokenizer(tokenizer);
  const std::string text = "a\u00E9\u4E2D\U0001F680b";
  std::vector<std::string> pushed;
  for (const char byte : text) pushed.push_back(detokenizer.Push(ByteToken(tokenizer, byte)));
  const std::vector<std::string> expected = {"a", "", "\u00E9", "",           "", "\u4E2D",
                                             "",  "", "",       "\U0001F680", "b"};
  EXPECT_EQ(pushed, expected);
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(Detokenizer, EverySplitPoint) {
  const Tokenizer tokenizer = MakeTokenizer();
  const std::string text = "the caf\u00E9 \u4E2D\U0001F680 is \u4E2E.";
  for (size_t split = 0; split <= text.size(); ++split) {
    std::vector<int32_t> tokens = tokenizer.Encode(text.substr(0, split));
    const std::vector<int32_t> rest = tokenizer.Encode(text.substr(split));
    tokens.insert(tokens.end(), rest.begin(), rest.end());
    EXPECT_EQ(Stream(tokenizer, tokens), text) << split;
  }
}

TEST(Detokenizer, RandomTokensGiveTheSanitisedText) {
  const Tokenizer tokenizer = MakeTokenizer();
  Random random(1);
  for (int i = 0; i < 5000; ++i) {
    std::vector<int32_t> tokens;
    for (uint64_t n = random.Below(20); n > 0; --n) {
      tokens.push_back(static_cast<int32_t>(random.Below(static_cast<uint64_t>(tokenizer.vocab_size()))));
    }
    EXPECT_EQ(Stream(tokenizer, tokens), SanitizeUtf8(tokenizer.Decode(tokens)));
    const std::vector<int32_t> bytes = tokenizer.Encode(testing::RandomBytes(&random, random.Below(30)));
    EXPECT_EQ(Stream(tokenizer, bytes), SanitizeUtf8(tokenizer.Decode(bytes)));
  }
}

TEST(Detokenizer, FinishFlushesAndStartsAnew) {
  const Tokenizer tokenizer = MakeTokenizer();
  Detokenizer detokenizer(tokenizer);
  EXPECT_EQ(detokenizer.Push(ByteToken(tokenizer, '\xE4')), "");
  EXPECT_EQ(detokenizer.Finish(), "\uFFFD");
  EXPECT_EQ(detokenizer.Finish(), "");
  EXPECT_EQ(detokenizer.Push(ByteToken(tokenizer, '\xE4')), "");
  EXPECT_EQ(detokenizer.Push(ByteToken(tokenizer, 'x')), "\uFFFDx");
}

TEST(Detokenizer, SpecialTokensAreShownOrSkipped) {
  const Tokenizer tokenizer = MakeTokenizer();
  const int32_t end = tokenizer.SpecialToken("<|end|>").value();
  EXPECT_EQ(Detokenizer(tokenizer).Push(end), "<|end|>");
  EXPECT_EQ(Detokenizer(tokenizer, /*skip_special=*/true).Push(end), "");
  EXPECT_THROW(Detokenizer(tokenizer).Push(tokenizer.vocab_size()), InputError);
  EXPECT_THROW(Detokenizer(tokenizer, true).Push(-1), InputError);
}

}  // namespace
}  // namespace sluice
