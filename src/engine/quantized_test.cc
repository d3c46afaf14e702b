// Quantised model folders: they come out of a model in floats, load without floats of their matrices, keep
// the promises of bits, and every way in which they can be wrong is named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>

#include "backend/backend.h"
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
  std::unique_ptr<Engine> QuantizedEngine(WeightFormat format = WeightFormat::kQ8) const {
    std::filesystem::remove_all(files().path);
    QuantizeOptions options;
    options.format = format;
    Quantize(options);
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
  using Change = std::function<void(std::vector<TensorToStore>&)>;
  // What loading says after a change to the tensors, which is then undone.
  void ExpectLoadError(const std::string& what, const Change& change, const char* expected) const {
    const std::string weights = ReadFile(files().weights_file());
    Rewrite(change);
    EXPECT_THAT(LoadError(), AllOf(HasSubstr("model.safetensors"), HasSubstr(expected))) << what;
    WriteFileAtomically(files().weights_file(), weights);
  }
  // The weights' file again, after a change to its tensors.
  void Rewrite(const Change& change) const {
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
    EXPECT_EQ(quantized, figures.relative_error() > 0) << figures.name;
    // Of normal weights a block's largest is about 2.2, half a step at most.
    EXPECT_LT(figures.relative_error(), 2.2 / 127 / 2) << figures.name;
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

// ‖a − b‖ / ‖b‖
double RelativeDistance(const std::vector<float>& a, const std::vector<float>& b) {
  double square = 0, difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    square += b[i] * b[i];
    difference += std::pow(a[i] - b[i], 2);
  }
  return std::sqrt(difference / square);
}

TEST_F(QuantizedTest, LogitsAreNearThoseOfFloats) {
  const std::vector<int32_t> tokens = RandomTokens(20, 3);
  const std::vector<float> floats = FreshLogits(*floats_, tokens);
  const double q8 = RelativeDistance(FreshLogits(*QuantizedEngine(), tokens), floats);
  const double q4 = RelativeDistance(FreshLogits(*QuantizedEngine(WeightFormat::kQ4), tokens), floats);
  EXPECT_GT(q8, 0);
  EXPECT_LT(q8, 0.03);
  EXPECT_GT(q4, 2 * q8);
  EXPECT_LT(q4, 0.3);
}

TEST_F(QuantizedTest, BF16GivesTheLogitsOfFloats) {
  // The folder in floats stores bfloat16 too, so nothing is rounded.
  const auto engine = QuantizedEngine(WeightFormat::kBF16);
  const std::vector<int32_t> tokens = RandomTokens(200, 3);
  EXPECT_EQ(FreshLogits(*engine, tokens), FreshLogits(*floats_, tokens));
  EXPECT_LT(engine->model().WeightBytes(), 0.7 * static_cast<double>(floats_->model().WeightBytes()));
}

TEST_F(QuantizedTest, FormatsByName) {
  QuantizeOptions options;
  options.format = WeightFormat::kQ4;
  options.rules = {{"model.layers.0.*q_proj*", WeightFormat::kFloat},
                   {"*q_proj.weight", WeightFormat::kBF16},
                   {"model.embed_tokens.weight", WeightFormat::kQ8},
                   {"*.down_proj", WeightFormat::kQ8}};  // Rows of 16 cannot be: they stay.
  Quantize(options);
  const Engine engine(files().path);
  EXPECT_EQ(engine.config().FormatOf(kQueries), WeightFormat::kFloat);
  EXPECT_EQ(engine.config().FormatOf("model.layers.1.self_attn.q_proj.weight"), WeightFormat::kBF16);
  EXPECT_EQ(engine.config().FormatOf("model.embed_tokens.weight"), WeightFormat::kQ8);
  EXPECT_EQ(engine.config().FormatOf("model.layers.1.mlp.experts.down_proj"), WeightFormat::kFloat);
  EXPECT_EQ(engine.config().FormatOf(kExperts), WeightFormat::kQ4);
  const std::vector<int32_t> tokens = RandomTokens(100, 5);
  SessionOptions chunked;
  chunked.chunk_tokens = 9;
  EXPECT_EQ(FreshLogits(engine, tokens, chunked), FreshLogits(engine, tokens));
  options.rules = {{"*.o_prjo.*", WeightFormat::kQ8}};
  EXPECT_THAT(ErrorOf([&] {
                SaveQuantizedModel({root_ / "floats"}, floats_->model(), root_ / "twice", options,
                                   [](int64_t, int64_t) {});
              }),
              AllOf(HasSubstr("*.o_prjo.*"), HasSubstr("no matrix")));
}

TEST_F(QuantizedTest, InputsOfEveryMatrixAreCollected) {
  std::unique_ptr<Ops> ops = MakeOps("cpu");
  std::unique_ptr<Model> model = LoadModel(root_ / "floats", *ops);
  InputSquaresByName inputs;
  model->CollectInputs(inputs);
  const Engine engine(std::move(ops), std::move(model), floats_->tokenizer());
  FreshLogits(engine, RandomTokens(100, 5));
  for (const ParameterInfo& parameter : engine.model().table().parameters()) {
    const auto found = inputs.find(parameter.name);
    ASSERT_EQ(found != inputs.end(), parameter.is_matrix) << parameter.name;
    if (!parameter.is_matrix) continue;
    const Buffer importance = found->second.Importance();
    const float* a = importance.view().data<float>();
    ASSERT_EQ(importance.view().shape(), Shape({parameter.num_experts(), parameter.RowShape()[1]}));
    // All 1 is what it would be without rows.
    EXPECT_NE(a[0], 1) << parameter.name;
    for (int64_t i = 0; i < importance.view().num_elements(); ++i) EXPECT_GT(a[i], 0) << parameter.name;
  }
  QuantizeOptions options;
  options.format = WeightFormat::kQ4;
  double nearest = 0, plain = 0, weighted = 0;
  options.rounding = Rounding::kNearest;
  for (const QuantizedFigures& figures : Quantize(options)) nearest += figures.relative_error();
  std::filesystem::remove_all(files().path);
  options.rounding = Rounding::kLeastSquares;
  for (const QuantizedFigures& figures : Quantize(options)) plain += figures.relative_error();
  EXPECT_LT(plain, nearest);
  std::filesystem::remove_all(files().path);
  options.inputs = &inputs;
  for (const QuantizedFigures& figures : Quantize(options)) weighted += figures.relative_error();
  EXPECT_LT(weighted, plain);
}

class QuantizedFormatTest : public QuantizedTest, public ::testing::WithParamInterface<WeightFormat> {};

TEST_P(QuantizedFormatTest, ChunksAndThreadsDoNotChangeTheBits) {
  const auto engine = QuantizedEngine(GetParam());
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

TEST_P(QuantizedFormatTest, TokenByTokenIsTheSameAsWhole) {
  const auto engine = QuantizedEngine(GetParam());
  const std::vector<int32_t> tokens = RandomTokens(200, 5);
  Session session(*engine);
  for (const int32_t token : tokens) session.Append(token);
  EXPECT_EQ(LogitsOf(session), FreshLogits(*engine, tokens));
}

TEST_P(QuantizedFormatTest, EveryTruncationIsFound) {
  QuantizedEngine(GetParam());
  const std::string weights = ReadFile(files().weights_file());
  for (size_t size = 0; size < weights.size(); size += 1 + weights.size() / 40) {
    std::ofstream(files().weights_file(), std::ios::binary).write(weights.data(), static_cast<int64_t>(size));
    EXPECT_THAT(LoadError(), HasSubstr("model.safetensors")) << size;
  }
}

INSTANTIATE_TEST_SUITE_P(, QuantizedFormatTest,
                         ::testing::Values(WeightFormat::kQ8, WeightFormat::kQ4, WeightFormat::kBF16),
                         [](const auto& format) { return NameOf(format.param); });

TEST_F(QuantizedTest, KeyCodebooksComeAlong) {
  const ModelConfig config = testing::TinyConfig();
  const Shape shape = {config.num_kv_heads, config.head_dim};
  std::vector<KeyCodebooks::Layer> layers;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    layers.push_back({Buffer(DType::kF32, shape), Buffer(DType::kF32, shape), {}});
    for (const Buffer* part : {&layers.back().mean, &layers.back().weight})
      std::fill_n(part->view().data<float>(), shape.num_elements(), 2.5f);
  }
  const KeyCodebooks codebooks(std::move(layers));
  WriteKeyCodebooks(ModelFolder{root_ / "floats"}.codebooks_file(), codebooks, config);
  Quantize();
  EXPECT_EQ(Engine(files().path).model().key_codebooks().Fingerprint(), codebooks.Fingerprint());
  // Other weights in the same folder have none.
  SaveModel(root_ / "floats", TinyEngine()->model(), root_ / "source.json");
  EXPECT_NE(Engine(root_ / "floats").model().key_codebooks().Fingerprint(), codebooks.Fingerprint());
}

TEST_F(QuantizedTest, GatesOnRequest) {
  floats_ = nullptr;
  ModelConfig config = testing::TinyConfig();
  config.gate.hidden_size = 32;
  std::filesystem::remove_all(root_ / "floats");
  SaveModel(root_ / "floats", TinyEngine(config)->model(), root_ / "source.json");
  floats_ = std::make_unique<Engine>(root_ / "floats");
  QuantizeOptions options;
  options.gates = true;
  Quantize(options);
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
  const std::string scales = ScalesName(kExperts);
  const Buffer short_scales(DType::kF16, {1});
  const Buffer floats(DType::kF32, floats_->model().table().parameters()[0].shape);
  ExpectLoadError(
      "no scales", [&](auto& t) { std::erase_if(t, [&](auto& x) { return x.name == scales; }); },
      "is missing, which");
  ExpectLoadError(
      "short scales", [&](auto& t) { Find(t, scales).values = short_scales; },
      "q8, which takes f16 [4, 32, 1]");
  ExpectLoadError(
      "no codes",
      [&](auto& t) {
        Find(t, "model.embed_tokens.weight") = {"model.embed_tokens.weight", floats, DType::kF32};
      },
      "is f32");
  ExpectLoadError(
      "scales of nothing",
      [&](auto& t) {
        t.push_back({"model.norm.weight.scales", short_scales, DType::kF16});
      },
      "is not part of the model");
  Buffer low(DType::kI8, {32, 32});
  low.view().data<int8_t>()[7] = -128;
  ExpectLoadError(
      "a code of -128", [&](auto& t) { Find(t, kQueries).values = low; }, "-128 at index 7");
  Buffer infinite(DType::kF16, {32, 1});
  static_cast<uint16_t*>(infinite.view().raw())[5] = F16FromFloat(1e9f);
  ExpectLoadError(
      "an infinite scale", [&](auto& t) { Find(t, ScalesName(kQueries)).values = infinite; },
      "inf at index 5");
  EXPECT_EQ(LoadError(), "no error");
}

TEST_F(QuantizedTest, WeightsThatAreNoQ4OrBF16) {
  QuantizedEngine(WeightFormat::kQ4);
  const std::string mins = MinsName(kQueries);
  Buffer infinite(DType::kF16, {32, 1});
  static_cast<uint16_t*>(infinite.view().raw())[5] = F16FromFloat(-1e9f);
  const Buffer unpacked(DType::kU8, {32, 32});
  ExpectLoadError(
      "no minimums", [&](auto& t) { std::erase_if(t, [&](auto& x) { return x.name == mins; }); },
      "is missing, which");
  ExpectLoadError(
      "an infinite minimum", [&](auto& t) { Find(t, mins).values = infinite; }, "inf at index 5");
  ExpectLoadError(
      "a code a byte", [&](auto& t) { Find(t, kQueries).values = unpacked; }, "q4, which takes u8 [32, 16]");
  QuantizedEngine(WeightFormat::kBF16);
  Buffer nan(DType::kBF16, {32, 32});
  static_cast<uint16_t*>(nan.view().raw())[9] = 0x7fc0;
  ExpectLoadError(
      "a NaN", [&](auto& t) { Find(t, kQueries).values = nan; }, "nan at index 9");
  EXPECT_EQ(LoadError(), "no error");
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
  EXPECT_THAT(error_of(entry, "\"model.norm.weight\": \"q8\""), HasSubstr("cannot be q8"));
  EXPECT_THAT(error_of(entry, "\"model.layers.0.mlp.experts.down_proj\": \"q8\""), HasSubstr("cannot be q8"));
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
