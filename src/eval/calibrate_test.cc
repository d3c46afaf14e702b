// Calibration evens out the use of experts, as far as the held-out loss allows.
#include "eval/calibrate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "engine/testing.h"
#include "model/router_profile.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::RandomText;

CalibrationOptions SmallOptions() {
  CalibrationOptions options;
  options.tokens = 1000;
  options.held_out_tokens = 1000;
  options.context = 256;
  options.max_loss_rise = 1;
  return options;
}

TEST(CalibrateTest, RaisesUtilisation) {
  const auto engine = testing::TinyEngine();
  const CalibrationResult result =
      Calibrate(*engine, {RandomText(500, 1), RandomText(3000, 2)}, SmallOptions());
  EXPECT_EQ(result.blend, 1);
  EXPECT_EQ(result.pass_utilisation.size(), 8u);
  EXPECT_EQ(result.pass_utilisation[0], result.calibration_before.utilisation);
  EXPECT_LT(result.calibration_before.utilisation, 0.9);
  EXPECT_GT(result.calibration_after.utilisation, 0.95);
  EXPECT_GT(result.calibration_after.worst_utilisation, result.calibration_before.worst_utilisation);
  EXPECT_GT(result.held_out_after.utilisation, result.held_out_before.utilisation);
  // What it is measured with is what the engine is left with: calibrated again, it has nothing left to do.
  const CalibrationResult again =
      Calibrate(*engine, {RandomText(500, 1), RandomText(3000, 2)}, SmallOptions());
  EXPECT_EQ(again.calibration_before.utilisation, result.calibration_after.utilisation);
  EXPECT_EQ(again.held_out_before.nats_per_token, result.held_out_after.nats_per_token);
}

// A domain of two kinds of document, one after the other: balanced on both, not on the first alone.
TEST(CalibrateTest, TokensAreSpreadOverTheTexts) {
  std::string cats, rain;
  for (int i = 0; i < 3000; ++i) {
    cats += "cat sat ";
    rain += "garden rain ";
  }
  const auto utilisation_of_rain = [&](const std::vector<std::string>& texts) {
    const auto engine = testing::TinyEngine();
    CalibrationOptions options = SmallOptions();
    const CalibrationResult result = Calibrate(*engine, texts, options);
    EXPECT_EQ(result.tokens, 1000);
    EXPECT_GE(result.held_out_tokens, 1000 - options.context);
    EXPECT_LE(result.held_out_tokens, 1000);
    options.tokens = 64;  // What is measured is the rest, before anything is changed.
    options.passes = 1;
    return Calibrate(*engine, {rain}, options).held_out_before.utilisation;
  };
  EXPECT_GT(utilisation_of_rain({cats, rain}), utilisation_of_rain({cats, cats}));
}

// Between no rise and a large one the blend goes from nothing to everything.
TEST(CalibrateTest, HeldOutLossStaysInItsLimit) {
  bool none = false, some = false, all = false;
  for (uint64_t seed = 1; seed <= 40 && !(none && some && all); ++seed) {
    for (const double rise : {0.0, 1e-5, 1.0}) {
      const auto engine = testing::TinyEngine(testing::TinyConfig(), seed);
      const Buffer own = RouterBias(engine->model());
      CalibrationOptions options = SmallOptions();
      options.tokens = 300;
      options.held_out_tokens = 300;
      options.passes = 2;
      options.max_loss_rise = rise;
      const CalibrationResult result = Calibrate(*engine, {RandomText(3000, seed)}, options);
      EXPECT_LE(result.held_out_after.nats_per_token, (1 + rise) * result.held_out_before.nats_per_token);
      const Buffer bias = RouterBias(engine->model());
      const bool same = std::memcmp(bias.view().raw(), own.view().raw(), 12 * sizeof(float)) == 0;
      EXPECT_EQ(same, result.blend == 0);
      none = none || result.blend == 0;
      some = some || (result.blend > 0 && result.blend < 1);
      all = all || result.blend == 1;
    }
  }
  EXPECT_TRUE(none);
  EXPECT_TRUE(some);
  EXPECT_TRUE(all);
}

TEST(CalibrateTest, ProgressEndsAtItsTotal) {
  const auto engine = testing::TinyEngine();
  int64_t last = 0, end = 0;
  Calibrate(*engine, {RandomText(3000, 1)}, SmallOptions(), [&](int64_t done, int64_t total) {
    EXPECT_GE(done, last);
    EXPECT_LE(done, total);
    last = done;
    end = total;
  });
  EXPECT_GT(end, 0);
  EXPECT_EQ(last, end);
}

TEST(CalibrateTest, TextAndOptionsAreChecked) {
  const auto engine = testing::TinyEngine();
  const auto error = [&](const std::vector<std::string>& texts, const CalibrationOptions& options) {
    try {
      Calibrate(*engine, texts, options);
    } catch (const InputError& caught) {
      return std::string(caught.what());
    }
    return std::string("no error");
  };
  const std::string text = RandomText(100, 1);
  const size_t tokens = engine->tokenizer().Encode(text).size();
  ASSERT_LT(tokens, 1000u);
  EXPECT_THAT(error({text, text}, SmallOptions()),
              HasSubstr(fmt::format("have {} tokens, but 2000 are needed", 2 * tokens)));
  EXPECT_THAT(error({}, SmallOptions()), HasSubstr("have 0 tokens"));
  const auto with = [](auto CalibrationOptions::*field, auto value) {
    CalibrationOptions options = SmallOptions();
    options.*field = value;
    return options;
  };
  using Options = CalibrationOptions;
  EXPECT_THAT(error({text}, with(&Options::tokens, 0)), HasSubstr("--tokens"));
  EXPECT_THAT(error({text}, with(&Options::held_out_tokens, -1)), HasSubstr("--held-out-tokens"));
  EXPECT_THAT(error({text}, with(&Options::context, 1)), HasSubstr("--context"));
  EXPECT_THAT(error({text}, with(&Options::context, 6001)), HasSubstr("--context"));
  EXPECT_THAT(error({text}, with(&Options::passes, 0)), HasSubstr("--passes"));
  EXPECT_THAT(error({text}, with(&Options::max_loss_rise, -0.1)), HasSubstr("--max-loss-rise"));
  EXPECT_THAT(error({text}, with(&Options::max_loss_rise, std::nan(""))), HasSubstr("--max-loss-rise"));
}

}  // namespace
}  // namespace sluice
