// What routing must not depend on: in training, later tokens; at inference, other tokens of the pass.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "base/random.h"
#include "model/model.h"
#include "tensor/host.h"

namespace sluice {
namespace {

ModelConfig SmallConfig(RouterScores scores) {
  ModelConfig config;
  config.vocab_size = 50;
  config.hidden_size = 16;
  config.num_layers = 3;
  config.num_heads = 2;
  config.head_dim = 8;
  config.context_length = 512;
  config.window = 16;
  config.num_sinks = 2;
  config.top_k = 8;
  config.gate = {8, 2, 8, 4, 2, false};
  config.moe = {6, 2, 8, 8, scores};
  return config;
}

// Two rows of 200 random tokens.
struct Rows {
  static constexpr int64_t kLength = 200;
  static constexpr int64_t kTokens = 2 * kLength;
  std::vector<int32_t> tokens, positions, segment_start, targets;
  Buffer weights{DType::kF32, {kTokens}};

  Rows() {
    Random random(2);
    for (int32_t t = 0; t < kTokens; ++t) {
      tokens.push_back(static_cast<int32_t>(random.Below(50)));
      targets.push_back(static_cast<int32_t>(random.Below(50)));
      segment_start.push_back(t / kLength * kLength);
      positions.push_back(t % kLength);
      StoreElement(weights, t, 1.0 / kTokens);
    }
  }

  TrainingBatch View() {
    TrainingBatch batch;
    batch.tokens = {TensorView::Of(tokens.data(), {kTokens}), TensorView::Of(positions.data(), {kTokens}),
                    TensorView::Of(segment_start.data(), {kTokens}), kLength};
    batch.targets = TensorView::Of(targets.data(), {kTokens});
    batch.weights = weights;
    return batch;
  }
};

// Routing and losses of every token of one pass, in memory of their own.
struct PassRecord {
  std::vector<std::vector<int32_t>> experts;  // By layer: [tokens, K]
  std::vector<double> token_loss;
  int64_t rerouted = 0;

  PassRecord(Model& model, Rows& rows, const PassOptions& options) {
    Arena arena;
    PassSaved saved;
    model.ForwardLoss(arena, rows.View(), options, saved);
    for (const MoeSaved& moe : saved.moe) {
      const int32_t* served = moe.experts.data<int32_t>();
      const int32_t* wanted = moe.choices.data<int32_t>();
      experts.emplace_back(served, served + moe.experts.num_elements());
      for (int64_t i = 0; i < moe.experts.num_elements(); ++i) rerouted += served[i] != wanted[i];
    }
    for (int64_t t = 0; t < Rows::kTokens; ++t) token_loss.push_back(LoadElement(saved.token_loss, t));
  }
};

TEST(RoutingTest, InTrainingLaterTokensChangeNoBitBefore) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  for (const RouterScores scores : {RouterScores::kSigmoid, RouterScores::kSoftmax}) {
    Model model(SmallConfig(scores), *ops);
    model.table().Initialize(model.parameters(), 4);
    // A router with strong opinions, so that experts overflow.
    const ModelWeights weights = model.table().Bind(model.parameters());
    for (const LayerWeights& layer : weights.layers) ops->Scale({layer.router, 100});
    for (const AttentionMode attention : {AttentionMode::kDense, AttentionMode::kSparse}) {
      for (const bool reroutes : {true, false}) {
        PassOptions options;
        options.attention = attention;
        options.top_k = 8;
        options.capacity = {CapacityRule::kDynamic, 1.0, 8, 1.2, reroutes};
        Rows rows;
        const PassRecord before(model, rows, options);
        EXPECT_GT(before.rerouted, 50);
        for (const int64_t last : {0, 63, 64, 100, 198}) {
          Rows changed;
          for (int64_t t = 0; t < Rows::kTokens; ++t) {
            auto& token = changed.tokens[static_cast<size_t>(t)];
            if (t % Rows::kLength > last) token = (token + 1 + static_cast<int32_t>(t) % 48) % 50;
          }
          const PassRecord after(model, changed, options);
          for (int64_t t = 0; t < Rows::kTokens; ++t) {
            if (t % Rows::kLength > last) continue;
            const auto i = static_cast<size_t>(t);
            EXPECT_EQ(before.token_loss[i], after.token_loss[i]) << t << " after " << last;
            for (size_t layer = 0; layer < before.experts.size(); ++layer) {
              for (size_t slot = 2 * i; slot < 2 * i + 2; ++slot)
                EXPECT_EQ(before.experts[layer][slot], after.experts[layer][slot]) << t << " after " << last;
            }
          }
        }
      }
    }
  }
}

TEST(RoutingTest, AtInferenceATokenIsRoutedByItself) {
  constexpr int64_t kMates = 32;
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  for (const RouterScores scores : {RouterScores::kSigmoid, RouterScores::kSoftmax}) {
    const ModelConfig config = SmallConfig(scores);
    Model model(config, *ops);
    model.table().Initialize(model.parameters(), 4);
    const LayerWeights layer = model.table().Bind(model.parameters()).layers[0];
    const Buffer x(DType::kF32, {kMates, config.hidden_size}), out(DType::kF32, {kMates, config.hidden_size});
    Random random(9);
    for (int64_t i = 0; i < x.view().num_elements(); ++i) StoreElement(x, i, random.Normal());
    PassOptions options;
    options.capacity.rule = CapacityRule::kDynamic;  // Training's; inference has none.
    options.capacity.factor = 0.1;
    Arena arena;
    const auto run = [&](int64_t begin, int64_t end, const TensorView& to) {
      TokenBatch batch;
      batch.sequence_length = end - begin;
      PassSegment segment;
      segment.end = end - begin;
      segment.options = &options;
      MoeForward(*ops, arena, config, layer, 0, batch, {&segment, 1}, x.view().Rows(begin, end), nullptr,
                 nullptr, to);
    };
    run(0, kMates, out);
    for (const int64_t chunk : {1, 5, 17}) {
      const Buffer part(DType::kF32, {kMates, config.hidden_size});
      for (int64_t begin = 0; begin < kMates; begin += chunk) {
        const int64_t end = std::min(kMates, begin + chunk);
        run(begin, end, part.view().Rows(begin, end));
      }
      EXPECT_EQ(std::memcmp(part.view().raw(), out.view().raw(),
                            static_cast<size_t>(out.view().num_elements()) * sizeof(float)),
                0)
          << "chunks of " << chunk;
    }
  }
}

}  // namespace
}  // namespace sluice
