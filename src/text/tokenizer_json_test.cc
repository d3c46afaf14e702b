// tokenizer.json: what is read, what is refused and how, and that no damaged file does worse than
// throw InputError.
#include "text/tokenizer_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/bpe_trainer.h"
#include "text/testing.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

// A file of the kind GPT-2 has: bytes, "ab", " a", and <|end|>, which is in the vocabulary too.
Json MakeFile() {
  Json vocab = Json::object();
  for (int b = 0; b < 256; ++b) vocab[ToByteLevel(std::string(1, static_cast<char>(b)))] = b;
  vocab["ab"] = 256;
  vocab["\u0120a"] = 257;
  vocab["<|end|>"] = 258;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", Json::array({{{"id", 258}, {"content", "<|end|>"}, {"special", true}}})},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}}},
          {"post_processor", {{"type", "ByteLevel"}, {"trim_offsets", false}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", "\u0120 a"}}}}};
}

Tokenizer Load(const Json& file) {
  return Tokenizer::FromJson(file.dump(), "some/tokenizer.json");
}

// The message of the InputError, which must name the file.
std::string Refusal(const std::string& text) {
  try {
    Tokenizer::FromJson(text, "some/tokenizer.json");
  } catch (const InputError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("some/tokenizer.json: ")) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "was not refused";
  return "";
}

void ExpectRefused(const Json& file, const std::string& message_part) {
  const std::string message = Refusal(file.dump());
  EXPECT_NE(message.find(message_part), std::string::npos) << message;
}

TEST(TokenizerJson, ByteLevelAlphabet) {
  EXPECT_EQ(ToByteLevel("a b\n"), "a\u0120b\u010A");
  EXPECT_EQ(ToByteLevel("\u00E9"), "\u00C3\u00A9");
  EXPECT_EQ(ToByteLevel(std::string_view("\0\x7F\xAD", 3)), "\u0100\u0121\u0143");
}

TEST(TokenizerJson, ReadsMergesAsStringsAndAsPairs) {
  const std::vector<int32_t> expected = {256, 257, 258};
  Json file = MakeFile();
  EXPECT_EQ(Load(file).Encode("ab a<|end|>", true), expected);
  file["model"]["merges"] = Json::array({Json::array({"a", "b"}), Json::array({"\u0120", "a"})});
  EXPECT_EQ(Load(file).Encode("ab a<|end|>", true), expected);
}

TEST(TokenizerJson, ReadsSequencesOfSplits) {
  Json file = MakeFile();
  file["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       Json::array(
           {{{"type", "Split"}, {"pattern", {{"Regex", "b"}}}, {"behavior", "Isolated"}, {"invert", false}},
            {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}})}};
  EXPECT_EQ(Load(file).Encode("ab a"), (std::vector<int32_t>{'a', 'b', 257}));
}

TEST(TokenizerJson, AddedTokensOutsideTheVocabulary) {
  Json file = MakeFile();
  file["model"]["vocab"].erase("<|end|>");
  const Tokenizer tokenizer = Load(file);
  EXPECT_EQ(tokenizer.vocab_size(), 259);
  EXPECT_EQ(tokenizer.SpecialToken("<|end|>"), 258);
  EXPECT_FALSE(Json::parse(tokenizer.ToJson())["model"]["vocab"].contains("<|end|>"));
}

TEST(TokenizerJson, WritingAndReadingAgreeOnEveryField) {
  Json file = MakeFile();
  file["normalizer"] = {{"type", "NFC"}};
  file["added_tokens"].push_back(
      {{"id", 259}, {"content", "\uFF5Cx y\uFF5C"}, {"special", false}, {"normalized", true}});
  file["model"]["ignore_merges"] = true;
  file["model"]["unk_token"] = "<|end|>";
  const Tokenizer tokenizer = Load(file);
  const Json written = Json::parse(tokenizer.ToJson());
  for (const char* field :
       {"version", "truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    EXPECT_EQ(written[field], file[field]) << field;
  }
  for (const char* field : {"type", "vocab", "merges", "ignore_merges", "unk_token"}) {
    EXPECT_EQ(written["model"][field], file["model"][field]) << field;
  }
  EXPECT_EQ(written["added_tokens"][1]["content"], "\uFF5Cx y\uFF5C");
  EXPECT_EQ(written["added_tokens"][1]["special"], false);
  EXPECT_EQ(written["added_tokens"][1]["normalized"], true);
  EXPECT_EQ(Tokenizer::FromJson(tokenizer.ToJson()).ToJson(), tokenizer.ToJson());
}

TEST(TokenizerJson, RefusesWhatItDoesNotSupportByName) {
  const auto with = [](const char* pointer, const Json& value) {
    Json file = MakeFile();
    file[Json::json_pointer(pointer)] = value;
    return file;
  };
  ExpectRefused(with("/model/type", "Unigram"), "model.type: \"Unigram\" is not supported");
  ExpectRefused(with("/model/dropout", 0.1), "model.dropout");
  ExpectRefused(with("/model/byte_fallback", true), "model.byte_fallback");
  ExpectRefused(with("/model/end_of_word_suffix", "</w>"), "model.end_of_word_suffix");
  ExpectRefused(with("/truncation", {{"max_length", 5}}), "truncation");
  ExpectRefused(with("/normalizer", {{"type", "Lowercase"}}), "normalizer.type: \"Lowercase\"");
  ExpectRefused(with("/pre_tokenizer/type", "Metaspace"), "pre_tokenizer.type: \"Metaspace\"");
  ExpectRefused(with("/pre_tokenizer", nullptr), "pre_tokenizer");
  ExpectRefused(with("/decoder", {{"type", "WordPiece"}}), "decoder");
  ExpectRefused(with("/decoder", nullptr), "decoder");
  ExpectRefused(with("/added_tokens/0/lstrip", true), "added_tokens[0].lstrip");
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}};
  ExpectRefused(with("/pre_tokenizer", split), "pre_tokenizer.pattern");
  EXPECT_NO_THROW(Load(with("/model/dropout", 0.0)));
}

TEST(TokenizerJson, RefusesAWrongVocabulary) {
  const auto with = [](const char* pointer, const Json& value) {
    Json file = MakeFile();
    file[Json::json_pointer(pointer)] = value;
    return file;
  };
  ExpectRefused(with("/model/vocab/ab", 5), "used twice");
  ExpectRefused(with("/model/vocab/ab", 300), "without holes");
  ExpectRefused(with("/model/vocab/ab", -1), "model.vocab.ab: expected a token id");
  ExpectRefused(with("/model/vocab/ab", 1.5), "model.vocab.ab: expected a token id");
  ExpectRefused(with("/model/vocab/ab", "x"), "model.vocab.ab: expected a token id");
  ExpectRefused(with("/model/vocab/ab", uint64_t{1} << 63), "model.vocab.ab: expected a token id");
  ExpectRefused(with("/added_tokens/0/id", 7), "but 7 in added_tokens");
  ExpectRefused(with("/added_tokens/0/content", ""), "added_tokens[0]");
  ExpectRefused(with("/model/merges/0", "a zz"), "model.merges[0]: \"zz\" is not in model.vocab");
  ExpectRefused(with("/model/merges/0", "b b"), "model.merges[0]: \"bb\" is not in model.vocab");
  ExpectRefused(with("/model/merges/0", "ab"), "model.merges[0]");
  ExpectRefused(with("/model/merges/0", {"a", "b", "c"}), "model.merges[0]");
  ExpectRefused(with("/model/merges", 3), "model.merges: expected an array");
  ExpectRefused(with("/model/vocab", Json::array()), "model.vocab");
  Json no_byte = MakeFile();
  no_byte["model"]["vocab"].erase("x");
  no_byte["model"]["vocab"]["xx"] = 'x';
  ExpectRefused(no_byte, "no token \"x\" for byte 0x78");
  Json added_twice = MakeFile();
  added_twice["added_tokens"].push_back(added_twice["added_tokens"][0]);
  ExpectRefused(added_twice, "listed twice");
}

TEST(TokenizerJson, RefusesWhatIsNotJson) {
  Refusal("");
  Refusal("null");
  Refusal("[1, 2]");
  Refusal("{}");
  Refusal("{\"model\": 3}");
  Refusal(std::string(100000, '['));
  EXPECT_THROW(Tokenizer::FromFile("/nonexistent/tokenizer.json"), InputError);
}

// A damaged file is refused with InputError, or read; anything else fails the test or crashes it.
void TryDamaged(const std::string& text) {
  try {
    const Tokenizer tokenizer = Tokenizer::FromJson(text);
    tokenizer.Encode("ab a<|end|> 12", true);
    Tokenizer::FromJson(tokenizer.ToJson());
  } catch (const InputError&) {
  }
}

TEST(TokenizerJson, TruncatedFilesAreRefused) {
  const std::string text = MakeFile().dump();
  for (size_t size = 0; size < text.size(); ++size)
    EXPECT_THROW(Tokenizer::FromJson(text.substr(0, size)), InputError);
}

TEST(TokenizerJson, FlippedBitsAreRefusedOrRead) {
  const std::string text = MakeFile().dump();
  for (size_t i = 0; i < text.size(); ++i) {
    std::string damaged = text;
    damaged[i] = static_cast<char>(damaged[i] ^ 1 << i % 8);
    TryDamaged(damaged);
  }
}

TEST(TokenizerJson, ShuffledPartsAreRefusedOrRead) {
  const std::string text = MakeFile().dump();
  Random random(1);
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = text;
    for (uint64_t n = 1 + random.Below(4); n > 0; --n) {
      const size_t from = random.Below(damaged.size()), to = random.Below(damaged.size());
      const std::string part = damaged.substr(from, 1 + random.Below(30));
      random.Below(2) == 0 ? damaged.insert(to, part) : damaged.replace(to, part.size(), part);
    }
    TryDamaged(damaged);
  }
}

}  // namespace
}  // namespace sluice
