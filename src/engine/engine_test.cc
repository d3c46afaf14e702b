// A model folder goes out and comes back; every way in which it can be damaged is named.
#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "engine/session.h"
#include "engine/testing.h"
#include "model/average.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::TinyConfig;
using testing::TinyEngine;

class ModelFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    root_ = std::filesystem::path(::testing::TempDir()) / (std::string("sluice_model_") + test->name());
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
    testing::TinyTokenizer().Save(root_ / "source.json");
    engine_ = TinyEngine();
    SaveModel(folder(), engine_->model(), root_ / "source.json");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::filesystem::path folder() const { return root_ / "model"; }
  ModelFolder files() const { return {folder()}; }

  // The message of the InputError that loading ends in.
  std::string LoadError() const {
    try {
      const Engine engine(folder());
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  }
  void Replace(const std::filesystem::path& file, const std::string& from, const std::string& to) const {
    std::string text = ReadFile(file);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos);
    text.replace(at, from.size(), to);
    WriteFileAtomically(file, text);
  }
  // Writes the weights anew after a change to the list of tensors.
  template <class Change>
  void Rewrite(const Change& change) const {
    const Model& model = engine_->model();
    std::vector<TensorToStore> tensors;
    for (const ParameterInfo& parameter : model.table().parameters()) {
      tensors.push_back({parameter.name, model.table().View(parameter, model.parameters()), DType::kF32});
    }
    change(tensors);
    WriteSafetensors(files().weights_file(), tensors);
  }

  std::filesystem::path root_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(ModelFolderTest, TheMeanOfModelsHasTheMeanOfEveryWeight) {
  const auto second = TinyEngine(TinyConfig(), /*seed=*/2);
  SaveModel(root_ / "second", second->model(), root_ / "source.json");
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const std::unique_ptr<Model> a = LoadModel(folder(), *ops), b = LoadModel(root_ / "second", *ops);
  const std::unique_ptr<Model> mean = AverageModels({folder(), root_ / "second", root_ / "second"}, *ops);
  for (int64_t i = 0; i < mean->parameters().num_elements(); ++i) {
    const double expected =
        (double{a->parameters().data<float>()[i]} + 2 * double{b->parameters().data<float>()[i]}) / 3;
    ASSERT_EQ(mean->parameters().data<float>()[i], static_cast<float>(expected)) << i;
  }
}

TEST_F(ModelFolderTest, OnlyModelsOfOneKindHaveAMean) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const auto error = [&](const std::filesystem::path& other) -> std::string {
    try {
      AverageModels({folder(), other}, *ops);
    } catch (const InputError& input_error) {
      return input_error.what();
    }
    return "no error";
  };
  ModelConfig config = TinyConfig();
  config.top_k += 1;
  SaveModel(root_ / "other", TinyEngine(config)->model(), root_ / "source.json");
  EXPECT_THAT(error(root_ / "other"), HasSubstr("in \"top_k\""));
  SaveModel(root_ / "tokens", engine_->model(), root_ / "source.json");
  WriteFileAtomically(root_ / "tokens" / "tokenizer.json", ReadFile(root_ / "source.json") + " ");
  EXPECT_THAT(error(root_ / "tokens"), HasSubstr("is another tokenizer"));
  EXPECT_THAT(error(root_ / "nowhere"), HasSubstr("nowhere"));
}

TEST_F(ModelFolderTest, RoundTrip) {
  const Engine loaded(folder());
  EXPECT_EQ(ToJson(loaded.config()), ToJson(engine_->config()));
  const WeightsTable& table = loaded.model().table();
  for (const ParameterInfo& parameter : table.parameters()) {
    const float* saved = table.View(parameter, engine_->model().parameters()).data<float>();
    const float* read = table.View(parameter, loaded.model().parameters()).data<float>();
    const bool rounded = parameter.shape.rank() > 1;
    for (int64_t i = 0; i < parameter.shape.num_elements(); ++i) {
      ASSERT_EQ(read[i], rounded ? FloatFromBF16(BF16FromFloat(saved[i])) : saved[i])
          << parameter.name << " " << i;
    }
  }
  // What was rounded once stays: saving again gives the same file.
  SaveModel(root_ / "again", loaded.model(), files().tokenizer_file());
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"}) {
    EXPECT_EQ(ReadFile(root_ / "again" / name), ReadFile(folder() / name)) << name;
  }
}

TEST_F(ModelFolderTest, OtherFloatTypesAreRead) {
  for (const DType stored : {DType::kF32, DType::kF16, DType::kBF16}) {
    Rewrite([&](std::vector<TensorToStore>& tensors) {
      for (TensorToStore& tensor : tensors) tensor.stored = stored;
    });
    Engine loaded(folder());
    Session session(loaded);
    session.Sync(testing::RandomTokens(100, 1));
    EXPECT_TRUE(std::isfinite(session.logits().data<float>()[0]));
  }
}

TEST_F(ModelFolderTest, WeightsLoadIntoTheReferenceBackend) {
  const auto reference = MakeOps("reference");
  const auto model = LoadModel(folder(), *reference);
  EXPECT_EQ(model->parameters().dtype(), DType::kF64);
}

TEST_F(ModelFolderTest, MissingFilesAreNamed) {
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    std::filesystem::rename(folder() / name, root_ / "away");
    EXPECT_THAT(LoadError(), HasSubstr(name));
    std::filesystem::rename(root_ / "away", folder() / name);
  }
  std::filesystem::remove(files().generation_file());
  EXPECT_EQ(LoadError(), "no error");
  std::filesystem::remove_all(folder());
  EXPECT_THAT(LoadError(), HasSubstr("no such model folder"));
}

TEST_F(ModelFolderTest, TruncatedWeights) {
  const auto size = std::filesystem::file_size(files().weights_file());
  for (const uint64_t left : {size - 1, size / 2, uint64_t{100}, uint64_t{3}, uint64_t{0}}) {
    std::filesystem::resize_file(files().weights_file(), left);
    EXPECT_THAT(LoadError(), HasSubstr("model.safetensors")) << left << " bytes left";
  }
}

TEST_F(ModelFolderTest, OneFlippedBit) {
  const std::string good = ReadFile(files().weights_file());
  Random random(3);
  for (int trial = 0; trial < 20; ++trial) {
    std::string bad = good;
    bad[random.Below(bad.size())] ^= static_cast<char>(1u << random.Below(8));
    WriteFileAtomically(files().weights_file(), bad);
    EXPECT_THAT(LoadError(), HasSubstr("model.safetensors"));
  }
}

TEST_F(ModelFolderTest, TensorsThatDoNotFitTheConfig) {
  Rewrite([](std::vector<TensorToStore>& tensors) { tensors.pop_back(); });
  EXPECT_THAT(LoadError(), HasSubstr("\"model.norm.weight\" is missing"));
  const Buffer more(DType::kF32, {7});
  Rewrite([&](std::vector<TensorToStore>& tensors) { tensors.push_back({"more", more, DType::kF32}); });
  EXPECT_THAT(LoadError(), HasSubstr("\"more\" is not part of the model"));
  Rewrite([&](std::vector<TensorToStore>& tensors) { tensors.back().values = more; });
  EXPECT_THAT(LoadError(), HasSubstr("\"model.norm.weight\" has shape [7]"));
}

TEST_F(ModelFolderTest, CheckpointWithoutGates) {
  Rewrite([](std::vector<TensorToStore>& tensors) {
    std::erase_if(
        tensors, [](const TensorToStore& tensor) { return tensor.name.find(".gate.") != std::string::npos; });
  });
  EXPECT_THAT(LoadError(), HasSubstr("has no gate weights"));
  EXPECT_THAT(LoadError(), HasSubstr("--fresh-gates"));
  // The rest can be read, for gates to be trained anew.
  const auto ops = MakeOps("cpu");
  const Model model(TinyConfig(), *ops);
  LoadWeights(files().weights_file(), model, {.gates = false});
  for (const ParameterInfo& parameter : model.table().parameters()) {
    const float read = model.table().View(parameter, model.parameters()).data<float>()[0];
    const float saved = model.table().View(parameter, engine_->model().parameters()).data<float>()[0];
    EXPECT_EQ(read, parameter.kind == ParameterKind::kGate ? 0 : saved) << parameter.name;
  }
}

TEST_F(ModelFolderTest, WeightsThatAreNotFinite) {
  const WeightsTable& table = engine_->model().table();
  const ParameterInfo& parameter = table.parameters()[3];
  float* values = table.View(parameter, engine_->model().parameters()).data<float>();
  for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    values[5] = bad;
    SaveModel(folder(), engine_->model(), root_ / "source.json");
    EXPECT_THAT(LoadError(), HasSubstr("\"" + parameter.name + "\" has a value that is not finite"));
    EXPECT_THAT(LoadError(), HasSubstr("index 5"));
  }
}

TEST_F(ModelFolderTest, ConfigAndTokenizerAreChecked) {
  Replace(files().config_file(), "\"hidden_size\"", "\"hiden_size\"");
  EXPECT_THAT(LoadError(), HasSubstr("config.json"));
  WriteFileAtomically(files().config_file(), "{");
  EXPECT_THAT(LoadError(), HasSubstr("config.json"));
  ModelConfig smaller = TinyConfig();
  smaller.vocab_size = 200;
  const auto other = MakeOps("cpu");
  const Model model(smaller, *other);
  SaveModel(folder(), model, root_ / "source.json");
  EXPECT_THAT(LoadError(), HasSubstr("vocab_size = 200"));
  WriteFileAtomically(files().tokenizer_file(), "[]");
  EXPECT_THAT(LoadError(), HasSubstr("tokenizer.json"));
}

TEST_F(ModelFolderTest, GenerationConfig) {
  WriteFileAtomically(files().generation_file(), R"({"temperature": 0.5, "top_k": 3, "top_p": 0.9})");
  const Engine engine(folder());
  EXPECT_EQ(engine.generation().temperature, 0.5);
  EXPECT_EQ(engine.generation().top_k, 3);
  WriteFileAtomically(files().generation_file(), R"({"temperature": "hot", "top_k": 3, "top_p": 0.9})");
  EXPECT_THAT(LoadError(), HasSubstr("generation_config.json"));
}

}  // namespace
}  // namespace sluice
