#include "eval/routing.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "eval/documents.h"
#include "eval/windows.h"

namespace sluice {

namespace {

// Capacities of so many times an even share limit nothing, and still fit their integers.
constexpr double kNoLimit = 1e6;

// Entropy and capacity's shares, from what the router gave.
class RoutingFigures : public PassObserver {
 public:
  RoutingFigures(Ops& ops, const ModelConfig& config, const RouterCapacity& capacity)
      : ops_(ops), moe_(config.moe), capacity_(capacity), layers_(static_cast<size_t>(config.num_layers)) {}

  void OnRouting(const RoutingStep& step) override {
    Layer& layer = layers_[static_cast<size_t>(step.layer)];
    const int64_t experts = moe_.num_experts;
    layer.bias = step.bias;
    for (int64_t t = 0; t < step.probs.dim(0); ++t) {
      layer.entropy += Entropy({step.probs.row<float>(t), static_cast<size_t>(experts)});
      const float* logits = step.logits.row<float>(t);
      layer.logits.insert(layer.logits.end(), logits, logits + experts);
    }
  }

  // What was seen since the last call is one sequence.
  void EndWindow() {
    for (Layer& layer : layers_) {
      AddCapacity(layer);
      layer.logits.clear();
    }
  }

  std::vector<LayerRouting> Layers() const {
    std::vector<LayerRouting> result;
    for (const Layer& layer : layers_) {
      const auto tokens = static_cast<double>(layer.tokens);
      const double slots = tokens * static_cast<double>(moe_.experts_per_token);
      result.push_back({static_cast<double>(layer.rerouted) / slots,
                        static_cast<double>(layer.unserved) / slots, layer.entropy / tokens});
    }
    return result;
  }

 private:
  struct Layer {
    TensorView bias;
    std::vector<float> logits;  // [tokens of the window, experts]
    double entropy = 0;         // Sums.
    int64_t tokens = 0;
    int64_t rerouted = 0;
    int64_t unserved = 0;
  };

  static double Entropy(std::span<const float> probs) {
    if (probs.size() == 1) return 1;
    const double sum = std::accumulate(probs.begin(), probs.end(), 0.0);
    double entropy = 0;
    for (const float p : probs) {
      const double share = p / sum;
      if (share > 0) entropy -= share * std::log(share);
    }
    return entropy / std::log(static_cast<double>(probs.size()));
  }

  void AddCapacity(Layer& layer) {
    const int64_t tokens = static_cast<int64_t>(layer.logits.size()) / moe_.num_experts;
    const int64_t slots = moe_.experts_per_token;
    const Buffer probs(DType::kF32, {tokens, moe_.num_experts});
    const Buffer choices(DType::kI32, {tokens, slots});
    const Buffer served(DType::kI32, {tokens, slots});
    const Buffer gates(DType::kF32, {tokens, slots});
    RouterArgs args;
    args.logits = TensorView::Of(layer.logits.data(), {tokens, moe_.num_experts});
    args.bias = layer.bias;
    args.experts_per_token = slots;
    args.scores = moe_.router_scores;
    args.capacity = capacity_;
    args.sequence_length = tokens;
    args.probs = probs;
    args.choices = choices;
    args.experts = served;
    args.gates = gates;
    ops_.Router(args);
    for (int64_t t = 0; t < tokens; ++t) {
      const int32_t* chosen = choices.view().row<int32_t>(t);
      const int32_t* got = served.view().row<int32_t>(t);
      for (int64_t slot = 0; slot < slots; ++slot) {
        if (got[slot] < 0) {
          ++layer.unserved;
        } else if (std::find(chosen, chosen + slots, got[slot]) == chosen + slots) {
          ++layer.rerouted;
        }
      }
    }
    layer.tokens += tokens;
  }

  Ops& ops_;
  MoeConfig moe_;
  RouterCapacity capacity_;
  std::vector<Layer> layers_;
};

RoutingOptions Complete(RoutingOptions options, const ModelConfig& config) {
  if (!options.context) options.context = std::min(RoutingOptions::kContext, config.context_length);
  if (options.tokens < 2) {
    throw InputError("--tokens must be at least 2, not {}: a text's first token is not predicted",
                     options.tokens);
  }
  if (*options.context < 2 || *options.context > config.context_length) {
    throw InputError("--context must be between 2 and this model's context of {} tokens, not {}",
                     config.context_length, *options.context);
  }
  if (!(options.capacity_factor > 0 && options.capacity_factor <= kNoLimit)) {
    throw InputError("--capacity-factor must be above 0 and at most {:g}, such as 1.25, not {}", kNoLimit,
                     options.capacity_factor);
  }
  if (!(options.capacity_prior_tokens > 0 && options.capacity_prior_tokens <= kNoLimit)) {
    throw InputError("--capacity-prior-tokens must be above 0 and at most {:g}, such as 64, not {}", kNoLimit,
                     options.capacity_prior_tokens);
  }
  if (!(options.capacity_gamma_max >= 1 && options.capacity_gamma_max <= kNoLimit)) {
    throw InputError("--capacity-gamma-max must be between 1 and {:g}, such as 2, not {}", kNoLimit,
                     options.capacity_gamma_max);
  }
  return options;
}

int64_t NumTokens(const std::vector<TokenWindow>& windows) {
  int64_t total = 0;
  for (const TokenWindow& window : windows) total += static_cast<int64_t>(window.size());
  return total;
}

// `on_tokens` gets the number of tokens that were just read.
TextRouting ReadText(const Engine& engine, const std::string& name, const std::vector<TokenWindow>& windows,
                     const RoutingOptions& options, const std::function<void(int64_t)>& on_tokens) {
  SessionOptions session_options = options.session;
  session_options.capacity = 0;
  for (const TokenWindow& window : windows) {
    session_options.capacity = std::max(session_options.capacity, static_cast<int64_t>(window.size()));
  }
  Session session(engine, session_options);
  RoutingFigures figures(engine.ops(), engine.config(),
                         {CapacityRule::kDynamic, options.capacity_factor, options.capacity_prior_tokens,
                          options.capacity_gamma_max, /*reroutes=*/true});
  session.Observe(&figures);
  double nats = 0;
  for (const TokenWindow& window : windows) {
    ScoreWindow(session, window, [&](int64_t, std::span<const float> losses) {
      nats = std::accumulate(losses.begin(), losses.end(), nats);
      on_tokens(static_cast<int64_t>(losses.size()));
    });
    figures.EndWindow();
  }
  TextRouting text(name, session.expert_load());
  text.tokens = NumTokens(windows);
  text.windows = static_cast<int64_t>(windows.size());
  text.nats = nats / static_cast<double>(text.tokens - text.windows);
  text.layers = figures.Layers();
  return text;
}

}  // namespace

std::vector<RoutingText> ReadRoutingTexts(const std::vector<std::string>& paths) {
  std::vector<std::string> stems;
  for (const std::string& path : paths) {
    std::filesystem::path file = path;
    if (!file.has_filename()) file = file.parent_path();  // "texts/"
    stems.push_back(std::filesystem::is_directory(file) ? file.filename().string() : file.stem().string());
  }
  std::vector<RoutingText> texts;
  for (size_t i = 0; i < paths.size(); ++i) {
    const bool unique = std::count(stems.begin(), stems.end(), stems[i]) == 1;
    texts.push_back({unique ? stems[i] : paths[i], ReadTexts({paths[i]})});
  }
  return texts;
}

LayerRouting TextRouting::Mean() const {
  LayerRouting mean;
  const auto count = static_cast<double>(layers.size());
  for (const LayerRouting& layer : layers) {
    mean.rerouted += layer.rerouted / count;
    mean.unserved += layer.unserved / count;
    mean.entropy += layer.entropy / count;
  }
  return mean;
}

RoutingResult RunRouting(const Engine& engine, const std::vector<RoutingText>& texts,
                         const RoutingOptions& options, const Session::Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  RoutingResult result;
  result.options = Complete(options, engine.config());
  result.experts_per_token = engine.config().moe.experts_per_token;
  std::vector<std::vector<TokenWindow>> windows;
  int64_t total = 0, done = 0;
  for (const RoutingText& text : texts) {
    windows.push_back(
        CutWindows(engine.tokenizer(), text.documents, *result.options.context, options.tokens));
    if (windows.back().empty()) {
      throw InputError("{}: no document of two tokens or more; give a longer text", text.name);
    }
    total += NumTokens(windows.back());
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    result.texts.push_back(ReadText(engine, texts[i].name, windows[i], result.options, [&](int64_t tokens) {
      done += tokens;
      if (progress) progress(done, total);
    }));
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

double LoadOverlap(const ExpertLoad& a, const ExpertLoad& b) {
  SLUICE_CHECK_EQ(a.num_layers(), b.num_layers());
  double overlap = 0;
  for (int64_t layer = 0; layer < a.num_layers(); ++layer) {
    const auto first = a.Layer(layer), second = b.Layer(layer);
    SLUICE_CHECK_EQ(first.size(), second.size());
    const auto rows_a = static_cast<double>(std::accumulate(first.begin(), first.end(), int64_t{0}));
    const auto rows_b = static_cast<double>(std::accumulate(second.begin(), second.end(), int64_t{0}));
    for (size_t e = 0; e < first.size(); ++e) {
      overlap += std::min(static_cast<double>(first[e]) / rows_a, static_cast<double>(second[e]) / rows_b);
    }
  }
  return overlap / static_cast<double>(a.num_layers());
}

std::vector<ExpertUse> MostUsed(const ExpertLoad& load, int64_t count) {
  std::vector<ExpertUse> uses;
  for (int64_t layer = 0; layer < load.num_layers(); ++layer) {
    const auto counts = load.Layer(layer);
    const auto rows = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
    for (int64_t expert = 0; expert < load.num_experts(); ++expert) {
      const auto served = static_cast<double>(counts[static_cast<size_t>(expert)]);
      uses.push_back({layer, expert, served / rows * static_cast<double>(load.num_experts())});
    }
  }
  std::stable_sort(uses.begin(), uses.end(),
                   [](const ExpertUse& a, const ExpertUse& b) { return a.over_even > b.over_even; });
  uses.resize(std::min(uses.size(), static_cast<size_t>(count)));
  return uses;
}

}  // namespace sluice
