#include "eval/calibrate.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <span>

#include "eval/balance.h"
#include "eval/table.h"
#include "eval/windows.h"
#include "model/router_profile.h"
#include "train/router_balance.h"

namespace sluice {

namespace {

// The whole way to the quantiles in every pass. On nano and 4,096 tokens of physics papers utilisation went
// from 0.63 to 0.87 in eight passes at 1 and to 0.78 at 0.5, at the same held-out loss; neither swung.
constexpr double kSmoothing = 1;
// The blend is found to 1/64.
constexpr int kBisections = 6;

struct Texts {
  std::vector<TokenWindow> calibration;
  std::vector<TokenWindow> held_out;
};

void CheckOptions(const CalibrationOptions& options, const ModelConfig& config) {
  // Fewer give no quantile and no loss worth the name.
  constexpr int64_t kMinTokens = 64;
  constexpr int64_t kMaxTokens = 1 << 24;
  const auto require = [](const char* flag, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high)
      throw InputError("{} must be between {} and {}, not {}", flag, low, high, value);
  };
  require("--tokens", options.tokens, kMinTokens, kMaxTokens);
  require("--held-out-tokens", options.held_out_tokens, kMinTokens, kMaxTokens);
  require("--context", options.context, 2, config.context_length);
  require("--passes", options.passes, 1, 1000);
  if (!(options.max_loss_rise >= 0 && options.max_loss_rise <= 1)) {
    throw InputError("--max-loss-rise must be between 0 and 1, such as 0.005 for half a percent, not {}",
                     options.max_loss_rise);
  }
}

int64_t NumTokens(const std::vector<TokenWindow>& windows) {
  return std::accumulate(
      windows.begin(), windows.end(), int64_t{0},
      [](int64_t sum, const TokenWindow& window) { return sum + static_cast<int64_t>(window.size()); });
}

// Both parts are drawn evenly from end to end of the texts, in windows: four thousand tokens in a row are
// often one document, and a bias that suits it may suit no other.
Texts SpreadWindows(const Tokenizer& tokenizer, const std::vector<std::string>& texts,
                    const CalibrationOptions& options) {
  const int64_t context = std::min({options.context, options.tokens, options.held_out_tokens});
  const std::vector<TokenWindow> windows = CutWindows(tokenizer, texts, context, 0);
  const int64_t total = NumTokens(windows);
  const int64_t needed = options.tokens + options.held_out_tokens;
  if (total < needed) {
    throw InputError(
        "the texts have {} tokens, but {} are needed, {} to calibrate with and {} held out; give more text, "
        "or lower --tokens and --held-out-tokens",
        total, needed, options.tokens, options.held_out_tokens);
  }
  Texts spread;
  int64_t passed = 0, calibration = 0, held_out = 0;
  // Takes a window if its part lags behind its share of the tokens passed; the last one is cut to fit.
  const auto take = [&](const TokenWindow& window, int64_t goal, int64_t& taken,
                        std::vector<TokenWindow>& part) {
    const auto size = std::min(static_cast<int64_t>(window.size()), goal - taken);
    if (size < 2 || taken * total >= goal * passed) return false;
    part.emplace_back(window.begin(), window.begin() + size);
    taken += size;
    return true;
  };
  for (const TokenWindow& window : windows) {
    passed += static_cast<int64_t>(window.size());
    if (!take(window, options.tokens, calibration, spread.calibration))
      take(window, options.held_out_tokens, held_out, spread.held_out);
  }
  return spread;
}

SessionOptions WindowOptions(const CalibrationOptions& options) {
  SessionOptions session;
  session.capacity = options.context;
  return session;
}

// Counts the load of experts, and feeds the quantile balancing of training where it runs.
class RoutingObserver : public PassObserver {
 public:
  RoutingObserver(const ModelConfig& config, RouterBalance* balance)
      : load_(config.num_layers, config.moe.num_experts), balance_(balance) {}
  void OnRouting(const RoutingStep& step) override {
    load_.Count(step.layer, step.experts);
    if (balance_ != nullptr) balance_->Count(step.layer, step.probs, step.choices);
  }
  const ExpertLoad& load() const { return load_; }

 private:
  ExpertLoad load_;
  RouterBalance* balance_;
};

class Calibrator {
 public:
  Calibrator(Engine& engine, Texts texts, const CalibrationOptions& options,
             const Session::Progress& progress)
      : engine_(engine),
        texts_(std::move(texts)),
        options_(options),
        progress_(progress),
        session_(engine, WindowOptions(options)),
        own_bias_(RouterBias(engine.model())),
        balanced_bias_(DType::kF32, own_bias_.view().shape()),
        // As many as there can be: one calibration pass more with the result, λ = 0, 1 and the bisections.
        total_((options.passes + 1) * NumTokens(texts_.calibration) +
               (2 + kBisections) * NumTokens(texts_.held_out)) {}

  CalibrationResult Run() {
    const auto start = std::chrono::steady_clock::now();
    CalibrationResult result;
    result.tokens = NumTokens(texts_.calibration);
    result.held_out_tokens = NumTokens(texts_.held_out);
    result.max_loss_rise = options_.max_loss_rise;
    result.held_out_before = Measure(texts_.held_out);
    BalanceBias(result);
    FindBlend(result);
    result.calibration_after = Measure(texts_.calibration);
    if (progress_) progress_(total_, total_);
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
  }

 private:
  RoutingFigures Measure(const std::vector<TokenWindow>& windows, RouterBalance* balance = nullptr) {
    RoutingObserver observer(engine_.config(), balance);
    session_.Observe(&observer);
    double nats = 0;
    int64_t predicted = 0;
    for (const TokenWindow& window : windows) {
      ScoreWindow(session_, window, [&](int64_t, std::span<const float> losses) {
        // The first token's loss is 0: nothing predicts it.
        nats = std::accumulate(losses.begin(), losses.end(), nats);
        done_ += static_cast<int64_t>(losses.size());
        if (progress_) progress_(done_, total_);
      });
      predicted += static_cast<int64_t>(window.size()) - 1;
    }
    session_.Observe(nullptr);
    const std::vector<Balance> layers = BalanceByLayer(observer.load());
    return {nats / static_cast<double>(predicted), MeanOf(layers).utilisation,
            layers[static_cast<size_t>(WorstLayer(layers))].utilisation};
  }

  // Finds b*.
  void BalanceBias(CalibrationResult& result) {
    RouterConfig config;
    config.bias_smoothing = kSmoothing;
    RouterBalance balance(engine_.model(), config);
    for (int64_t pass = 0; pass < options_.passes; ++pass) {
      const RoutingFigures figures = Measure(texts_.calibration, &balance);
      if (pass == 0) result.calibration_before = figures;
      result.pass_utilisation.push_back(figures.utilisation);
      balance.Update();
    }
    balanced_bias_ = RouterBias(engine_.model());
  }

  void SetBlend(double blend) {
    Buffer bias(DType::kF32, own_bias_.view().shape());
    const float* own = own_bias_.view().data<float>();
    const float* balanced = balanced_bias_.view().data<float>();
    for (int64_t i = 0; i < bias.view().num_elements(); ++i)
      bias.view().data<float>()[i] = static_cast<float>((1 - blend) * own[i] + blend * balanced[i]);
    SetRouterBias(engine_.model(), bias);
  }

  void FindBlend(CalibrationResult& result) {
    const double limit = (1 + options_.max_loss_rise) * result.held_out_before.nats_per_token;
    result.held_out_after = result.held_out_before;
    double refused = 1;
    // Takes `blend` if it is admissible.
    const auto try_blend = [&](double blend) {
      SetBlend(blend);
      const RoutingFigures figures = Measure(texts_.held_out);
      if (blend == 1) result.held_out_balanced = figures;
      if (figures.nats_per_token <= limit) {
        result.blend = blend;
        result.held_out_after = figures;
      } else {
        refused = blend;
      }
    };
    try_blend(1);
    for (int step = 0; step < kBisections && result.blend < 1; ++step)
      try_blend((result.blend + refused) / 2);
    SetBlend(result.blend);
  }

  Engine& engine_;
  Texts texts_;
  CalibrationOptions options_;
  const Session::Progress& progress_;
  Session session_;
  Buffer own_bias_;       // b0
  Buffer balanced_bias_;  // b*
  int64_t done_ = 0;
  int64_t total_;
};

nlohmann::ordered_json ToJson(const RoutingFigures& figures) {
  return {{"nats_per_token", figures.nats_per_token},
          {"utilisation", figures.utilisation},
          {"worst_utilisation", figures.worst_utilisation}};
}

}  // namespace

CalibrationResult Calibrate(Engine& engine, const std::vector<std::string>& texts,
                            const CalibrationOptions& options, const Session::Progress& progress) {
  CheckOptions(options, engine.config());
  return Calibrator(engine, SpreadWindows(engine.tokenizer(), texts, options), options, progress).Run();
}

std::string CalibrationTable(const CalibrationResult& result) {
  Table table({"measure", "before", "after", "fully balanced"});
  const auto add = [&](const char* name, double before, double after, double balanced) {
    table.AddRow({name, FormatShare(before), FormatShare(after), FormatShare(balanced)});
  };
  const RoutingFigures& before = result.held_out_before;
  const RoutingFigures& after = result.held_out_after;
  const RoutingFigures& balanced = result.held_out_balanced;
  table.AddRow({"expert utilisation, calibration tokens", FormatShare(result.calibration_before.utilisation),
                FormatShare(result.calibration_after.utilisation), ""});
  table.AddRow({"  worst layer", FormatShare(result.calibration_before.worst_utilisation),
                FormatShare(result.calibration_after.worst_utilisation), ""});
  add("expert utilisation, held-out tokens", before.utilisation, after.utilisation, balanced.utilisation);
  add("  worst layer", before.worst_utilisation, after.worst_utilisation, balanced.worst_utilisation);
  const auto loss = [](const RoutingFigures& figures) {
    return fmt::format("{:.4f}", figures.nats_per_token);
  };
  const auto rise = [&](const RoutingFigures& figures) {
    return fmt::format("{:+.2f}%", 100 * (figures.nats_per_token / before.nats_per_token - 1));
  };
  table.AddRow({"loss, held-out tokens, nats/token", loss(before), loss(after), loss(balanced)});
  table.AddRow({"  rise", "", rise(after), rise(balanced)});
  table.AddRow({"blend", "0", fmt::format("{:.3f}", result.blend), "1"});
  return table.ToString();
}

nlohmann::ordered_json CalibrationJson(const CalibrationResult& result) {
  return {{"tokens", result.tokens},
          {"held_out_tokens", result.held_out_tokens},
          {"max_loss_rise", result.max_loss_rise},
          {"blend", result.blend},
          {"seconds", result.seconds},
          {"pass_utilisation", result.pass_utilisation},
          {"calibration",
           {{"before", ToJson(result.calibration_before)}, {"after", ToJson(result.calibration_after)}}},
          {"held_out",
           {{"before", ToJson(result.held_out_before)},
            {"after", ToJson(result.held_out_after)},
            {"balanced", ToJson(result.held_out_balanced)}}}};
}

}  // namespace sluice
