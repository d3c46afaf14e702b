// Splitting, the cache (made once, made again when anything changes or it is damaged), sampling, and
// what a wrong source is answered with.
#include "train/text_corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "text/bpe_trainer.h"
#include "train/text_files.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A tokenizer of the 256 bytes and a few merges.
Tokenizer SmallTokenizer() {
  BpeTrainerOptions options;
  options.vocab_size = 270;
  options.show_progress = false;
  BpeTrainer trainer(options);
  trainer.AddDocument("the cat and the dog and the bird sat on the mat, the cat and the dog sat");
  return trainer.Train();
}

class TextCorpusTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("sluice_corpus_" + std::to_string(getpid()) + "_" +
                                           ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_ / "a" / "deep");
    fs::create_directories(folder_ / "b");
    Write("a/1.txt", "the cat\n<|endoftext|>\nthe dog sat\n<|endoftext|>\n");
    Write("a/deep/2.md", "# the bird\non the mat, not <|endoftext|> here\n");
    Write("a/ignored.bin", "\1\2\3");
    Write("b/math.jsonl",
          "{\"question\": \"two?\", \"answer\": \"2\"}\n\n{\"text\": \"plain\", \"other\": 1}\n");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  CorpusOptions Options() const { return {{{folder_ / "a", 1}, {folder_ / "b", 3}}, folder_ / "cache"}; }
  int NumCacheFiles() const {
    return static_cast<int>(
        std::distance(fs::directory_iterator(folder_ / "cache"), fs::directory_iterator()));
  }
  std::string TextOf(std::span<const uint16_t> tokens) const {
    return tokenizer_.Decode(std::vector<int32_t>(tokens.begin(), tokens.end()));
  }
  std::vector<std::string> Texts(const Corpus& corpus, int source) const {
    std::vector<std::string> texts;
    for (int64_t i = 0; i < corpus.num_documents(source); ++i)
      texts.push_back(TextOf(corpus.Document(source, i)));
    return texts;
  }
  std::string ErrorOf(const CorpusOptions& options) const {
    try {
      Corpus::Open(options, tokenizer_);
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  }

  fs::path folder_;
  Tokenizer tokenizer_ = SmallTokenizer();
};

TEST(TextFilesTest, SplitsAtSeparatorLinesOnly) {
  EXPECT_THAT(SplitDocuments("a\n<|endoftext|>\nb"), ElementsAre("a", "b"));
  EXPECT_THAT(SplitDocuments("a\r\n<|endoftext|>\r\nb\n"), ElementsAre("a\r", "b"));
  EXPECT_THAT(SplitDocuments("<|endoftext|>\na\n\n<|endoftext|>"), ElementsAre("a\n"));
  EXPECT_THAT(SplitDocuments("a <|endoftext|>\n<|endoftext|> b\n<|endoftext|><|endoftext|>\n"),
              ElementsAre("a <|endoftext|>\n<|endoftext|> b\n<|endoftext|><|endoftext|>"));
  EXPECT_THAT(SplitDocuments("\n<|endoftext|>\n \n<|endoftext|>\n"), ElementsAre());
  EXPECT_THAT(SplitDocuments(""), ElementsAre());
}

TEST_F(TextCorpusTest, ReadsFoldersAndSplitsDocuments) {
  const Corpus corpus = Corpus::Open(Options(), tokenizer_);
  EXPECT_EQ(corpus.num_sources(), 2);
  EXPECT_THAT(Texts(corpus, 0),
              ElementsAre("the cat", "the dog sat", "# the bird\non the mat, not <|endoftext|> here"));
  EXPECT_THAT(Texts(corpus, 1), ElementsAre("two?\n2", "plain"));
  EXPECT_EQ(corpus.num_tokens(), corpus.num_tokens(0) + corpus.num_tokens(1));
}

TEST_F(TextCorpusTest, CachesAndNoticesChanges) {
  const auto first = Texts(Corpus::Open(Options(), tokenizer_), 0);
  EXPECT_EQ(NumCacheFiles(), 1);
  EXPECT_EQ(Texts(Corpus::Open(Options(), tokenizer_), 0), first);
  EXPECT_EQ(NumCacheFiles(), 1);
  Write("a/1.txt", "something else entirely");
  EXPECT_EQ(Texts(Corpus::Open(Options(), tokenizer_), 0)[0], "something else entirely");
  EXPECT_EQ(NumCacheFiles(), 2);
  fs::last_write_time(folder_ / "a/1.txt", fs::file_time_type::clock::now() + std::chrono::hours(1));
  Corpus::Open(Options(), tokenizer_);
  EXPECT_EQ(NumCacheFiles(), 3);
}

TEST_F(TextCorpusTest, MakesADamagedCacheAgain) {
  const auto expected = Texts(Corpus::Open(Options(), tokenizer_), 0);
  const fs::path cache = fs::directory_iterator(folder_ / "cache")->path();
  const std::string bytes = ReadFile(cache);
  for (size_t i = 0; i < bytes.size(); i += 23) {
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    WriteFileAtomically(cache, damaged);
    ASSERT_EQ(Texts(Corpus::Open(Options(), tokenizer_), 0), expected) << i;
    ASSERT_EQ(ReadFile(cache), bytes);
    WriteFileAtomically(cache, bytes.substr(0, i));
    ASSERT_EQ(Texts(Corpus::Open(Options(), tokenizer_), 0), expected) << i;
  }
}

TEST_F(TextCorpusTest, WorksWithoutACacheFolder) {
  CorpusOptions options = Options();
  const auto expected = Texts(Corpus::Open(options, tokenizer_), 0);
  options.cache_folder.clear();
  EXPECT_EQ(Texts(Corpus::Open(options, tokenizer_), 0), expected);
}

TEST_F(TextCorpusTest, SamplesByWeightAndLength) {
  const Corpus corpus = Corpus::Open(Options(), tokenizer_);
  Random random(1), again(1);
  std::map<std::string, int> counts;
  for (int i = 0; i < 4000; ++i) {
    const auto document = corpus.SampleDocument(random);
    ASSERT_EQ(document.data(), corpus.SampleDocument(again).data());
    ++counts[TextOf(document)];
  }
  EXPECT_EQ(counts.size(), 5u);
  EXPECT_NEAR(counts["two?\n2"] + counts["plain"], 3000, 120);
  EXPECT_GT(counts["# the bird\non the mat, not <|endoftext|> here"], 2 * counts["the dog sat"]);
}

TEST_F(TextCorpusTest, SpansHaveTheirLengthAndStayInsideLongDocuments) {
  const Corpus corpus = Corpus::Open(Options(), tokenizer_);
  Random random(2);
  for (int i = 0; i < 2000; ++i) {
    const int64_t length = static_cast<int64_t>(random.Below(40));
    const auto span = corpus.SampleSpan(random, length);
    const int64_t most = std::max(corpus.num_tokens(0), corpus.num_tokens(1));
    ASSERT_LE(static_cast<int64_t>(span.size()), length);
    ASSERT_GE(static_cast<int64_t>(span.size()),
              std::min({length, corpus.num_tokens(0), corpus.num_tokens(1)}));
    ASSERT_LE(static_cast<int64_t>(span.size()), most);
    if (length == 3) {
      ASSERT_EQ(TextOf(span).find("\n\n"), std::string::npos);
    }
  }
  EXPECT_THAT(TextOf(corpus.SampleSpan(random, 1000)), HasSubstr("\n\n"));
}

TEST_F(TextCorpusTest, AcceptsAnyBytes) {
  std::string bytes = "x";
  for (int i = 255; i > 0; --i) bytes += static_cast<char>(i);
  Write("b/bytes.txt", bytes);
  const Corpus corpus = Corpus::Open({{{folder_ / "b/bytes.txt", 1}}, ""}, tokenizer_);
  EXPECT_EQ(TextOf(corpus.Document(0, 0)), bytes);
}

TEST_F(TextCorpusTest, NamesWhatIsWrong) {
  EXPECT_THAT(ErrorOf({{{folder_ / "absent", 1}}, ""}), HasSubstr((folder_ / "absent").string()));
  EXPECT_THAT(ErrorOf({{{folder_ / "a", -1}}, ""}), HasSubstr("weight"));
  EXPECT_THAT(ErrorOf({{{folder_ / "a", 0}}, ""}), HasSubstr("weight 0"));
  EXPECT_THAT(ErrorOf({}), HasSubstr("no text source"));
  fs::create_directories(folder_ / "empty");
  EXPECT_THAT(ErrorOf({{{folder_ / "empty", 1}}, ""}), HasSubstr("no .txt, .md or .jsonl"));
  Write("empty/blank.txt", "  \n");
  EXPECT_THAT(ErrorOf({{{folder_ / "empty", 1}}, ""}), HasSubstr("holds no text"));
  Write("b/bad.jsonl", "{\"text\": \"ok\"}\n{broken\n");
  EXPECT_THAT(ErrorOf(Options()), HasSubstr("bad.jsonl, line 2"));
  Write("b/bad.jsonl", "{\"other\": \"x\"}\n");
  EXPECT_THAT(ErrorOf(Options()), HasSubstr("line 1: has none"));
}

}  // namespace
}  // namespace sluice
