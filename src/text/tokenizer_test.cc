// Encoding and decoding: exact merges on a hand-made vocabulary, the round trip of any bytes, special
// tokens, long pieces, threads.
#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "base/error.h"
#include "text/bpe.h"
#include "text/bpe_trainer.h"
#include "text/testing.h"
#include "text/tokenizer_json.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

// Bytes are ids 0..255; then the merges, in order of rank; then added tokens.
TokenizerParts MakeParts(const std::vector<std::pair<std::string, std::string>>& merges,
                         std::string_view pattern = kDefaultPattern) {
  TokenizerParts parts;
  for (size_t b = 0; b < 256; ++b) {
    parts.byte_ids[b] = static_cast<int32_t>(b);
    parts.token_bytes.emplace_back(1, static_cast<char>(b));
  }
  const auto id_of = [&](const std::string& bytes) {
    const auto it = std::find(parts.token_bytes.begin(), parts.token_bytes.end(), bytes);
    return static_cast<int32_t>(it - parts.token_bytes.begin());
  };
  for (const auto& [left, right] : merges) {
    const int32_t result = id_of(left + right);
    if (result == static_cast<int32_t>(parts.token_bytes.size())) parts.token_bytes.push_back(left + right);
    parts.merges.push_back({id_of(left), id_of(right), result});
  }
  parts.vocab_keys.assign(parts.token_bytes.size(), VocabKey::kByteLevel);
  SetByteLevelPattern(pattern, &parts);
  return parts;
}

void AddToken(const std::string& content, bool special, TokenizerParts* parts) {
  const auto id = static_cast<int32_t>(parts->token_bytes.size());
  parts->added_tokens.push_back({id, content, special, false});
  parts->token_bytes.push_back(content);
  parts->vocab_keys.push_back(VocabKey::kAbsent);
}

std::vector<std::string> Split(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::string> tokens;
  for (const int32_t id : tokenizer.Encode(text)) tokens.emplace_back(tokenizer.TokenBytes(id));
  return tokens;
}

Tokenizer TrainedTokenizer() {
  BpeTrainer trainer({.vocab_size = 600, .special_tokens = {"<|end|>", "<|en"}, .show_progress = false});
  Random random(7);
  for (int i = 0; i < 300; ++i) trainer.AddDocument(testing::RandomFragments(&random, 60));
  return trainer.Train();
}

TEST(Tokenizer, LowestRankFirstThenLeftmost) {
  const Tokenizer tokenizer =
      Tokenizer::FromParts(MakeParts({{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"a", "a"}}));
  EXPECT_THAT(Split(tokenizer, "abc"), ElementsAre("abc"));
  EXPECT_THAT(Split(tokenizer, "abab"), ElementsAre("ab", "ab"));
  EXPECT_THAT(Split(tokenizer, "aabc"), ElementsAre("a", "abc"));
  EXPECT_THAT(Split(tokenizer, "aaaaa"), ElementsAre("aa", "aa", "a"));
  EXPECT_THAT(Split(tokenizer, "ab bc"), ElementsAre("ab", " ", "bc"));  // Not across pieces.
  EXPECT_THAT(Split(tokenizer, ""), ElementsAre());
}

TEST(Tokenizer, RoundTripOfAnyBytes) {
  const Tokenizer tokenizer = TrainedTokenizer();
  Random random(1);
  for (int i = 0; i < 5000; ++i) {
    const std::string bytes = testing::RandomBytes(&random, random.Below(100));
    ASSERT_EQ(tokenizer.Decode(tokenizer.Encode(bytes)), bytes);
    const std::string text = testing::RandomFragments(&random, random.Below(40));
    ASSERT_EQ(tokenizer.Decode(tokenizer.Encode(text)), text);
    ASSERT_EQ(tokenizer.Decode(tokenizer.Encode(text, true)), text);
  }
}

TEST(Tokenizer, PiecesOfEveryLengthEncodeAlikeCachedOrNot) {
  const Tokenizer tokenizer = TrainedTokenizer();
  for (size_t n = 0; n < 200; ++n) {
    const std::string text = std::string(n, '!') + "a";
    const std::vector<int32_t> fresh = tokenizer.Encode(text);
    EXPECT_EQ(tokenizer.Encode(text), fresh);
    // Followed by more text, the piece is read in another way (16 bytes at a time).
    const std::vector<int32_t> longer = tokenizer.Encode(text + "!!!!!!!!!!!!!!!!!!!!!!!");
    ASSERT_GE(longer.size(), fresh.size());
    EXPECT_TRUE(std::equal(fresh.begin(), fresh.end(), longer.begin())) << n;
    EXPECT_EQ(tokenizer.Decode(fresh), text);
  }
}

TEST(Tokenizer, PiecesThatDifferOnlyInZeroBytesAreTold) {
  const Tokenizer tokenizer = TrainedTokenizer();
  for (size_t n = 1; n < 15; ++n) {
    const std::string zeros(n, '\0');
    EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(zeros)), zeros);
    EXPECT_EQ(tokenizer.Decode(tokenizer.Encode("!" + zeros)), "!" + zeros);
  }
}

// The queue of long pieces and the scan of short ones are two programs for one result.
TEST(BpeMerger, LongPiecesMergeAsShortOnes) {
  const std::vector<std::pair<std::string, std::string>> merges = {{"a", "b"},    {"b", "a"},   {"a", "a"},
                                                                   {"aa", "b"},   {"ab", "ab"}, {"aa", "aa"},
                                                                   {"abab", "a"}, {"ba", "b"}};
  const TokenizerParts parts = MakeParts(merges);
  const BpeMerger merger(parts.merges, parts.byte_ids);
  // Rank by rank, leftmost first, by the definition.
  const auto by_definition = [&](std::string_view piece) {
    std::vector<int32_t> tokens;
    for (const char c : piece) tokens.push_back(parts.byte_ids[static_cast<uint8_t>(c)]);
    while (true) {
      size_t best_rank = parts.merges.size(), best = 0;
      for (size_t i = 0; i + 1 < tokens.size(); ++i) {
        for (size_t rank = 0; rank < best_rank; ++rank) {
          if (parts.merges[rank].left == tokens[i] && parts.merges[rank].right == tokens[i + 1]) {
            best_rank = rank;
            best = i;
          }
        }
      }
      if (best_rank == parts.merges.size()) return tokens;
      tokens[best] = parts.merges[best_rank].result;
      tokens.erase(tokens.begin() + static_cast<ptrdiff_t>(best) + 1);
    }
  };
  Random random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string piece;
    for (uint64_t n = random.Below(160); n > 0; --n)
      piece += random.Below(8) == 0 ? 'c' : "ab"[random.Below(2)];
    std::vector<int32_t> tokens(piece.size());
    tokens.resize(merger.Encode(piece, tokens.data()));
    ASSERT_EQ(tokens, by_definition(piece)) << piece;
  }
}

TEST(Tokenizer, LongPiecesAreNotQuadratic) {
  const Tokenizer tokenizer = Tokenizer::FromParts(MakeParts({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}}));
  for (const std::string& text :
       {std::string(1 << 20, 'a'), std::string(1 << 20, ' ') + "x", std::string(1 << 20, '\n')}) {
    const auto start = std::chrono::steady_clock::now();
    const std::vector<int32_t> tokens = tokenizer.Encode(text);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    EXPECT_EQ(tokenizer.Decode(tokens), text);
    EXPECT_LT(seconds, 20);  // Measured 0.2; quadratic would take hours.
    if (text[0] == 'a') {
      EXPECT_EQ(tokens.size(), (1u << 20) / 8);
    }
  }
}

TEST(Tokenizer, SpecialTokensOnlyWhenAllowed) {
  const Tokenizer tokenizer = TrainedTokenizer();
  const int32_t end = tokenizer.SpecialToken("<|end|>").value();
  const int32_t prefix = tokenizer.SpecialToken("<|en").value();
  EXPECT_EQ(tokenizer.SpecialToken("<|other|>"), std::nullopt);
  EXPECT_TRUE(tokenizer.IsSpecial(end));
  EXPECT_FALSE(tokenizer.IsSpecial(300));
  EXPECT_FALSE(tokenizer.IsSpecial(-1));
  EXPECT_FALSE(tokenizer.IsSpecial(1 << 30));
  for (const int32_t id : tokenizer.Encode("a<|end|>b<|en<|end|>")) EXPECT_FALSE(tokenizer.IsSpecial(id));
  const std::vector<int32_t> a = tokenizer.Encode("a"), b = tokenizer.Encode("b");
  // The longest one wins.
  EXPECT_THAT(tokenizer.Encode("a<|end|>b<|en<|end|>", true), ElementsAre(a[0], end, b[0], prefix, end));
  EXPECT_THAT(tokenizer.Encode("<|end|>", true), ElementsAre(end));
}

TEST(Tokenizer, AddedTokensThatAreNotSpecialAreAlwaysFound) {
  TokenizerParts parts = MakeParts({{"l", "l"}});
  AddToken("hello world", false, &parts);
  AddToken("<s>", true, &parts);
  const Tokenizer tokenizer = Tokenizer::FromParts(parts);
  EXPECT_THAT(tokenizer.Encode("hello world<s>"), ElementsAre(257, '<', 's', '>'));
  EXPECT_THAT(tokenizer.Encode("hello world<s>", true), ElementsAre(257, 258));
}

TEST(Tokenizer, WholePiecesWithIgnoreMerges) {
  TokenizerParts parts = MakeParts({{"a", "b"}});
  parts.token_bytes.push_back("xyz");  // No merges lead here.
  parts.vocab_keys.push_back(VocabKey::kByteLevel);
  EXPECT_THAT(Tokenizer::FromParts(parts).Encode("xyz ab"), ElementsAre('x', 'y', 'z', ' ', 256));
  parts.ignore_merges = true;
  EXPECT_THAT(Tokenizer::FromParts(parts).Encode("xyz ab"), ElementsAre(257, ' ', 256));
}

TEST(Tokenizer, PrefixSpaceAndNormalisation) {
  TokenizerParts parts = MakeParts({{" ", "a"}}, kGpt2Pattern);
  parts.add_prefix_space = true;
  EXPECT_EQ(Split(Tokenizer::FromParts(parts), "a a"), (std::vector<std::string>{" a", " a"}));
  EXPECT_EQ(Split(Tokenizer::FromParts(parts), " a"), (std::vector<std::string>{" a"}));
  EXPECT_TRUE(Tokenizer::FromParts(parts).Encode("").empty());
  parts.add_prefix_space = false;
  parts.nfc = true;
  EXPECT_EQ(Tokenizer::FromParts(parts).Decode(Tokenizer::FromParts(parts).Encode("e\u0301")), "\u00E9");
}

TEST(Tokenizer, UnknownIdsAreInputErrors) {
  const Tokenizer tokenizer = TrainedTokenizer();
  EXPECT_THROW(tokenizer.TokenBytes(-1), InputError);
  EXPECT_THROW(tokenizer.Decode(std::vector<int32_t>{0, tokenizer.vocab_size()}), InputError);
}

TEST(Tokenizer, ThreadsAndSeveralTokenizersShareNothing) {
  const Tokenizer first = TrainedTokenizer();
  const Tokenizer second = Tokenizer::FromParts(MakeParts({{"a", "b"}}));
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> expected_first, expected_second;
  Random random(3);
  for (int i = 0; i < 200; ++i) {
    texts.push_back(testing::RandomFragments(&random, 50));
    expected_first.push_back(first.Encode(texts.back()));
  }
  for (const std::string& text : texts) expected_second.push_back(second.Encode(text));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i) {
        EXPECT_EQ(first.Encode(texts[i]), expected_first[i]);
        EXPECT_EQ(second.Encode(texts[i]), expected_second[i]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace sluice
