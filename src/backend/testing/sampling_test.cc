// Cases of Sample. The chosen token must be equal in every backend.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backend/backend.h"
#include "backend/testing/harness.h"

namespace sluice {
namespace {

const double kLast = std::nextafter(1.0, 0.0);

struct Sampling {
  double temperature = 1;
  int64_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double uniform = 0.5;
};

OpCase SampleCase(int64_t vocab, const Sampling& s, const Fill& logits = Normal(2)) {
  OpCase c(fmt::format("Sample {}, temperature {}, top_k {}, top_p {}, min_p {}, uniform {}", vocab,
                       s.temperature, s.top_k, s.top_p, s.min_p, s.uniform));
  c.In("logits", {vocab}, logits).IntsOut("token", {1});
  c.forward = [s](Ops& ops, const Tensors& t) {
    ops.Sample(
        {t["logits"], s.temperature, s.top_k, s.top_p, s.min_p, s.uniform, t["token"].data<int32_t>()});
  };
  return c;
}

int32_t SampleOn(const char* backend, const std::vector<double>& logits, const Sampling& s) {
  const OpCase c = SampleCase(static_cast<int64_t>(logits.size()), s, Values(logits));
  const std::unique_ptr<Ops> ops = MakeOps(backend);
  OpRun run(c, ops->dtype());
  run.Forward(*ops);
  return static_cast<int32_t>(run.Get("token", 0));
}

TEST(Sample, Random) {
  std::vector<OpCase> cases;
  // The cpu backend sorts 128 tokens first, then 1,024 and so on.
  for (const int64_t vocab : {1, 2, 9, 128, 129, 300, 9000}) {
    for (const double uniform : {0.0, 0.2, 0.7, 0.999}) {
      cases.push_back(SampleCase(vocab, {.uniform = uniform}));
      cases.push_back(SampleCase(vocab, {.temperature = 0.3, .uniform = uniform}));
      cases.push_back(SampleCase(vocab, {.top_k = 3, .uniform = uniform}));
      cases.push_back(SampleCase(vocab, {.top_p = 0.8, .uniform = uniform}));
      cases.push_back(SampleCase(vocab, {.min_p = 0.05, .uniform = uniform}));
      cases.push_back(SampleCase(vocab, {.temperature = 5, .top_k = 700, .uniform = uniform}));
      cases.push_back(SampleCase(vocab, {.temperature = 2, .top_k = 5, .top_p = 0.6, .uniform = uniform}));
      cases.push_back(
          SampleCase(vocab, {.temperature = 3, .top_k = 90, .top_p = 0.9, .min_p = 0.1, .uniform = uniform}));
    }
  }
  EXPECT_TRUE(CheckCases(cases));
}

TEST(Sample, Greedy) {
  EXPECT_TRUE(CheckCases({SampleCase(1, {.temperature = 0}), SampleCase(17, {.temperature = 0}),
                          SampleCase(1000, {.temperature = 0})}));
}

TEST(Sample, KnownAnswers) {
  const double inf = std::numeric_limits<double>::infinity();
  for (const char* backend : {"cpu", "reference"}) {
    EXPECT_EQ(SampleOn(backend, {1, 3, 3, 2}, {.temperature = 0}), 1) << backend;
    EXPECT_EQ(SampleOn(backend, {1, 3, 3, 2}, {.top_k = 1, .uniform = 0.99}), 1) << backend;
    EXPECT_EQ(SampleOn(backend, {1, 3, 2}, {.top_p = 0, .uniform = 0.99}), 1) << backend;
    EXPECT_EQ(SampleOn(backend, {-inf, 0, -inf, 0}, {.uniform = 0.4}), 1) << backend;
    EXPECT_EQ(SampleOn(backend, {-inf, 0, -inf, 0}, {.uniform = 0.6}), 3) << backend;
    EXPECT_EQ(SampleOn(backend, {-inf, 0, -inf, 0}, {.uniform = kLast}), 3) << backend;
    EXPECT_EQ(SampleOn(backend, {5, 5, 5, 5}, {.top_k = 2, .uniform = 0.9}), 1) << backend;
  }
}

TEST(Sample, MinPIsAShareOfTheLargest) {
  const std::vector<double> logits = {std::log(0.1), std::log(0.4), std::log(0.3), std::log(0.2)};
  for (const char* backend : {"cpu", "reference"}) {
    EXPECT_EQ(SampleOn(backend, logits, {.min_p = 0.2, .uniform = kLast}), 0) << backend;
    EXPECT_EQ(SampleOn(backend, logits, {.min_p = 0.3, .uniform = kLast}), 3) << backend;
    EXPECT_EQ(SampleOn(backend, logits, {.min_p = 0.7, .uniform = kLast}), 2) << backend;
    EXPECT_EQ(SampleOn(backend, logits, {.min_p = 1, .uniform = kLast}), 1) << backend;
    // 0.4 and 0.3 are left and renormalised: 4/7 and 3/7.
    EXPECT_EQ(SampleOn(backend, logits, {.top_p = 0.5, .min_p = 0.7, .uniform = 0.56}), 1) << backend;
    EXPECT_EQ(SampleOn(backend, logits, {.top_p = 0.5, .min_p = 0.7, .uniform = 0.58}), 2) << backend;
    EXPECT_EQ(SampleOn(backend, {7, 7, 6, 7}, {.min_p = 1, .uniform = kLast}), 3) << backend;
  }
}

TEST(Sample, RefusesLogitsThatAreNoDistribution) {
  const double inf = std::numeric_limits<double>::infinity();
  for (const char* backend : {"cpu", "reference"}) {
    for (const double temperature : {0.0, 1.0}) {
      const Sampling s{.temperature = temperature};
      EXPECT_THROW(SampleOn(backend, {0, std::nan(""), 1}, s), InputError) << backend;
      EXPECT_THROW(SampleOn(backend, {0, inf, 1}, s), InputError) << backend;
      EXPECT_THROW(SampleOn(backend, {-inf, -inf}, s), InputError) << backend;
    }
  }
}

}  // namespace
}  // namespace sluice
