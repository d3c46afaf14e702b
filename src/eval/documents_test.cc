// Documents and questions come out of text files and of LongBench's lines as they are.
#include "eval/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DocumentsTest : public ::testing::Test {
 protected:
  DocumentsTest() { std::filesystem::create_directories(folder_); }
  ~DocumentsTest() override { std::filesystem::remove_all(folder_); }

  std::vector<EvalDocument> Read(const std::string& name, const std::string& content) const {
    WriteFileAtomically(folder_ / name, content);
    return ReadDocuments({folder_ / name});
  }
  std::string Refusal(const std::string& content) const {
    try {
      Read("bad.jsonl", content);
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  }

  std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) / fmt::format("sluice_documents_test_{}", getpid());
};

TEST_F(DocumentsTest, TextFilesHaveNoQuestions) {
  const auto documents = Read("a.txt", "one\n<|endoftext|>\ntwo");
  ASSERT_EQ(documents.size(), 2u);
  EXPECT_EQ(documents[1].text, "two");
  EXPECT_FALSE(documents[0].question.has_value());
  EXPECT_THAT(ReadTexts({folder_ / "a.txt"}), ElementsAre("one", "two"));
}

TEST_F(DocumentsTest, LongBench) {
  const auto documents = Read(
      "a.jsonl",
      "{\"context\": \"A long text.\", \"input\": \"Who?\", \"answers\": [\"She\", \"her\"], \"length\": 3}\n"
      "\n"
      "{\"context\": \"To be summed up.\", \"input\": \"\", \"answers\": [\"Short.\"]}\n");
  ASSERT_EQ(documents.size(), 2u);
  EXPECT_EQ(documents[0].text, "A long text.");
  ASSERT_TRUE(documents[0].question.has_value());
  EXPECT_EQ(documents[0].question->question, "Who?");
  EXPECT_THAT(documents[0].question->answers, ElementsAre("She", "her"));
  EXPECT_TRUE(documents[0].question->choices.empty());
  EXPECT_FALSE(documents[1].question.has_value());
}

TEST_F(DocumentsTest, LongBench2InBothSpellings) {
  for (const char* choices : {R"("choices": {"A": "red", "B": "blue", "C": "green"})",
                              R"("choice_A": "red", "choice_B": "blue", "choice_C": "green")"}) {
    const auto documents =
        Read("a.jsonl",
             fmt::format("{{\"context\": \"c\", \"question\": \"Which?\", {}, \"answer\": \"B\"}}", choices));
    ASSERT_EQ(documents.size(), 1u);
    EXPECT_THAT(documents[0].question->choices, ElementsAre("red", "blue", "green"));
    EXPECT_EQ(documents[0].question->right_choice, 1u);
  }
}

TEST_F(DocumentsTest, LinesWithoutADocumentAreText) {
  const auto documents =
      Read("a.json", "{\"text\": \"only text\"}\n{\"question\": \"Two and two?\", \"answer\": \"Four.\"}");
  ASSERT_EQ(documents.size(), 2u);
  EXPECT_EQ(documents[0].text, "only text");
  EXPECT_EQ(documents[1].text, "Two and two?\nFour.");
  EXPECT_FALSE(documents[1].question.has_value());
}

TEST_F(DocumentsTest, WrongLinesAreNamed) {
  EXPECT_THAT(Refusal("{\"text\": \"a\"}\n{"), HasSubstr("bad.jsonl, line 2: not a JSON object"));
  EXPECT_THAT(Refusal("[1]"), HasSubstr("line 1"));
  EXPECT_THAT(Refusal("{\"body\": \"a\"}"), HasSubstr("\"context\""));
  EXPECT_THAT(Refusal(R"({"context": "c", "question": "q", "choices": {"A": "x", "B": "y"}, "answer": "E"})"),
              HasSubstr("none of the 2 choices, A to B"));
  EXPECT_THAT(Refusal(R"({"context": "c", "input": "q", "answers": [3]})"), HasSubstr("list of texts"));
  EXPECT_THAT(Refusal("\n"), HasSubstr("no text"));
}

}  // namespace
}  // namespace sluice
