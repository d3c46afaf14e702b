// Quantised model folders: they come out of a model in floats, load without floats of their matrices, keep
// the promises of bits, and every way in which they can be wrong is named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>

#include "base/file.h"
#include "base/threads.h"
#include "checkpoint/safetensors.h"
#include "engine/session.h"
#include "engine/testing.h"
#include "model/quantize.h"
#include "model/router_profile.h"
#include "tensor/float16.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using testing::FreshLogits;
using ::testing::HasSubstr;
using testing::LogitsOf;
using testing::RandomTokens;
using testing::TinyEngine;

constexpr const char* kQueries = "model.layers.0.self_attn.q_proj.weight";
constexpr const char* kExperts = "model.layers.1.mlp.experts.gate_up_proj";

class QuantizedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    root_ = std::filesystem::path(::testing::TempDir()) / (std::string("sluice_quantized_") + test->name());
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
    testing::TinyTokenizer().Save(root_ / "source.json");
    SaveModel(root_ / "floats", TinyEngine()->model(), root_ / "source.json");
    floats_ = std::make_unique<Engine>(root_ / "floats");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  ModelFolder files() const { return {root_ / "quantized"}; }
  std::vector<QuantizedFigures> Quantize(const QuantizeOptions& options = {}) const {
    return SaveQuantizedModel({root_ / "floats"}, floats_->model(), files().path, options,
                              [](int64_t, int64_t) {});
  }
  std::unique_ptr<Engine> QuantizedEngine() const {
    Quantize();
    return std::make_unique<Engine>(files().path);
  }
  std::string ErrorOf(const std::function<void()>& call) const {
    try {
      call();
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  }
  std::string LoadError() const {
    return ErrorOf([&] { const Engine engine(files().path); });
  }
  // The weights' file again, after a change to its tensors.
  void Rewrite(const std::function<void(std::vector<TensorToStore>&)>& change) const {
    const std::filesystem::path copy = root_ / "copy.safetensors";
    std::filesystem::copy_file(files().weights_file(), copy,
                               std::filesystem::copy_options::overwrite_existing);
    const SafetensorsFile file(copy);
    std::vector<TensorToStore> tensors;
    for (const StoredTensor& stored : file.tensors()) {
      tensors.push_back({stored.name, file.View(stored.name), stored.dtype});
    }
    change(tensors);
    WriteSafetensors(files().weights_file(), tensors);
  }
  void ReplaceConfig(const std::string& from, const std::string& to) const {
    std::string text = ReadFile(files().config_file());
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    WriteFileAtomically(files().config_file(), text.replace(at, from.size(), to));
  }

  std::filesystem::path root_;
  std::unique_ptr<Engine> floats_;
};

TensorToStore& Find(std::vector<TensorToStore>& tensors, const std::string& name) {
  for (TensorToStore& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw Bug("no such tensor");
}

TEST_F(QuantizedTest, ValuesStayWithinHalfAStep) {
  const auto engine = QuantizedEngine();
  const WeightsTable& table = floats_->model().table();
  int64_t num_quantized = 0;
  for (const ParameterInfo& parameter : engine->model().table().parameters()) {
    if (parameter.format == WeightFormat::kFloat) continue;
    num_quantized += parameter.shape.num_elements();
    const QuantizedMatrix matrix = engine->model().Quantized(parameter.name).view();
    for (const ParameterInfo& before : table.parameters()) {
      if (before.name != parameter.name) continue;
      const float* w = table.View(before, floats_->model().parameters()).data<float>();
      for (int64_t i = 0; i < parameter.shape.num_elements(); ++i) {
        const int64_t row = i / matrix.in, k = i % matrix.in;
        const double scale = matrix.Scale(row / matrix.out, row % matrix.out, k / QuantizedMatrix::kBlock);
        const double value = scale * matrix.Code(row / matrix.out, row % matrix.out, k);
        ASSERT_LE(std::abs(value - w[i]), 0.57 * scale) << parameter.name << " " << i;
      }
    }
  }
  // No floats are kept of them, and experts' down_proj, with rows of 16, stays as it was.
  int64_t num_all = 0;
  for (const ParameterInfo& parameter : table.parameters()) num_all += parameter.shape.num_elements();
  EXPECT_GT(num_quantized, num_all / 2);
  EXPECT_LT(engine->model().parameters().num_elements(), num_all - num_quantized + 1000);
  EXPECT_LT(engine->model().WeightBytes(), floats_->model().WeightBytes() / 2);
}

TEST_F(QuantizedTest, FiguresSayWhatBecameOfEachTensor) {
  int64_t after = 0;
  for (const QuantizedFigures& figures : Quantize()) {
    after += figures.bytes_after;
    const bool quantized = figures.format == WeightFormat::kQ8;
    EXPECT_EQ(quantized, figures.largest_error > 0) << figures.name;
    EXPECT_LT(figures.largest_error, 0.57 / 127) << figures.name;
    EXPECT_EQ(figures.bytes_after, quantized ? figures.bytes_before / 2 * 34 / 32 : figures.bytes_before);
    const bool stays = figures.name.find(".gate.") != std::string::npos ||
                       figures.name.find("down_proj") != std::string::npos;
    EXPECT_FALSE(quantized && stays) << figures.name;
  }
  uint64_t stored = 0;
  const SafetensorsFile file(files().weights_file());
  for (const StoredTensor& tensor : file.tensors()) {
    stored += tensor.end - tensor.begin;
  }
  EXPECT_EQ(static_cast<uint64_t>(after), stored);
}

TEST_F(QuantizedTest, LogitsAreNearThoseOfFloats) {
  const auto engine = QuantizedEngine();
  const std::vector<int32_t> tokens = RandomTokens(20, 3);
  const std::vector<float> floats = FreshLogits(*floats_, tokens);
  const std::vector<float> quantized = FreshLogits(*engine, tokens);
  double square = 0, difference = 0;
  for (size_t i = 0; i < floats.size(); ++i) {
    square += floats[i] * floats[i];
    difference += std::pow(floats[i] - quantized[i], 2);
  }
  EXPECT_GT(difference, 0);
  EXPECT_LT(std::sqrt(difference / square), 0.03);
}

TEST_F(QuantizedTest, ChunksAndThreadsDoNotChangeTheBits) {
  const auto engine = QuantizedEngine();
  const int threads = NumThreads();
  for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
    for (const int64_t length : {1, 70, 1500}) {
      const std::vector<int32_t> tokens = RandomTokens(length, 3);
      SessionOptions options;
      options.attention = mode;
      options.chunk_tokens = 4096;
      const std::vector<float> whole = FreshLogits(*engine, tokens, options);
      for (const int64_t chunk : {17, 128, 1024}) {
        options.chunk_tokens = chunk;
        SetNumThreads(chunk == 17 ? 1 : 2);
        EXPECT_EQ(FreshLogits(*engine, tokens, options), whole) << "length " << length << ", chunk " << chunk;
        SetNumThreads(threads);
      }
    }
  }
}

TEST_F(QuantizedTest, TokenByTokenIsTheSameAsWhole) {
  const auto engine = QuantizedEngine();
  const std::vector<int32_t> tokens = RandomTokens(200, 5);
  Session session(*engine);
  for (const int32_t token : tokens) session.Append(token);
  EXPECT_EQ(LogitsOf(session), FreshLogits(*engine, tokens));
}

TEST_F(QuantizedTest, GatesOnRequest) {
  floats_ = nullptr;
  ModelConfig config = testing::TinyConfig();
  config.gate.hidden_size = 32;
  std::filesystem::remove_all(root_ / "floats");
  SaveModel(root_ / "floats", TinyEngine(config)->model(), root_ / "source.json");
  floats_ = std::make_unique<Engine>(root_ / "floats");
  Quantize({.format = WeightFormat::kQ8, .gates = true});
  const Engine engine(files().path);
  EXPECT_TRUE(engine.config().quantization.contains("model.layers.0.self_attn.gate.w2.weight"));
  const std::vector<int32_t> tokens = RandomTokens(100, 5);
  SessionOptions chunked;
  chunked.chunk_tokens = 9;
  EXPECT_EQ(FreshLogits(engine, tokens, chunked), FreshLogits(engine, tokens));
}

TEST_F(QuantizedTest, ProfilesComeAlong) {
  RouterProfile profile;
  profile.name = "law";
  profile.bias = RouterBias(floats_->model());
  profile.bias.view().data<float>()[1] = 0.25f;
  WriteRouterProfile({root_ / "floats"}, floats_->model(), profile);
  floats_ = std::make_unique<Engine>(root_ / "floats");
  Quantize();
  const Engine engine(files().path, "law");
  EXPECT_EQ(RouterBias(engine.model()).view().data<float>()[1], 0.25f);
}

TEST_F(QuantizedTest, TargetAndSourceAreChecked) {
  Quantize();
  EXPECT_THAT(ErrorOf([&] { Quantize(); }), AllOf(HasSubstr("quantized"), HasSubstr("exists already")));
  floats_ = std::make_unique<Engine>(files().path);
  EXPECT_THAT(ErrorOf([&] {
                SaveQuantizedModel(files(), floats_->model(), root_ / "twice", {}, [](int64_t, int64_t) {});
              }),
              HasSubstr("quantised already"));
  EXPECT_FALSE(std::filesystem::exists(root_ / "twice"));
  EXPECT_FALSE(std::filesystem::exists(root_ / "twice.tmp"));
}

TEST_F(QuantizedTest, WeightsThatDoNotFitTheConfig) {
  Quantize();
  const auto own = [&](const std::string& what,
                       const std::function<void(std::vector<TensorToStore>&)>& change, const char* expected) {
    const std::string weights = ReadFile(files().weights_file());
    Rewrite(change);
    EXPECT_THAT(LoadError(), AllOf(HasSubstr("model.safetensors"), HasSubstr(expected))) << what;
    WriteFileAtomically(files().weights_file(), weights);
  };
  const std::string scales = ScalesName(kExperts);
  const Buffer short_scales(DType::kF16, {1});
  const Buffer floats(DType::kF32, floats_->model().table().parameters()[0].shape);
  own(
      "no scales", [&](auto& t) { std::erase_if(t, [&](auto& x) { return x.name == scales; }); },
      "is missing, the scales of");
  own(
      "short scales", [&](auto& t) { Find(t, scales).values = short_scales; }, "but q8 takes f16 [4, 32, 1]");
  own(
      "no codes",
      [&](auto& t) {
        Find(t, "model.embed_tokens.weight") = {"model.embed_tokens.weight", floats, DType::kF32};
      },
      "has type f32");
  own(
      "scales of nothing",
      [&](auto& t) {
        t.push_back({"model.norm.weight.scales", short_scales, DType::kF16});
      },
      "is not part of the model");
  Buffer low(DType::kI8, {32, 32});
  low.view().data<int8_t>()[7] = -128;
  own(
      "a code of -128", [&](auto& t) { Find(t, kQueries).values = low; }, "-128 at index 7");
  Buffer infinite(DType::kF16, {32, 1});
  static_cast<uint16_t*>(infinite.view().raw())[5] = F16FromFloat(1e9f);
  own(
      "an infinite scale", [&](auto& t) { Find(t, ScalesName(kQueries)).values = infinite; },
      "inf at index 5");
  EXPECT_EQ(LoadError(), "no error");
}

TEST_F(QuantizedTest, EveryTruncationIsFound) {
  Quantize();
  const std::string weights = ReadFile(files().weights_file());
  for (size_t size = 0; size < weights.size(); size += 1 + weights.size() / 40) {
    std::ofstream(files().weights_file(), std::ios::binary).write(weights.data(), static_cast<int64_t>(size));
    EXPECT_THAT(LoadError(), HasSubstr("model.safetensors")) << size;
  }
}

TEST_F(QuantizedTest, ConfigsThatDoNotFitTheWeights) {
  Quantize();
  const std::string config = ReadFile(files().config_file());
  const std::string entry = std::string("\"") + kQueries + "\": \"q8\"";
  const auto error_of = [&](const std::string& from, const std::string& to) {
    ReplaceConfig(from, to);
    const std::string error = LoadError();
    WriteFileAtomically(files().config_file(), config);
    return error;
  };
  EXPECT_THAT(error_of(entry + ",", ""), AllOf(HasSubstr(kQueries), HasSubstr("floats are asked for")));
  EXPECT_THAT(error_of(entry, "\"model.layers.7.x\": \"q8\""), HasSubstr("no tensor of this model"));
  EXPECT_THAT(error_of(entry, "\"model.norm.weight\": \"q8\""), HasSubstr("cannot be quantised"));
  EXPECT_THAT(error_of(entry, "\"model.layers.0.mlp.experts.down_proj\": \"q8\""),
              HasSubstr("cannot be quantised"));
  EXPECT_THAT(error_of("\"q8\"", "\"q3\""), AllOf(HasSubstr("q3"), HasSubstr("q8")));
  EXPECT_THAT(error_of("\"block\": 32", "\"block\": 64"), HasSubstr("blocks of 32"));
  EXPECT_EQ(LoadError(), "no error");
}

TEST_F(QuantizedTest, FloatModelsDoNotTakeQuantisedWeights) {
  Quantize();
  EXPECT_THAT(ErrorOf([&] { LoadWeights(files().weights_file(), floats_->model()); }),
              HasSubstr("cannot be trained"));
}

}  // namespace
}  // namespace sluice
