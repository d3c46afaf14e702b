// The learned merges against a naive trainer that recounts everything, determinism, and sampling.
#include "text/bpe_trainer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "text/testing.h"
#include "text/tokenizer_json.h"

namespace sluice {
namespace {

BpeTrainerOptions SmallOptions(int vocab_size) {
  return {.vocab_size = vocab_size, .special_tokens = {"<|endoftext|>"}, .show_progress = false};
}

std::string SomeText(uint64_t seed) {
  Random random(seed);
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    // Few syllables, so that many pairs are equally frequent; runs, so that pairs overlap.
    static constexpr std::string_view kParts[] = {"ba", "na", "aaa", "no", "n", " ", " the", "\n", "1", "=="};
    text += kParts[random.Below(std::size(kParts))];
  }
  return text;
}

// Recounts all pairs for every merge.
std::vector<BpeMerge> NaiveMerges(std::string_view text, int vocab_size, int32_t first_byte_id) {
  std::map<std::string, int64_t> counts;
  PreTokenizer({{std::string(kDefaultPattern), true}}).ForEachPiece(text, [&](std::string_view piece) {
    ++counts[std::string(piece)];
  });
  std::vector<std::pair<std::vector<int32_t>, int64_t>> words;
  for (const auto& [piece, count] : counts) {
    std::vector<int32_t> tokens;
    for (const char c : piece) tokens.push_back(first_byte_id + static_cast<uint8_t>(c));
    words.emplace_back(tokens, count);
  }
  std::map<int32_t, std::string> bytes;
  std::map<std::string, int32_t> ids;
  for (int b = 0; b < 256; ++b) {
    bytes[first_byte_id + b] = std::string(1, static_cast<char>(b));
    ids[bytes[first_byte_id + b]] = first_byte_id + b;
  }
  std::vector<BpeMerge> merges;
  auto next = first_byte_id + 256;
  while (next < vocab_size) {
    std::map<std::pair<int32_t, int32_t>, int64_t> pairs;
    for (const auto& [tokens, count] : words) {
      for (size_t i = 0; i + 1 < tokens.size(); ++i) pairs[{tokens[i], tokens[i + 1]}] += count;
    }
    std::pair<int32_t, int32_t> best;
    int64_t best_count = 1;
    for (const auto& [pair, count] : pairs) {
      if (count > best_count && bytes[pair.first].size() + bytes[pair.second].size() <= 24) {
        best = pair;
        best_count = count;
      }
    }
    if (best_count < 2) break;
    const std::string joined = bytes[best.first] + bytes[best.second];
    const bool is_new = ids.emplace(joined, next).second;
    const int32_t result = ids[joined];
    merges.push_back({best.first, best.second, result});
    if (is_new) bytes[next++] = joined;
    for (auto& [tokens, count] : words) {
      std::vector<int32_t> merged;
      for (size_t i = 0; i < tokens.size(); ++i) {
        const bool here = i + 1 < tokens.size() && tokens[i] == best.first && tokens[i + 1] == best.second;
        merged.push_back(here ? result : tokens[i]);
        i += here;
      }
      tokens = merged;
    }
  }
  return merges;
}

TEST(BpeTrainer, EqualsTheNaiveTrainer) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const std::string text = SomeText(seed);
    BpeTrainer trainer(SmallOptions(420));
    trainer.AddDocument(text);
    const TokenizerParts parts = ParseTokenizerJson(trainer.Train().ToJson(), "trained");
    EXPECT_EQ(parts.merges, NaiveMerges(text, 420, 1)) << "seed " << seed;
    EXPECT_GT(parts.merges.size(), 50u);
  }
}

TEST(BpeTrainer, FirstMergesOfAKnownText) {
  BpeTrainer trainer(SmallOptions(257 + 3));
  trainer.AddDocument("low low low lower lower newest newest newest newest");
  const Tokenizer tokenizer = trainer.Train();
  // Pieces: "low" 1, " low" 2, " lower" 2, " newest" 4. First "we" 6 times, then "lo" 5 times; of the
  // pairs that occur 4 times " n" has the lowest ids.
  EXPECT_EQ(tokenizer.TokenBytes(257), "we");
  EXPECT_EQ(tokenizer.TokenBytes(258), "lo");
  EXPECT_EQ(tokenizer.TokenBytes(259), " n");
}

TEST(BpeTrainer, IdsAreSpecialsThenBytesThenMerges) {
  BpeTrainer trainer({.vocab_size = 300, .special_tokens = {"<|a|>", "<|b|>"}, .show_progress = false});
  trainer.AddDocument(SomeText(1));
  const Tokenizer tokenizer = trainer.Train();
  EXPECT_EQ(tokenizer.vocab_size(), 300);
  EXPECT_EQ(tokenizer.SpecialToken("<|a|>"), 0);
  EXPECT_EQ(tokenizer.SpecialToken("<|b|>"), 1);
  for (int b = 0; b < 256; ++b) EXPECT_EQ(tokenizer.TokenBytes(2 + b), std::string(1, static_cast<char>(b)));
}

TEST(BpeTrainer, SameDocumentsInAnyOrderGiveTheSameFile) {
  BpeTrainer forward(SmallOptions(400)), backward(SmallOptions(400));
  for (uint64_t seed = 1; seed <= 4; ++seed) forward.AddDocument(SomeText(seed));
  for (uint64_t seed = 4; seed >= 1; --seed) backward.AddDocument(SomeText(seed));
  EXPECT_EQ(forward.Train().ToJson(), backward.Train().ToJson());
  EXPECT_EQ(forward.Train().ToJson(), forward.Train().ToJson());
}

TEST(BpeTrainer, WeightCountsAsRepetition) {
  BpeTrainer weighted(SmallOptions(400)), repeated(SmallOptions(400));
  weighted.AddDocument(SomeText(1), 3);
  weighted.AddDocument(SomeText(2));
  for (int i = 0; i < 3; ++i) repeated.AddDocument(SomeText(1));
  repeated.AddDocument(SomeText(2));
  EXPECT_EQ(weighted.Train().ToJson(), repeated.Train().ToJson());
}

TEST(BpeTrainer, StopsWhenNothingRepeats) {
  BpeTrainer trainer(SmallOptions(1000));
  trainer.AddDocument("abcdefg");
  EXPECT_EQ(trainer.Train().vocab_size(), 257);
}

TEST(BpeTrainer, TokensStayWithinTheirLimit) {
  BpeTrainerOptions options = SmallOptions(600);
  options.max_token_bytes = 5;
  BpeTrainer trainer(options);
  for (int i = 0; i < 9; ++i) trainer.AddDocument("--------------------- interesting interesting");
  const Tokenizer tokenizer = trainer.Train();
  size_t longest = 0;
  for (int32_t id = 1; id < tokenizer.vocab_size(); ++id)
    longest = std::max(longest, tokenizer.TokenBytes(id).size());
  EXPECT_EQ(longest, 5u);
}

TEST(BpeTrainer, ForgetsRarePiecesToBoundMemory) {
  BpeTrainerOptions options = SmallOptions(300);
  options.max_distinct_pieces = 100;
  BpeTrainer trainer(options);
  Random random(1);
  for (int i = 0; i < 2000; ++i) {
    trainer.AddDocument(fmt::format("zqzq w{:c}{:c}{:c}", static_cast<char>('a' + random.Below(26)),
                                    static_cast<char>('a' + random.Below(26)),
                                    static_cast<char>('a' + random.Below(26))));
  }
  const Tokenizer tokenizer = trainer.Train();
  EXPECT_EQ(tokenizer.TokenBytes(257), "zq");
  EXPECT_EQ(tokenizer.Encode("zqzq").size(), 1u);
}

TEST(BpeTrainer, RejectsBadOptions) {
  EXPECT_THROW(BpeTrainer(SmallOptions(256)), InputError);
  EXPECT_NO_THROW(BpeTrainer(SmallOptions(257)));
  EXPECT_THROW(BpeTrainer({.vocab_size = 300, .special_tokens = {"<|a|>", "<|a|>"}}), InputError);
  EXPECT_THROW(BpeTrainer({.vocab_size = 300, .special_tokens = {""}}), InputError);
  EXPECT_THROW(BpeTrainer({.vocab_size = 300, .special_tokens = {"\xFF\xFE"}}), InputError);
  BpeTrainerOptions bad_pattern = SmallOptions(300);
  bad_pattern.pattern = "(";
  EXPECT_THROW(BpeTrainer{bad_pattern}, InputError);
}

class BpeTrainerFile : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() / fmt::format("sluice_bpe_trainer_test_{}.txt", getpid());
  }
  void TearDown() override { std::filesystem::remove(path_); }
  std::filesystem::path path_;
};

TEST_F(BpeTrainerFile, MergesNeverCrossTheSeparatorNorSeeIt) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "xy\n<|endoftext|>\n";
  WriteFileAtomically(path_, text);
  BpeTrainer trainer(SmallOptions(400));
  EXPECT_EQ(trainer.AddFile(path_), 300u);
  const Tokenizer tokenizer = trainer.Train();
  EXPECT_EQ(tokenizer.vocab_size(), 258);
  EXPECT_EQ(tokenizer.TokenBytes(257), "xy");
}

TEST_F(BpeTrainerFile, SamplesAreSpreadOverTheFile) {
  std::string text;
  for (char c = 'a'; c <= 'z'; ++c) {
    for (int i = 0; i < 40000; ++i) text += std::string(1, c) + std::string(1, c) + '\n';
  }
  WriteFileAtomically(path_, text);
  BpeTrainer trainer(SmallOptions(257 + 20));
  const uint64_t learned = trainer.AddFile(path_, {.fraction = 0.5});
  EXPECT_NEAR(static_cast<double>(learned), 0.5 * static_cast<double>(text.size()), 70000);
  const Tokenizer tokenizer = trainer.Train();
  EXPECT_EQ(tokenizer.vocab_size(), 277);  // A pair for most of the letters.
  BpeTrainer limited(SmallOptions(300));
  EXPECT_LE(limited.AddFile(path_, {.max_bytes = 500000}), 570000u);
  EXPECT_THROW(limited.AddFile(path_, {.fraction = 0}), InputError);
  EXPECT_THROW(limited.AddFile(path_, {.weight = 0}), InputError);
  EXPECT_THROW(limited.AddFile(path_.string() + ".absent"), InputError);
}

TEST_F(BpeTrainerFile, SaveAndLoadAreEqual) {
  BpeTrainer trainer(SmallOptions(400));
  trainer.AddDocument(SomeText(1));
  const Tokenizer tokenizer = trainer.Train();
  tokenizer.Save(path_);
  const Tokenizer loaded = Tokenizer::FromFile(path_);
  EXPECT_EQ(loaded.ToJson(), tokenizer.ToJson());
  EXPECT_EQ(loaded.Encode(SomeText(2)), tokenizer.Encode(SomeText(2)));
}

}  // namespace
}  // namespace sluice
