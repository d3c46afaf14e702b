// Router profiles go out and come back, belong to one model's weights, and change its routing alone.
#include "model/router_profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "engine/session.h"
#include "engine/testing.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class RouterProfileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    root_ = std::filesystem::path(::testing::TempDir()) / (std::string("sluice_profile_") + test->name());
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
    testing::TinyTokenizer().Save(root_ / "source.json");
    SaveModel(files().path, testing::TinyEngine()->model(), root_ / "source.json");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  ModelFolder files() const { return {root_ / "model"}; }

  // Its biases push tokens towards the experts of high index.
  static RouterProfile MakeProfile(const std::string& name) {
    RouterProfile profile{name, Buffer(DType::kF32, {3, 4}), {4096, 8192, 0.75, 4.25, 4.26, 0.5, 0.875}};
    for (int64_t i = 0; i < 12; ++i)
      profile.bias.view().data<float>()[i] = 0.1f * static_cast<float>(i % 4 + i / 4);
    return profile;
  }
  void Write(const RouterProfile& profile) const {
    const Engine engine(files().path);
    WriteRouterProfile(files(), engine.model(), profile);
  }
  // The message of the InputError that loading the model with a profile ends in.
  std::string LoadError(const std::string& name) const {
    try {
      const Engine engine(files().path, name);
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  }
  // Writes the profile's file anew, with a right checksum, after a change to what is in it.
  template <class Change>
  void Rewrite(const std::string& name, const Change& change) const {
    const auto copy = root_ / "copy.safetensors";
    std::filesystem::copy_file(ProfileFile(files(), name), copy,
                               std::filesystem::copy_options::overwrite_existing);
    const SafetensorsFile file(copy);
    std::vector<TensorToStore> tensors;
    for (const StoredTensor& tensor : file.tensors())
      tensors.push_back({tensor.name, file.View(tensor.name), DType::kF32});
    auto metadata = file.metadata();
    change(tensors, metadata);
    WriteSafetensors(ProfileFile(files(), name), tensors, metadata);
  }

  std::filesystem::path root_;
};

// The experts that every layer served, and the last logits.
struct Routed : PassObserver {
  std::vector<int32_t> experts;
  std::vector<float> logits;

  explicit Routed(const Engine& engine) {
    Session session(engine);
    session.Observe(this);
    session.Sync(testing::RandomTokens(200, 5));
    const float* data = session.logits().data<float>();
    logits.assign(data, data + session.logits().num_elements());
  }
  void OnRouting(const RoutingStep& step) override {
    const int32_t* data = step.experts.data<int32_t>();
    experts.insert(experts.end(), data, data + step.experts.num_elements());
  }
};

TEST_F(RouterProfileTest, RoundTrip) {
  const RouterProfile saved = MakeProfile("law");
  Write(saved);
  const Engine engine(files().path);
  const RouterProfile read = ReadRouterProfile(files(), engine.model(), "law");
  EXPECT_EQ(read.name, "law");
  for (int64_t i = 0; i < 12; ++i)
    EXPECT_EQ(read.bias.view().data<float>()[i], saved.bias.view().data<float>()[i]) << i;
  EXPECT_EQ(read.figures.calibration_tokens, 4096);
  EXPECT_EQ(read.figures.held_out_tokens, 8192);
  EXPECT_EQ(read.figures.blend, 0.75);
  EXPECT_EQ(read.figures.loss_before, 4.25);
  EXPECT_EQ(read.figures.loss_after, 4.26);
  EXPECT_EQ(read.figures.utilisation_before, 0.5);
  EXPECT_EQ(read.figures.utilisation_after, 0.875);
}

TEST_F(RouterProfileTest, ConfigListsTheProfiles) {
  const auto listed = [&] { return ReadModelConfig(files().config_file()).router_profiles; };
  EXPECT_THAT(ReadFile(files().config_file()), HasSubstr("\"router_profiles\": []"));
  Write(MakeProfile("physics"));
  Write(MakeProfile("law"));
  Write(MakeProfile("physics"));  // Replaced.
  EXPECT_THAT(listed(), ElementsAre("law", "physics"));
  EXPECT_THAT(LoadError("code"), HasSubstr("no router profile \"code\"; it has: law, physics"));
  // A model saved over this one has none.
  SaveModel(files().path, testing::TinyEngine()->model(), root_ / "source.json");
  EXPECT_THAT(listed(), IsEmpty());
  EXPECT_THAT(LoadError("law"), HasSubstr("it has none"));
}

TEST_F(RouterProfileTest, ConfigWithoutTheKeyIsRead) {
  nlohmann::ordered_json json = ToJson(ReadModelConfig(files().config_file()));
  json.erase("router_profiles");
  WriteFileAtomically(files().config_file(), json.dump());
  EXPECT_EQ(LoadError(""), "no error");
  for (const char* bad : {"3", "\"law\"", "[1]", "{}"}) {
    json["router_profiles"] = nlohmann::ordered_json::parse(bad);
    WriteFileAtomically(files().config_file(), json.dump());
    EXPECT_THAT(LoadError(""), HasSubstr("\"router_profiles\" must be a list of texts")) << bad;
  }
}

TEST_F(RouterProfileTest, ChangesTheRouting) {
  Write(MakeProfile("law"));
  const Routed plain{Engine(files().path)};
  const Routed with_profile{Engine(files().path, "law")};
  ASSERT_EQ(plain.experts.size(), with_profile.experts.size());
  EXPECT_NE(plain.experts, with_profile.experts);
  EXPECT_NE(plain.logits, with_profile.logits);
}

TEST_F(RouterProfileTest, TheModelsOwnBiasesGiveTheSameBits) {
  const Engine engine(files().path);
  Write({"same", RouterBias(engine.model()), {}});
  const Routed plain{Engine(files().path)};
  const Routed same{Engine(files().path, "same")};
  EXPECT_EQ(plain.experts, same.experts);
  EXPECT_EQ(std::memcmp(plain.logits.data(), same.logits.data(), plain.logits.size() * sizeof(float)), 0);
}

TEST_F(RouterProfileTest, OtherWeightsRefuseIt) {
  Write(MakeProfile("law"));
  const std::string config = ReadFile(files().config_file());
  SaveModel(files().path, testing::TinyEngine(testing::TinyConfig(), /*seed=*/2)->model(),
            root_ / "source.json");
  WriteFileAtomically(files().config_file(), config);
  const std::string error = LoadError("law");
  EXPECT_THAT(error, HasSubstr("law.safetensors"));
  EXPECT_THAT(error, HasSubstr("model.safetensors"));
  EXPECT_THAT(error, HasSubstr("sluice calibrate --name law --force"));
}

TEST_F(RouterProfileTest, DamagedFiles) {
  Write(MakeProfile("law"));
  const auto file = ProfileFile(files(), "law");
  const std::string good = ReadFile(file);
  Random random(3);
  for (int trial = 0; trial < 20; ++trial) {
    std::string bad = good;
    bad[random.Below(bad.size())] ^= static_cast<char>(1u << random.Below(8));
    WriteFileAtomically(file, bad);
    EXPECT_THAT(LoadError("law"), HasSubstr("law.safetensors"));
  }
  for (const size_t left : {good.size() - 1, good.size() / 2, size_t{3}, size_t{0}}) {
    WriteFileAtomically(file, good.substr(0, left));
    EXPECT_THAT(LoadError("law"), HasSubstr("law.safetensors")) << left << " bytes left";
  }
  std::filesystem::remove(file);
  EXPECT_THAT(LoadError("law"), HasSubstr("law.safetensors"));
}

TEST_F(RouterProfileTest, FilesThatAreNoProfileOfTheModel) {
  Write(MakeProfile("law"));
  const std::string good = ReadFile(ProfileFile(files(), "law"));
  const auto error_after = [&](const auto& change) {
    WriteFileAtomically(ProfileFile(files(), "law"), good);
    Rewrite("law", change);
    return LoadError("law");
  };
  const float nan_values[4] = {0, NAN, 0, 0};
  const Buffer wide(DType::kF32, {5});
  EXPECT_EQ(error_after([](auto&, auto&) {}), "no error");
  EXPECT_THAT(error_after([](auto& tensors, auto&) { tensors.pop_back(); }), HasSubstr("2 tensors"));
  EXPECT_THAT(error_after([](auto& tensors, auto&) { tensors[0].name = "other"; }), HasSubstr("router.bias"));
  EXPECT_THAT(error_after([&](auto& tensors, auto&) { tensors[0].values = wide; }), HasSubstr("[5]"));
  EXPECT_THAT(error_after([&](auto& tensors, auto&) { tensors[0].values = TensorView::Of(nan_values, {4}); }),
              HasSubstr("not finite"));
  EXPECT_THAT(error_after([](auto&, auto& metadata) { metadata.erase("blend"); }), HasSubstr("\"blend\""));
  EXPECT_THAT(error_after([](auto&, auto& metadata) { metadata.erase("weights"); }),
              HasSubstr("\"weights\" is missing"));
  EXPECT_THAT(error_after([](auto&, auto& metadata) { metadata["blend"] = "half"; }),
              HasSubstr("\"blend\" must be a number"));
}

TEST_F(RouterProfileTest, Names) {
  for (const std::string& good : {std::string("a"), std::string("Law-2.1_b"), std::string(64, 'x')})
    EXPECT_NO_THROW(CheckProfileName(good)) << good;
  for (const std::string& bad :
       {std::string(), std::string(".hidden"), std::string(".."), std::string("a/b"), std::string("a b"),
        std::string("a\0b", 3), std::string("é"), std::string(65, 'x')}) {
    EXPECT_THROW(CheckProfileName(bad), InputError) << bad;
    EXPECT_THROW(Write(MakeProfile(bad)), InputError) << bad;
  }
  EXPECT_THAT(LoadError("../law"), HasSubstr("cannot name a router profile"));
}

}  // namespace
}  // namespace sluice
