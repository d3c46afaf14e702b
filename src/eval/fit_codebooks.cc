#include "eval/fit_codebooks.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "base/interrupt.h"
#include "base/random.h"
#include "base/threads.h"
#include "eval/table.h"
#include "ops/key_rows_numerics.h"
#include "tensor/float16.h"

namespace sluice {

namespace {

constexpr int64_t kCodewords = KeyCodebook::kCodewords;
constexpr int kMeansRounds = 10;      // Of k-means.
constexpr int kWeightRounds = 2;      // Turns of codewords and weights before the last codewords,
constexpr int64_t kWeightStages = 4;  // of so many stages.

// One layer's keys, and the mean squares of its queries' channels.
struct LayerSample {
  std::vector<std::vector<float>> keys;            // Per key/value head, [keys, head_size].
  std::vector<std::vector<double>> query_squares;  // Per key/value head, [head_size]: Σ q_c²
  std::vector<double> queries;                     // Per key/value head: how many.
};

class SampleObserver : public PassObserver {
 public:
  explicit SampleObserver(const ModelConfig& config) : layers(static_cast<size_t>(config.num_layers)) {
    const auto heads = static_cast<size_t>(config.num_kv_heads), size = static_cast<size_t>(config.head_dim);
    for (LayerSample& layer : layers) {
      layer.keys.resize(heads);
      layer.query_squares.assign(heads, std::vector<double>(size));
      layer.queries.assign(heads, 0);
    }
  }

  void OnAttention(const AttentionStep& step) override {
    const AttentionInputs& in = step.inputs;
    LayerSample& layer = layers[static_cast<size_t>(step.layer)];
    const int64_t tokens = in.q.dim(0), kv_heads = in.k.dim(1), size = in.q.dim(2);
    const int64_t heads = in.q.dim(1) / kv_heads;
    std::vector<float> key(static_cast<size_t>(size));
    for (int64_t g = 0; g < kv_heads; ++g) {
      const auto at = static_cast<size_t>(g);
      for (int64_t t = 0; t < tokens; ++t) {
        DecodeKeyRow(in.k, in.span.query_offset + t, g, key.data());
        layer.keys[at].insert(layer.keys[at].end(), key.begin(), key.end());
        const float* q = in.q.row<float>(t) + g * heads * size;
        for (int64_t i = 0; i < heads * size; ++i)
          layer.query_squares[at][static_cast<size_t>(i % size)] += static_cast<double>(q[i]) * q[i];
      }
      layer.queries[at] += static_cast<double>(tokens * heads);
    }
  }

  std::vector<LayerSample> layers;
};

// The codebook of one key/value head, for as many stages as are wanted.
class HeadFit {
 public:
  HeadFit(Ops& ops, const LayerSample& layer, int64_t head, int64_t size, uint64_t seed)
      : ops_(ops),
        random_(seed),
        size_(size),
        num_keys_(std::ssize(layer.keys[static_cast<size_t>(head)]) / size),
        residual_(DType::kF32, {num_keys_, size}),
        products_(DType::kF32, {num_keys_, kCodewords}),
        nearest_(static_cast<size_t>(num_keys_)),
        weight_(static_cast<size_t>(size), 1.0) {
    const std::vector<float>& keys = layer.keys[static_cast<size_t>(head)];
    for (int64_t c = 0; c < size; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < num_keys_; ++i) sum += keys[static_cast<size_t>(i * size + c)];
      mean_.push_back(static_cast<float>(sum / static_cast<double>(num_keys_)));
      const double squares = layer.query_squares[static_cast<size_t>(head)][static_cast<size_t>(c)];
      query_squares_.push_back(squares / layer.queries[static_cast<size_t>(head)]);
    }
    keys_ = &keys;
  }

  // Calls on_stage() after each. slacks[j]: with j stages.
  template <class OnStage>
  void Run(int64_t max_stages, const OnStage& on_stage) {
    for (int round = 0; round < kWeightRounds; ++round) {
      FitStages(std::min(kWeightStages, max_stages), on_stage);
      FitWeights();
    }
    FitStages(max_stages, on_stage);
    // A power of two: the codewords stay what they are.
    const double scale = std::exp2(-std::round(std::log2(std::max(MeanDistance(), 1e-30))));
    for (double& w : weight_) w *= scale;
  }

  const std::vector<float>& mean() const { return mean_; }
  const std::vector<double>& weight() const { return weight_; }
  const std::vector<float>& codewords() const { return codewords_; }  // Of all stages.
  const std::vector<double>& slacks() const { return slacks_; }

 private:
  template <class OnStage>
  void FitStages(int64_t stages, const OnStage& on_stage) {
    codewords_.clear();
    float* x = residual_.view().data<float>();
    for (int64_t i = 0; i < num_keys_ * size_; ++i)
      x[i] = (*keys_)[static_cast<size_t>(i)] - mean_[static_cast<size_t>(i % size_)];
    slacks_ = {Slack()};
    for (int64_t stage = 0; stage < stages; ++stage) {
      ThrowIfInterrupted();
      FitStage();
      slacks_.push_back(Slack());
      on_stage();
    }
  }

  // k-means of the residuals, which then lose their nearest centres.
  void FitStage() {
    Buffer centres(DType::kF32, {kCodewords, size_});
    for (int64_t i = 0; i < kCodewords; ++i) TakeRandomKey(centres.view().row<float>(i));
    for (int round = 0; round < kMeansRounds; ++round) {
      FindNearest(centres);
      MoveCentres(centres);
    }
    float* values = centres.view().data<float>();
    for (int64_t i = 0; i < kCodewords * size_; ++i) values[i] = FloatFromBF16(BF16FromFloat(values[i]));
    FindNearest(centres);
    for (int64_t i = 0; i < num_keys_; ++i) {
      const float* centre = centres.view().row<float>(nearest_[static_cast<size_t>(i)]);
      for (int64_t c = 0; c < size_; ++c) residual_.view().row<float>(i)[c] -= centre[c];
    }
    codewords_.insert(codewords_.end(), values, values + kCodewords * size_);
  }

  void TakeRandomKey(float* out) {
    const auto key = static_cast<int64_t>(random_.Below(static_cast<uint64_t>(num_keys_)));
    std::copy_n(residual_.view().row<float>(key), size_, out);
  }

  // As EncodeKeys finds them: the highest of x · (w² ∘ c) − |w ∘ c|² / 2.
  void FindNearest(const TensorView& centres) {
    Buffer weighted(DType::kF32, centres.shape());
    std::vector<float> half_squares;
    for (int64_t i = 0; i < kCodewords; ++i) {
      double sum = 0;
      for (int64_t c = 0; c < size_; ++c) {
        const double w = weight_[static_cast<size_t>(c)], x = static_cast<double>(centres.row<float>(i)[c]);
        weighted.view().row<float>(i)[c] = static_cast<float>(w * w * x);
        sum += w * w * x * x;
      }
      half_squares.push_back(static_cast<float>(sum / 2));
    }
    ops_.MatMul({residual_, weighted, products_});
    ParallelForRange(num_keys_, 256, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float* row = products_.view().row<float>(i);
        int64_t best = 0;
        for (int64_t j = 1; j < kCodewords; ++j) {
          if (row[j] - half_squares[static_cast<size_t>(j)] >
              row[best] - half_squares[static_cast<size_t>(best)])
            best = j;
        }
        nearest_[static_cast<size_t>(i)] = static_cast<int32_t>(best);
      }
    });
  }

  // To the means of their keys; one without keys to a random key.
  void MoveCentres(const TensorView& centres) {
    std::vector<double> sums(static_cast<size_t>(kCodewords * size_));
    std::vector<int64_t> counts(kCodewords);
    for (int64_t i = 0; i < num_keys_; ++i) {
      const int32_t centre = nearest_[static_cast<size_t>(i)];
      ++counts[static_cast<size_t>(centre)];
      for (int64_t c = 0; c < size_; ++c)
        sums[static_cast<size_t>(centre * size_ + c)] +=
            static_cast<double>(residual_.view().row<float>(i)[c]);
    }
    for (int64_t j = 0; j < kCodewords; ++j) {
      const int64_t count = counts[static_cast<size_t>(j)];
      if (count == 0) TakeRandomKey(centres.row<float>(j));
      for (int64_t c = 0; count > 0 && c < size_; ++c)
        centres.row<float>(j)[c] =
            static_cast<float>(sums[static_cast<size_t>(j * size_ + c)] / static_cast<double>(count));
    }
  }

  // Channels that hardly matter, to queries or among what is left, get no weights that rounding would drown.
  void FitWeights() {
    std::vector<double> left(static_cast<size_t>(size_));
    for (int64_t i = 0; i < num_keys_; ++i) {
      for (int64_t c = 0; c < size_; ++c)
        left[static_cast<size_t>(c)] += std::pow(static_cast<double>(residual_.view().row<float>(i)[c]), 2);
    }
    const auto floor_of = [](const std::vector<double>& squares) {
      return 1e-4 * std::accumulate(squares.begin(), squares.end(), 0.0) /
                 static_cast<double>(squares.size()) +
             1e-30;
    };
    const double least_query = floor_of(query_squares_), least_left = floor_of(left);
    for (size_t c = 0; c < left.size(); ++c) {
      weight_[c] = std::pow(std::max(query_squares_[c], least_query) / std::max(left[c], least_left), 0.25);
    }
  }

  // Mean |w ∘ r|.
  double MeanDistance() const {
    double sum = 0;
    for (int64_t i = 0; i < num_keys_; ++i) {
      double squares = 0;
      for (int64_t c = 0; c < size_; ++c)
        squares += std::pow(weight_[static_cast<size_t>(c)] * residual_.view().row<float>(i)[c], 2);
      sum += std::sqrt(squares);
    }
    return sum / static_cast<double>(num_keys_);
  }

  double Slack() const {
    double reach = 0;
    for (int64_t c = 0; c < size_; ++c) {
      const auto at = static_cast<size_t>(c);
      reach += query_squares_[at] / (weight_[at] * weight_[at]);
    }
    return std::sqrt(reach) * MeanDistance() / std::sqrt(static_cast<double>(size_));
  }

  Ops& ops_;
  Random random_;
  int64_t size_;
  int64_t num_keys_;
  const std::vector<float>* keys_ = nullptr;
  Buffer residual_, products_;
  std::vector<int32_t> nearest_;
  std::vector<float> mean_;
  std::vector<double> query_squares_;
  std::vector<double> weight_;
  std::vector<float> codewords_;
  std::vector<double> slacks_;
};

// One layer's, of all stages, head by head.
struct LayerFit {
  std::vector<HeadFit> heads;

  // Mean over heads.
  double Slack(int64_t stages) const {
    double sum = 0;
    for (const HeadFit& head : heads) sum += head.slacks()[static_cast<size_t>(stages)];
    return sum / static_cast<double>(heads.size());
  }
  KeyCodebooks::Layer Take(int64_t stages, int64_t size) const {
    const auto num_heads = std::ssize(heads);
    KeyCodebooks::Layer layer{
        Buffer(DType::kF32, {num_heads, size}), Buffer(DType::kF32, {num_heads, size}), {}};
    if (stages > 0) layer.codewords = Buffer(DType::kF32, {num_heads, stages * kCodewords, size});
    for (int64_t g = 0; g < num_heads; ++g) {
      const HeadFit& head = heads[static_cast<size_t>(g)];
      std::copy(head.mean().begin(), head.mean().end(), layer.mean.view().row<float>(g));
      std::transform(head.weight().begin(), head.weight().end(), layer.weight.view().row<float>(g),
                     [](double w) { return static_cast<float>(w); });
      if (stages > 0)
        std::copy_n(head.codewords().begin(), stages * kCodewords * size,
                    layer.codewords.view().row<float>(g));
    }
    return layer;
  }
};

// Stages of every layer.
std::vector<int64_t> ShareOut(const std::vector<LayerFit>& layers, int64_t budget, int64_t max_stages) {
  std::vector<int64_t> stages(layers.size(), 0);
  for (; budget > 0; --budget) {
    size_t best = layers.size();
    double most = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      if (stages[i] == max_stages) continue;
      const double gain = layers[i].Slack(stages[i]) - layers[i].Slack(stages[i] + 1);
      if (gain > most) {
        most = gain;
        best = i;
      }
    }
    if (best == layers.size()) break;
    ++stages[best];
  }
  return stages;
}

void CheckOptions(const FitCodebooksOptions& options) {
  if (!(options.share > 0 && options.share <= 1))
    throw InputError("--share must be above 0 and at most 1, such as 0.02, not {}", options.share);
  if (options.max_stages < 1 || options.max_stages > KeyCodebook::kMaxStages) {
    throw InputError("--max-stages must be between 1 and {}, not {}", KeyCodebook::kMaxStages,
                     options.max_stages);
  }
}

}  // namespace

FitCodebooksResult FitCodebooks(const Engine& engine, const std::vector<std::string>& texts,
                                const FitCodebooksOptions& options, const Session::Progress& progress) {
  CheckOptions(options);
  const auto start = std::chrono::steady_clock::now();
  const ModelConfig& config = engine.config();
  const int64_t size = config.head_dim, heads = config.num_kv_heads;
  const int64_t stages_to_fit =
      config.num_layers * heads *
      (options.max_stages + kWeightRounds * std::min(kWeightStages, options.max_stages));
  // A stage is counted as so many tokens; it takes about as long.
  constexpr int64_t kStageTokens = 1024;
  const int64_t total = options.text.tokens + stages_to_fit * kStageTokens;
  const auto report = [&](int64_t done) {
    if (progress) progress(done, total);
  };
  SampleObserver sample(config);
  ReadSpreadWindows(
      engine, texts, options.text, [&](int64_t done, int64_t) { report(done); }, &sample);

  int64_t done = options.text.tokens;
  std::vector<LayerFit> fits(sample.layers.size());
  for (size_t layer = 0; layer < fits.size(); ++layer) {
    for (int64_t g = 0; g < heads; ++g) {
      HeadFit& head = fits[layer].heads.emplace_back(
          engine.ops(), sample.layers[layer], g, size,
          options.seed + layer * static_cast<size_t>(heads) + static_cast<uint64_t>(g));
      head.Run(options.max_stages, [&] { report(done += kStageTokens); });
    }
  }

  constexpr int64_t kBytes = 2 * 2;  // Of a channel of key and value in bfloat16.
  const double row_bytes = static_cast<double>(kBytes * size * config.num_layers);
  const int64_t budget =
      std::max<int64_t>(static_cast<int64_t>(options.share * row_bytes) - config.num_layers, 0);
  const std::vector<int64_t> stages = ShareOut(fits, budget, options.max_stages);
  std::vector<KeyCodebooks::Layer> layers;
  std::vector<CodebookFigures> figures;
  int64_t bytes = 0;
  for (size_t layer = 0; layer < fits.size(); ++layer) {
    layers.push_back(fits[layer].Take(stages[layer], size));
    figures.push_back({stages[layer], fits[layer].Slack(0), fits[layer].Slack(stages[layer])});
    bytes += KeyCodeBytes(stages[layer]);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {KeyCodebooks(std::move(layers)), figures, static_cast<double>(bytes) / row_bytes, elapsed.count()};
}

std::string FitCodebooksTable(const FitCodebooksResult& result) {
  Table table({"layer", "stages", "bytes/key and head", "slack before, nats", "slack, nats"});
  for (size_t i = 0; i < result.layers.size(); ++i) {
    const CodebookFigures& layer = result.layers[i];
    table.AddRow({fmt::format("{}", i), fmt::format("{}", layer.stages),
                  fmt::format("{}", KeyCodeBytes(layer.stages)), fmt::format("{:.1f}", layer.slack_before),
                  fmt::format("{:.1f}", layer.slack)});
  }
  return table.ToString() + fmt::format("the codes take {:.2f}% of keys and values in bfloat16; {:.1f} s\n",
                                        100 * result.share, result.seconds);
}

nlohmann::ordered_json FitCodebooksJson(const FitCodebooksResult& result) {
  nlohmann::ordered_json json = {{"share", result.share}, {"seconds", result.seconds}};
  for (const CodebookFigures& layer : result.layers) {
    json["layers"].push_back(
        {{"stages", layer.stages}, {"slack_before", layer.slack_before}, {"slack", layer.slack}});
  }
  return json;
}

}  // namespace sluice
