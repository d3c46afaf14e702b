// The shipped configs are valid, and every mistake in one is named with its place.
#include "train/train_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

const std::filesystem::path kConfigs = SLUICE_CONFIGS_DIR;

// The error of reading tiny.json with `from` replaced by `to`.
std::string ErrorWith(const std::string& from, const std::string& to) {
  std::string text = ReadFile(kConfigs / "tiny.json");
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  const std::filesystem::path file = std::filesystem::path(::testing::TempDir()) / "sluice_config_test.json";
  WriteFileAtomically(file, text);
  try {
    ReadTrainConfig(file);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

TEST(TrainConfigTest, ShippedConfigsAreValid) {
  int configs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kConfigs)) {
    EXPECT_NO_THROW(ReadTrainConfig(entry.path())) << entry.path();
    ++configs;
  }
  EXPECT_GE(configs, 4);
  EXPECT_EQ(ReadTrainConfig(kConfigs / "tiny.json").stages.size(), 3u);
  EXPECT_EQ(ReadTrainConfig(kConfigs / "nano.json").name, "nano");
}

TEST(TrainConfigTest, MistakesAreNamed) {
  EXPECT_THAT(ErrorWith("\"seed\": 7", "\"sead\": 7"), HasSubstr("\"seed\" is missing"));
  EXPECT_THAT(ErrorWith("\"seed\": 7", "\"seed\": \"7\""), HasSubstr("must be a whole number"));
  EXPECT_THAT(ErrorWith("\"seed\": 7", "\"seed\": 7, \"speed\": 1"), HasSubstr("unknown key \"speed\""));
  EXPECT_THAT(ErrorWith("\"text\": 0.4", "\"text\": 0.5"), HasSubstr("stages[0]: mix: shares must sum to 1"));
  EXPECT_THAT(ErrorWith("\"attention\": \"dense\"", "\"attention\": \"sparce\""),
              HasSubstr("is \"sparce\"; it must be one of \"dense\", \"sparse\""));
  EXPECT_THAT(ErrorWith("\"capacity\": \"dynamic\"", "\"capacity\": \"on\""),
              HasSubstr("\"none\", \"dynamic\""));
  EXPECT_THAT(ErrorWith("\"bias_rule\": \"quantile\"", "\"bias_rule\": true"), HasSubstr("must be a string"));
  EXPECT_THAT(ErrorWith("\"router_scores\": \"sigmoid\"", "\"router_scores\": \"tanh\""),
              HasSubstr("\"sigmoid\", \"softmax\""));
  EXPECT_THAT(ErrorWith("\"micro_batch_tokens\": 512", "\"micro_batch_tokens\": 500"), HasSubstr("multiple"));
  EXPECT_THAT(ErrorWith("\"num_attention_heads\": 4", "\"num_attention_heads\": 0"), HasSubstr("every size"));
  EXPECT_THAT(ErrorWith("\"name\": \"dense\"", "\"name\": \"dense, long\""), HasSubstr("without commas"));
  EXPECT_THAT(ErrorWith("\"dense_sequence_length\": 256", "\"dense_sequence_length\": 100"),
              HasSubstr("divide"));
  EXPECT_THAT(ErrorWith("\"gate_only\": false", "\"recompute_experts\": 1, \"gate_only\": false"),
              HasSubstr("\"recompute_experts\" must be true or false"));
  EXPECT_THAT(ErrorWith("\"gate_only\": false", "\"gateless_share\": 1.5, \"gate_only\": false"),
              HasSubstr("\"gateless_share\" must be between 0 and 1"));
  EXPECT_THAT(ErrorWith("\"answer_weight\": 2.0", "\"answer_weight\": 0"), HasSubstr("must be positive"));
  EXPECT_THAT(ErrorWith("\"clip\":", "\"frozen\": \"gate_bias\", \"clip\":"), HasSubstr("list of texts"));
  EXPECT_THAT(ErrorWith("\"seed\": 7", "\"seed\": 7, \"teacher\": {\"model\": \"nano\", \"share\": 1.5}"),
              HasSubstr("teacher: \"share\" must be above 0 and at most 1"));
  EXPECT_THAT(ErrorWith("{\n", "{{\n"), HasSubstr("not valid JSON"));
}

TEST(TrainConfigTest, MissingFileIsNamed) {
  EXPECT_THROW(ReadTrainConfig(kConfigs / "no_such.json"), InputError);
}

}  // namespace
}  // namespace sluice
