// Key codebooks on disk.
#include "model/key_codebooks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "checkpoint/safetensors.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig TinyConfig() {
  ModelConfig config;
  config.vocab_size = 32;
  config.hidden_size = 32;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  return config;
}

Buffer Ramp(const Shape& shape, float step) {
  Buffer buffer(DType::kF32, shape);
  for (int64_t i = 0; i < shape.num_elements(); ++i)
    buffer.view().data<float>()[i] = step * static_cast<float>(i % 64 + 1);
  return buffer;
}

KeyCodebooks SomeCodebooks() {
  std::vector<KeyCodebooks::Layer> layers;
  layers.push_back({Ramp({2, 8}, -0.1f), Ramp({2, 8}, 0.3f), Ramp({2, 512, 8}, 0.25f)});
  layers.push_back({Ramp({2, 8}, 1), Ramp({2, 8}, 2), {}});
  return KeyCodebooks(std::move(layers));
}

class KeyCodebooksTest : public ::testing::Test {
 protected:
  // What reading the file says is wrong.
  std::string ErrorOf(const ModelConfig& config) const {
    try {
      ReadKeyCodebooks(file_, config);
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  }
  void Write(std::vector<TensorToStore> tensors) const { WriteSafetensors(file_, tensors, {}); }

  const std::filesystem::path file_ =
      std::filesystem::path(::testing::TempDir()) /
      fmt::format("{}.safetensors", ::testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(KeyCodebooksTest, AreReadAsTheyWereWritten) {
  const KeyCodebooks written = SomeCodebooks();
  WriteKeyCodebooks(file_, written, TinyConfig());
  const KeyCodebooks read = ReadKeyCodebooks(file_, TinyConfig());
  EXPECT_THAT(read.NumStages(), ElementsAre(2, 0));
  EXPECT_EQ(read.Fingerprint(), written.Fingerprint());
  EXPECT_NE(read.Fingerprint(), KeyCodebooks(TinyConfig()).Fingerprint());
}

TEST_F(KeyCodebooksTest, NoFileGivesThePlainest) {
  const KeyCodebooks plain = ReadKeyCodebooks("/no/such/file", TinyConfig());
  EXPECT_THAT(plain.NumStages(), ElementsAre(0, 0));
  EXPECT_EQ(plain.OfLayer(1).mean.row<float>(1)[7], 0);
  EXPECT_EQ(plain.OfLayer(1).weight.row<float>(1)[7], 1);
}

TEST_F(KeyCodebooksTest, OtherShapesAreErrors) {
  WriteKeyCodebooks(file_, SomeCodebooks(), TinyConfig());
  ModelConfig config = TinyConfig();
  config.num_layers = 3;
  EXPECT_THAT(ErrorOf(config), HasSubstr("layers.2.mean"));
  config = TinyConfig();
  config.head_dim = 16;
  EXPECT_THAT(ErrorOf(config), HasSubstr("layers.0.mean"));
  const Buffer ones = Ramp({2, 8}, 1), words = Ramp({2, 300, 8}, 1);
  Write({{"layers.0.mean", ones}, {"layers.0.weight", ones}, {"layers.0.codewords", words}});
  EXPECT_THAT(ErrorOf(TinyConfig()), HasSubstr("stages · 256"));
}

TEST_F(KeyCodebooksTest, ValuesThatMakeNoBoundsAreErrors) {
  const Buffer ones = Ramp({2, 8}, 1), bad = Ramp({2, 8}, 1);
  for (const float value : {0.0f, -1.0f, std::nanf(""), INFINITY}) {
    bad.view().row<float>(1)[3] = value;
    Write({{"layers.0.mean", ones}, {"layers.0.weight", bad}});
    EXPECT_THAT(ErrorOf(TinyConfig()), HasSubstr("layers.0.weight")) << value;
  }
  Write({{"layers.0.mean", bad}, {"layers.0.weight", ones}});
  EXPECT_THAT(ErrorOf(TinyConfig()), HasSubstr("layers.0.mean"));
}

TEST_F(KeyCodebooksTest, OneFlippedBitIsAnError) {
  WriteKeyCodebooks(file_, SomeCodebooks(), TinyConfig());
  std::fstream stream(file_, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(-100, std::ios::end);
  const char byte = static_cast<char>(stream.get() ^ 4);
  stream.seekp(-100, std::ios::end);
  stream.put(byte);
  stream.close();
  EXPECT_THAT(ErrorOf(TinyConfig()), HasSubstr(file_.string()));
}

}  // namespace
}  // namespace sluice
