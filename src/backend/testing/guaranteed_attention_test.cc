// Cases of SummarizeKeys and GuaranteedAttention, and what the guarantee promises: against float64 attention
// over all keys, the mass that was really missed is never above the reported bound, nor that above ε.
#include "ops/guaranteed_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "backend/backend.h"
#include "backend/testing/attention_cases.h"
#include "backend/testing/harness.h"

namespace sluice {
namespace {

constexpr int64_t kCodewords = KeyCodebook::kCodewords;

// Cases against the reference ------------------------------------------------------------------

KeyCodebook CodebookOf(const Tensors& t, int64_t stages) {
  return {t["mean"], t["weight"], stages > 0 ? t["codewords"] : TensorView()};
}

// Where so many keys have codes.
KeyCodeView CodesOf(const Tensors& t, int64_t stages, int64_t num_keys) {
  return {stages > 0 ? t["codes"] : TensorView(), t["distance"], {}, num_keys};
}

// A codebook for keys of this scale: each stage half as far out as the one before.
void AddCodebook(int64_t stages, int64_t kv_heads, int64_t head_size, double scale, OpCase* c) {
  c->In("mean", {kv_heads, head_size}, Normal(0.1 * scale));
  c->In("weight", {kv_heads, head_size}, Uniform(0.5, 2));
  if (stages == 0) return;
  c->In("codewords", {kv_heads, stages * kCodewords, head_size}, Normal(0.6 * scale));
  std::vector<double>& values = c->Find("codewords")->values;
  const auto stage_size = static_cast<size_t>(kCodewords * head_size);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] *= std::exp2(-static_cast<double>(i / stage_size % static_cast<size_t>(stages)));
}

void AddCodes(int64_t capacity, int64_t stages, int64_t kv_heads, OpCase* c) {
  if (stages > 0) c->IntsOut("codes", {capacity, kv_heads, stages}, DType::kU8);
  c->IntsOut("distance", {capacity, kv_heads}, DType::kU8);
}

OpCase EncodeCase(int64_t num_keys, int64_t stages, int64_t kv_heads, int64_t head_size,
                  const Fill& fill = Normal()) {
  OpCase c(fmt::format("EncodeKeys, {} keys of {} x {}, {} stages", num_keys, kv_heads, head_size, stages));
  c.In("k", {num_keys, kv_heads, head_size}, fill);
  AddCodebook(stages, kv_heads, head_size, 1, &c);
  AddCodes(num_keys, stages, kv_heads, &c);
  c.num_rows = num_keys;
  c.rows = [=](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    ops.EncodeKeys({t["k"], begin, end, CodebookOf(t, stages), CodesOf(t, stages, 0)});
  };
  return c;
}

TEST(EncodeKeys, Sizes) {
  EXPECT_TRUE(CheckCases({EncodeCase(0, 1, 1, 8), EncodeCase(1, 2, 1, 64), EncodeCase(50, 4, 2, 24),
                          EncodeCase(16, 3, 1, 1), EncodeCase(17, 1, 1, 13), EncodeCase(33, 0, 2, 8)}));
}

TEST(EncodeKeys, UnusualValues) {
  EXPECT_TRUE(CheckCases({EncodeCase(20, 2, 1, 8, Normal(1e18)), EncodeCase(20, 2, 1, 8, Normal(1e-18)),
                          EncodeCase(20, 0, 1, 8, Normal(1e-18)), EncodeCase(20, 2, 1, 8, Normal(0.01, 5)),
                          EncodeCase(20, 0, 1, 16, Constant(0))}));
}

// A code's distance is the least that holds the key's, and nothing holds what is too far or not a number.
TEST(EncodeKeys, DistanceCodes) {
  for (const double norm : {0.0, 1e-30, 0.00389, 0.0039, 0.5, 1.0, 1.0000001, 17.3, 240.0, 244.9}) {
    const int code = KeyCodeNumerics::CodeOf(norm);
    EXPECT_GE(KeyCodeNumerics::Distances()[static_cast<size_t>(code)], norm);
    if (code > 0) {
      EXPECT_LT(KeyCodeNumerics::Distances()[static_cast<size_t>(code - 1)], norm * 1.0001);
    }
  }
  for (const double norm : {246.0, 1e30, HUGE_VAL, std::nan("")})
    EXPECT_EQ(KeyCodeNumerics::CodeOf(norm), KeyCodeNumerics::kUnbounded) << norm;
}

struct Choice {
  double epsilon = 0.1;
  int64_t width = 5;
  int64_t stages = 2;
};

OpCase GuaranteedCase(const AttentionShape& s, const Choice& choice = {}) {
  const int64_t stages = choice.stages;
  OpCase c(fmt::format("GuaranteedAttention, {}, epsilon {}, {} candidates, {} stages", s.ToString(),
                       choice.epsilon, choice.width, stages));
  AddAttentionInputs(s, &c);
  c.Ints("candidates", {s.tokens, choice.width},
         RandomCandidates(s, choice.width, choice.width, Padding::kAnywhere, 12));
  AddCodebook(stages, s.kv_heads, s.head_size, s.scale, &c);
  AddCodes(s.keys(), stages, s.kv_heads, &c);
  c.Out("out", {s.tokens, s.query_heads, s.head_size}).Out("bound", {s.tokens});
  c.IntsOut("keys_read", {s.tokens});
  c.num_rows = s.tokens;
  c.rows = [=](Ops& ops, const Tensors& t, int64_t begin, int64_t end) {
    const AttentionInputs in = StoredInputs(ops, t, s, begin, end);
    KeyCodeView codes = CodesOf(t, stages, in.k.num_rows);
    codes.map = in.k.map;
    ops.EncodeKeys({in.k, 0, in.k.num_rows, CodebookOf(t, stages), codes});
    ops.GuaranteedAttention({in, t["candidates"].Rows(begin, end), CodebookOf(t, stages), codes,
                             choice.epsilon, t["out"].Rows(begin, end), t["bound"].Rows(begin, end),
                             t["keys_read"].Rows(begin, end)});
  };
  return c;
}

TEST(GuaranteedAttention, HeadSizesAndHeads) {
  std::vector<OpCase> cases;
  for (const int64_t head_size : {8, 16, 24, 64})
    cases.push_back(GuaranteedCase({.tokens = 5, .head_size = head_size, .query_offset = 300}));
  for (const int64_t query_heads : {1, 2, 8, 12})
    cases.push_back(GuaranteedCase({.tokens = 5, .query_heads = query_heads, .query_offset = 300}));
  cases.push_back(GuaranteedCase({.tokens = 5, .query_heads = 4, .kv_heads = 2, .query_offset = 400}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(GuaranteedAttention, Codebooks) {
  std::vector<OpCase> cases;
  for (const int64_t stages : {0, 1, 5})
    cases.push_back(GuaranteedCase({.tokens = 5, .query_heads = 4, .kv_heads = 2, .query_offset = 300},
                                   {.epsilon = 0.5, .stages = stages}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(GuaranteedAttention, Tolerances) {
  std::vector<OpCase> cases;
  for (const double epsilon : {1e-6, 0.01, 0.3, 0.7, 0.95, 0.999})
    cases.push_back(GuaranteedCase({.tokens = 9, .query_offset = 500}, {.epsilon = epsilon}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(GuaranteedAttention, SoftmaxesFlatAndSharp) {
  std::vector<OpCase> cases;
  for (const double scale : {0.01, 0.3, 4.0, 30.0, 1e4})
    cases.push_back(GuaranteedCase({.tokens = 9, .query_offset = 400, .scale = scale}, {.epsilon = 0.3}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(GuaranteedAttention, WindowsSinksSelections) {
  EXPECT_TRUE(CheckCases(
      {GuaranteedCase({.tokens = 40, .num_sinks = 0, .query_offset = 100}, {.width = 0}),
       GuaranteedCase({.tokens = 20, .window = 100, .query_offset = 200}, {.epsilon = 0.5}),
       GuaranteedCase({.tokens = 4, .num_sinks = 70, .query_offset = 300}, {.epsilon = 0.5}),
       GuaranteedCase({.tokens = 4, .query_offset = 190}, {.epsilon = 0.5, .width = 190}),
       GuaranteedCase({.tokens = 140, .query_heads = 2}, {.epsilon = 0.6}), GuaranteedCase({.tokens = 0}),
       GuaranteedCase({.tokens = 1, .query_offset = 64, .spare_keys = 90})}));
}

TEST(GuaranteedAttention, StoredKeys) {
  std::vector<OpCase> cases;
  for (const DType format : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const double epsilon : {0.05, 0.5}) {
      const AttentionShape shape{.tokens = 6, .query_heads = 4, .kv_heads = 2, .query_offset = 400};
      cases.push_back(GuaranteedCase(shape.Stored(format), {.epsilon = epsilon}));
    }
  }
  // Heads that full attention's kernels for bfloat16 take, over keys of which all are read, or some.
  for (const double epsilon : {1e-4, 0.9}) {
    const AttentionShape shape{.tokens = 6, .query_heads = 8, .head_size = 64, .query_offset = 400};
    cases.push_back(GuaranteedCase(shape.Stored(DType::kBF16), {.epsilon = epsilon}));
  }
  EXPECT_TRUE(CheckCases(cases));
}

TEST(GuaranteedAttention, SegmentsAndCachedKeys) {
  EXPECT_TRUE(
      CheckCases({GuaranteedCase({.tokens = 5, .query_offset = 300, .k_rot_begin = 297}, {.epsilon = 0.5}),
                  GuaranteedCase({.tokens = 4, .query_offset = 300, .segment_start = {70, 70, 150, 303}},
                                 {.epsilon = 0.5})}));
}

TEST(GuaranteedAttention, FarBias) {
  std::vector<OpCase> cases;
  for (const double epsilon : {0.05, 0.5, 0.9}) {
    cases.push_back(GuaranteedCase(AttentionShape{.tokens = 7, .query_offset = 400}.WithFullBias(),
                                   {.epsilon = epsilon}));
  }
  cases.push_back(GuaranteedCase(
      AttentionShape{.tokens = 5, .query_heads = 12, .num_sinks = 9, .query_offset = 260}.WithFullBias(),
      {.epsilon = 0.5, .width = 30}));
  EXPECT_TRUE(CheckCases(cases));
}

TEST(GuaranteedAttention, NaNStaysWithItsQuery) {
  OpCase c = GuaranteedCase({.tokens = 7, .head_size = 16, .query_offset = 300});
  c.NanStaysInRow({"q", "q_rot"}, "out");
  EXPECT_TRUE(CheckCases({c}));
}

TEST(GuaranteedAttention, NaNInKeysAndValues) {
  for (const char* name : {"k", "k_rot", "v"}) {
    for (const int64_t key : {0, 70, 258, 261}) {
      OpCase c = GuaranteedCase({.tokens = 4, .query_heads = 2, .query_offset = 258});
      c.Find(name)->values[static_cast<size_t>(key * 8 + 3)] = std::numeric_limits<double>::quiet_NaN();
      c.reference_may_be_nan = true;
      EXPECT_TRUE(CheckCases({c})) << name << " " << key;
    }
  }
}

// The promise ----------------------------------------------------------------------------------

// One decoded query over random or adversarial keys, and what full attention in float64 says about it. Which
// keys were read is found out by running it with other values: one channel for each key, 16 keys at a time.
class Promise {
 public:
  static constexpr int64_t kHeads = 2, kSize = 16, kWindow = 8, kSinks = 2, kWidth = 6, kStages = 2;

  Promise(int64_t num_keys, uint64_t seed) : num_keys_(num_keys), random_(seed) {
    const auto fill = [&](std::vector<float>& rows, int64_t n) {
      rows.resize(static_cast<size_t>(n * kSize));
      for (float& x : rows) x = static_cast<float>(random_.Normal());
    };
    fill(k, num_keys);
    fill(k_rot, kWindow);
    fill(q, kHeads);
    fill(q_rot, kHeads);
    std::set<int32_t> selected;
    while (static_cast<int64_t>(selected.size()) < kWidth)
      selected.insert(static_cast<int32_t>(
          kSinks + static_cast<int64_t>(random_.Below(static_cast<uint64_t>(num_far())))));
    candidates.assign(selected.begin(), selected.end());
    FitCodebook(0.1);
  }

  int64_t num_keys() const { return num_keys_; }
  int64_t num_far() const { return num_keys_ - kWindow - kSinks; }
  Random& random() { return random_; }
  float* Key(int64_t s) { return k.data() + s * kSize; }
  // Codewords of the first stage are keys, those of the second noise of this size.
  void FitCodebook(double noise) {
    mean.assign(kSize, 0.25f);
    weight.resize(kSize);
    for (float& w : weight) w = static_cast<float>(std::exp2(2 * random_.Uniform() - 1));
    codewords.resize(static_cast<size_t>(kStages * kCodewords * kSize));
    for (int64_t i = 0; i < kStages * kCodewords; ++i) {
      const float* key = Key(static_cast<int64_t>(random_.Below(static_cast<uint64_t>(num_keys_))));
      for (int64_t c = 0; c < kSize; ++c)
        codewords[static_cast<size_t>(i * kSize + c)] =
            i < kCodewords ? key[c] - 0.25f : static_cast<float>(noise * random_.Normal());
    }
  }
  // A key whose logit in head 0 is `logit`.
  void Spike(int64_t s, double logit) {
    double norm = 0;
    for (int64_t c = 0; c < kSize; ++c) norm += std::pow(q[static_cast<size_t>(c)], 2);
    const double factor = logit * std::sqrt(static_cast<double>(kSize)) / norm;
    for (int64_t c = 0; c < kSize; ++c) Key(s)[c] = static_cast<float>(q[static_cast<size_t>(c)] * factor);
  }
  // The far keys that head 0 cares least about: a gate that learned the opposite.
  void SelectWorst() {
    std::vector<std::pair<double, int32_t>> order;
    for (int64_t s = kSinks; s < num_keys_ - kWindow; ++s)
      order.emplace_back(Logit(0, s), static_cast<int32_t>(s));
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < candidates.size(); ++i) candidates[i] = order[i].second;
  }
  void AddFarScores(double scale) {
    far_weight = {static_cast<float>(random_.Normal()), static_cast<float>(-std::abs(random_.Normal()))};
    far_scores.resize(static_cast<size_t>(num_far()));
    for (float& score : far_scores) score = static_cast<float>(std::max(0.0, scale * random_.Normal()));
  }

  // "" if the promise is kept. `exact`: logits are moderate, so that the output must agree with full
  // attention's within the bound.
  std::string Check(Ops& ops, double epsilon, bool exact) {
    const std::vector<bool> was_read = FindRead(ops, epsilon);
    if (!(bound >= 0 && bound <= epsilon)) return fmt::format("a bound of {} for epsilon {}", bound, epsilon);
    const int64_t read = std::ranges::count(was_read, true);
    if (exact && read != keys_read) return fmt::format("{} keys read, said to be {}", read, keys_read);
    v.assign(static_cast<size_t>(num_keys_ * kSize), 0.0f);
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i % 7) / 6;
    Run(ops, epsilon);
    for (int64_t h = 0; h < kHeads; ++h) {
      const std::vector<double> probs = Softmax(h);
      double missed = 0;
      std::vector<double> dense(kSize);
      for (int64_t s = 0; s < num_keys_; ++s) {
        const double p = probs[static_cast<size_t>(s)];
        if (!was_read[static_cast<size_t>(s)]) missed += p;
        for (int64_t c = 0; c < kSize; ++c)
          dense[static_cast<size_t>(c)] += p * v[static_cast<size_t>(s * kSize + c)];
      }
      // In float64 the sum may be off by as much.
      if (!(missed <= bound + 1e-13))
        return fmt::format("head {} missed {}, its bound is {}", h, missed, bound);
      for (int64_t c = 0; exact && c < kSize; ++c) {
        const double off = out[static_cast<size_t>(h * kSize + c)] - dense[static_cast<size_t>(c)];
        if (!(std::abs(off) <= bound + 1e-5))
          return fmt::format("head {}, channel {}: output off by {}", h, c, off);
      }
    }
    return "";
  }

  std::vector<float> k, k_rot, v, q, q_rot, far_scores, far_weight;
  std::vector<float> mean, weight, codewords;
  std::vector<float> sink_logit = {0.5f, -1.0f};
  std::vector<int32_t> candidates;
  std::vector<float> out;
  float bound = -1;
  int32_t keys_read = -1;

 private:
  // Whether an output shows each key. Keys whose weight float32 cannot show in any head count as not read,
  // but for those that always are.
  std::vector<bool> FindRead(Ops& ops, double epsilon) {
    std::vector<bool> read(static_cast<size_t>(num_keys_));
    Encode(ops);
    for (int64_t first = 0; first < num_keys_; first += kSize) {
      v.assign(static_cast<size_t>(num_keys_ * kSize), 0.0f);
      const int64_t end = std::min(first + kSize, num_keys_);
      for (int64_t s = first; s < end; ++s) v[static_cast<size_t>(s * kSize + s - first)] = 1;
      Run(ops, epsilon);
      for (int64_t s = first; s < end; ++s) {
        const auto c = static_cast<size_t>(s - first);
        const bool always = s < kSinks || s >= num_keys_ - kWindow || std::ranges::count(candidates, s) > 0;
        read[static_cast<size_t>(s)] = always || out[c] > 0 || out[kSize + c] > 0;
      }
    }
    return read;
  }

  double Logit(int64_t h, int64_t s) const {
    const bool rotated = s >= num_keys_ - kWindow;
    const float* x = (rotated ? q_rot : q).data() + h * kSize;
    const float* y = rotated ? k_rot.data() + (s - num_keys_ + kWindow) * kSize : k.data() + s * kSize;
    double sum = 0;
    for (int64_t c = 0; c < kSize; ++c) sum += static_cast<double>(x[c]) * y[c];
    sum /= std::sqrt(static_cast<double>(kSize));
    if (s < kSinks || rotated || far_scores.empty()) return sum;
    return sum + static_cast<double>(far_weight[static_cast<size_t>(h)]) *
                     far_scores[static_cast<size_t>(s - kSinks)];
  }

  std::vector<double> Softmax(int64_t h) const {
    std::vector<double> probs;
    double highest = sink_logit[static_cast<size_t>(h)];
    for (int64_t s = 0; s < num_keys_; ++s) {
      probs.push_back(Logit(h, s));
      highest = std::max(highest, probs.back());
    }
    double sum = std::exp(sink_logit[static_cast<size_t>(h)] - highest);
    for (double& p : probs) sum += p = std::exp(p - highest);
    for (double& p : probs) p /= sum;
    return probs;
  }

  KeyCodebook Codebook() const {
    return {TensorView::Of(mean.data(), {1, kSize}), TensorView::Of(weight.data(), {1, kSize}),
            TensorView::Of(codewords.data(), {1, kStages * kCodewords, kSize})};
  }
  KeyCodeView Codes() const {
    return {TensorView::Of(codes_.data(), {num_keys_, 1, kStages}),
            TensorView::Of(distances_.data(), {num_keys_, 1}),
            {},
            num_keys_};
  }
  void Encode(Ops& ops) {
    codes_.resize(static_cast<size_t>(num_keys_ * kStages));
    distances_.resize(static_cast<size_t>(num_keys_));
    ops.EncodeKeys({TensorView::Of(k.data(), {num_keys_, 1, kSize}), 0, num_keys_, Codebook(), Codes()});
  }

  void Run(Ops& ops, double epsilon) {
    const Shape keys = {num_keys_, 1, kSize}, queries = {1, kHeads, kSize};
    GuaranteedAttentionArgs args;
    args.in.q = TensorView::Of(q.data(), queries);
    args.in.q_rot = TensorView::Of(q_rot.data(), queries);
    args.in.k = TensorView::Of(k.data(), keys);
    args.in.k_rot = TensorView::Of(k_rot.data(), {kWindow, 1, kSize});
    args.in.k_rot_begin = num_keys_ - kWindow;
    args.in.v = TensorView::Of(v.data(), keys);
    args.in.sink_logit = TensorView::Of(sink_logit.data(), {kHeads});
    args.in.span.query_offset = num_keys_ - 1;
    args.in.span.window = kWindow;
    args.in.span.num_sinks = kSinks;
    args.candidates = TensorView::Of(candidates.data(), {1, kWidth});
    args.codebook = Codebook();
    args.codes = Codes();
    args.epsilon = epsilon;
    if (!far_scores.empty()) {
      args.in.bias.scores = TensorView::Of(far_scores.data(), {1, num_far()});
      args.in.bias.weight = TensorView::Of(far_weight.data(), {kHeads});
    }
    out.assign(kHeads * kSize, 0.0f);
    args.out = TensorView::Of(out.data(), queries);
    args.bound = TensorView::Of(&bound, {1});
    args.keys_read = TensorView::Of(&keys_read, {1});
    ops.GuaranteedAttention(args);
  }

  int64_t num_keys_;
  Random random_;
  std::vector<uint8_t> codes_, distances_;
};

constexpr int64_t kCluster = 64;  // Neighbouring keys around one point.

// Random lengths, strengths and tolerances. Clusters of keys lie around a point each, some tightly, so that
// there are bounds that allow leaving keys out.
Promise RandomPromise(uint64_t seed, double* epsilon) {
  Random random(seed, 5);
  Promise promise(Promise::kWindow + Promise::kSinks + 10 + static_cast<int64_t>(random.Below(500)), seed);
  for (float& x : promise.q) x *= static_cast<float>(std::exp2(5 * random.Uniform() - 2));
  for (float& x : promise.sink_logit) x += static_cast<float>(6 * random.Uniform());
  const auto noise = static_cast<float>(std::exp2(-7 * random.Uniform()));
  std::vector<float> point(Promise::kSize);
  for (int64_t s = 0; s < promise.num_keys(); ++s) {
    for (size_t c = 0; c < point.size(); ++c) {
      if (s % kCluster == 0) point[c] = static_cast<float>(random.Normal());
      promise.Key(s)[c] = point[c] + noise * promise.Key(s)[c];
    }
  }
  promise.FitCodebook(static_cast<double>(noise) / 2);
  *epsilon = std::pow(10.0, -3 * random.Uniform()) * 0.999;
  return promise;
}

// More than 10,000 cases in all, of each kind a share.
constexpr uint64_t kCases = 1250;

// `change` makes a case of this kind. At least so many cases must have left keys out: else nothing was
// tested.
template <class Change>
void ExpectKept(uint64_t least_partial, const Change& change, bool exact = true) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  uint64_t partial = 0;
  for (uint64_t seed = 0; seed < kCases; ++seed) {
    double epsilon = 0;
    Promise promise = RandomPromise(seed, &epsilon);
    change(promise, seed);
    ASSERT_EQ(promise.Check(*ops, epsilon, exact), "") << "seed " << seed;
    partial += promise.keys_read < promise.num_keys() ? 1 : 0;
  }
  EXPECT_GE(partial, least_partial);
}

TEST(GuaranteedAttentionPromise, RandomKeys) {
  ExpectKept(400, [](Promise&, uint64_t) {});
}

TEST(GuaranteedAttentionPromise, UniformKeys) {
  ExpectKept(150, [](Promise& p, uint64_t) {
    for (float& x : p.k) x = static_cast<float>(2 * p.random().Uniform() - 1) * 0.1f;
    p.FitCodebook(0.03);
  });
}

TEST(GuaranteedAttentionPromise, OneSpikeAtEveryPosition) {
  ExpectKept(600, [](Promise& p, uint64_t seed) {
    p.Spike(Promise::kSinks + static_cast<int64_t>(seed) % p.num_far(), 40 * p.random().Uniform());
  });
}

TEST(GuaranteedAttentionPromise, DuplicatedKeys) {
  ExpectKept(150, [](Promise& p, uint64_t seed) {
    // All alike, alike within clusters, or a few different ones.
    const int64_t distinct = std::array<int64_t, 3>{1, kCluster, 7}[seed % 3];
    for (int64_t s = 0; s < p.num_far(); ++s)
      std::copy_n(p.Key(distinct == kCluster ? s / kCluster * kCluster : s % distinct), Promise::kSize,
                  p.Key(s));
  });
}

// Half of the keys off their codewords in the direction in which a head's bound is what they reach, half
// opposite: no bound is tighter.
TEST(GuaranteedAttentionPromise, KeysAtTheirDistance) {
  ExpectKept(100, [](Promise& p, uint64_t seed) {
    std::fill(p.codewords.begin() + kCodewords * Promise::kSize, p.codewords.end(), 0.0f);
    const float* q = p.q.data() + static_cast<int64_t>(seed % 2) * Promise::kSize;
    const double step = 0.3 * p.random().Uniform();
    for (int64_t s = 0; s < p.num_far(); ++s) {
      const auto word = static_cast<int64_t>(p.random().Below(kCodewords));
      for (int64_t c = 0; c < Promise::kSize; ++c) {
        const float w = p.weight[static_cast<size_t>(c)];
        const float off = static_cast<float>(s % 2 == 0 ? -step : step) * q[c] / (w * w);
        p.Key(s)[c] = p.codewords[static_cast<size_t>(word * Promise::kSize + c)] +
                      p.mean[static_cast<size_t>(c)] + off;
      }
    }
  });
}

// Codewords that have nothing to do with the keys.
TEST(GuaranteedAttentionPromise, WrongCodebook) {
  ExpectKept(30, [](Promise& p, uint64_t seed) {
    const double size = 0.5 * static_cast<double>(seed % 3);
    for (float& x : p.codewords) x = static_cast<float>(size * p.random().Normal());
    for (float& x : p.weight) x *= static_cast<float>(std::exp2(4 * p.random().Uniform() - 2));
    for (float& x : p.q) x *= 0.25f;
    for (float& x : p.sink_logit) x += 8;
  });
}

TEST(GuaranteedAttentionPromise, HugeNorms) {
  ExpectKept(
      60,
      [](Promise& p, uint64_t seed) {
        const double scale = std::pow(10.0, static_cast<double>(seed % 19));
        for (float& x : seed % 2 == 0 ? p.k : p.q) x = static_cast<float>(x * scale);
        if (seed % 5 == 0) p.Spike(Promise::kSinks + 7, 1e6);
      },
      /*exact=*/false);
}

TEST(GuaranteedAttentionPromise, ZeroedGate) {
  ExpectKept(400, [](Promise& p, uint64_t) {
    // A gate without weights scores all keys alike: the lowest positions win.
    std::iota(p.candidates.begin(), p.candidates.end(), static_cast<int32_t>(Promise::kSinks));
  });
}

TEST(GuaranteedAttentionPromise, GateThatLearnedTheOpposite) {
  ExpectKept(400, [](Promise& p, uint64_t) { p.SelectWorst(); });
}

TEST(GuaranteedAttentionPromise, FarScores) {
  ExpectKept(400, [](Promise& p, uint64_t seed) {
    p.AddFarScores(std::pow(10.0, static_cast<double>(seed % 4) - 2));
    p.SelectWorst();
  });
}

// Where most keys are far from the query, and one is close, little more than that one is read.
TEST(GuaranteedAttentionPromise, ReadsLittleWhereLittleMatters) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  for (int64_t spike = 5; spike < 500; spike += 40) {
    Promise promise(512, 3);
    for (float& x : promise.k) x *= 0.1f;
    promise.Spike(spike, 30);
    promise.FitCodebook(0.05);
    for (float& x : promise.sink_logit) x = 12;
    ASSERT_EQ(promise.Check(*ops, 0.01, true), "");
    EXPECT_LE(promise.keys_read, 40) << "spike at " << spike;
  }
}

}  // namespace
}  // namespace sluice
