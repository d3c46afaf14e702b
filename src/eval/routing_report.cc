// The results of `sluice eval routing` for people, programs and the eye.
#include <cmath>

#include "eval/expert_load_report.h"
#include "eval/routing.h"
#include "eval/table.h"

namespace sluice {

namespace {

constexpr int64_t kMostUsed = 3;

double UtilisationChange(const TextRouting& text, const TextRouting& first) {
  return MeanOf(BalanceByLayer(text.load)).utilisation / MeanOf(BalanceByLayer(first.load)).utilisation - 1;
}

std::vector<std::string> Cells(const std::string& name, const Balance& balance, const LayerRouting& layer) {
  return {name,
          FormatShare(balance.utilisation),
          fmt::format("{:.3f}", balance.cv),
          fmt::format("{:.3f}", balance.gini),
          FormatShare(balance.effective),
          fmt::format("{:.3f}", balance.min_to_mean),
          FormatShare(layer.rerouted),
          FormatShare(layer.unserved),
          FormatShare(layer.entropy)};
}

std::string TextTable(const TextRouting& text) {
  const std::vector<Balance> balance = BalanceByLayer(text.load);
  Table table(
      {text.name, "utilisation", "cv", "gini", "effective", "min/mean", "rerouted", "unserved", "entropy"});
  for (size_t layer = 0; layer < balance.size(); ++layer)
    table.AddRow(Cells(fmt::format("layer {}", layer), balance[layer], text.layers[layer]));
  table.AddRow(Cells("mean", MeanOf(balance), text.Mean()));
  const int64_t worst = WorstLayer(balance);
  return fmt::format("{}worst layer {}: utilisation {}; {} tokens in {} windows, {:.4f} nats/token\n",
                     table.ToString(), worst, FormatShare(balance[static_cast<size_t>(worst)].utilisation),
                     FormatCount(text.tokens), FormatCount(text.windows), text.nats);
}

std::string ComparisonTable(const std::vector<TextRouting>& texts) {
  Table table({"text", "tokens", "nats/token", "utilisation", "against first", "worst layer", "effective",
               "overlap"});
  for (const TextRouting& text : texts) {
    const std::vector<Balance> balance = BalanceByLayer(text.load);
    const Balance mean = MeanOf(balance);
    const int64_t worst = WorstLayer(balance);
    table.AddRow({text.name, FormatCount(text.tokens), fmt::format("{:.4f}", text.nats),
                  FormatShare(mean.utilisation),
                  fmt::format("{:+.1f}%", 100 * UtilisationChange(text, texts.front())),
                  fmt::format("{}: {}", worst, FormatShare(balance[static_cast<size_t>(worst)].utilisation)),
                  FormatShare(mean.effective), FormatShare(LoadOverlap(text.load, texts.front().load))});
  }
  return table.ToString();
}

std::string MostUsedTable(const std::vector<TextRouting>& texts) {
  Table table({"most used, layer:expert", "1", "2", "3"});
  for (const TextRouting& text : texts) {
    std::vector<std::string> cells = {text.name};
    for (const ExpertUse& use : MostUsed(text.load, kMostUsed))
      cells.push_back(fmt::format("{}:{} {:.2f}x", use.layer, use.expert, use.over_even));
    cells.resize(1 + static_cast<size_t>(kMostUsed));
    table.AddRow(cells);
  }
  return table.ToString();
}

nlohmann::ordered_json FiguresJson(const Balance& balance, const LayerRouting& layer) {
  nlohmann::ordered_json json = BalanceJson(balance);
  json["rerouted"] = layer.rerouted;
  json["unserved"] = layer.unserved;
  json["entropy"] = layer.entropy;
  return json;
}

nlohmann::ordered_json TextJson(const TextRouting& text, const TextRouting& first) {
  const std::vector<Balance> balance = BalanceByLayer(text.load);
  const int64_t worst = WorstLayer(balance);
  nlohmann::ordered_json json = {
      {"text", text.name}, {"tokens", text.tokens}, {"windows", text.windows}, {"nats_per_token", text.nats}};
  json.update(FiguresJson(MeanOf(balance), text.Mean()));
  json["worst_utilisation"] = balance[static_cast<size_t>(worst)].utilisation;
  json["worst_layer"] = worst;
  json["layers"] = nlohmann::ordered_json::array();
  json["load"] = nlohmann::ordered_json::array();
  for (size_t layer = 0; layer < balance.size(); ++layer) {
    nlohmann::ordered_json row = {{"layer", layer}};
    row.update(FiguresJson(balance[layer], text.layers[layer]));
    json["layers"].push_back(std::move(row));
    json["load"].push_back(text.load.Layer(static_cast<int64_t>(layer)));
  }
  json["most_used"] = nlohmann::ordered_json::array();
  for (const ExpertUse& use : MostUsed(text.load, kMostUsed)) {
    json["most_used"].push_back({{"layer", use.layer}, {"expert", use.expert}, {"over_even", use.over_even}});
  }
  json["overlap"] = LoadOverlap(text.load, first.load);
  json["utilisation_change"] = UtilisationChange(text, first);
  return json;
}

}  // namespace

std::string RoutingTable(const RoutingResult& result) {
  std::string text;
  for (const TextRouting& routing : result.texts) text += TextTable(routing) + "\n";
  if (result.texts.size() > 1)
    text += ComparisonTable(result.texts) + "\n" + MostUsedTable(result.texts) + "\n";
  return fmt::format("{}windows of {} tokens; capacity factor {:g}, as training would have had it\n", text,
                     FormatCount(*result.options.context), result.options.capacity_factor);
}

nlohmann::ordered_json RoutingJson(const RoutingResult& result) {
  const RoutingOptions& options = result.options;
  nlohmann::ordered_json json = {{"tokens", options.tokens},
                                 {"context", *options.context},
                                 {"capacity_factor", options.capacity_factor},
                                 {"capacity_prior_tokens", options.capacity_prior_tokens},
                                 {"capacity_gamma_max", options.capacity_gamma_max},
                                 {"num_experts", result.texts.front().load.num_experts()},
                                 {"experts_per_token", result.experts_per_token},
                                 {"seconds", result.seconds},
                                 {"texts", nlohmann::ordered_json::array()}};
  for (const TextRouting& text : result.texts) json["texts"].push_back(TextJson(text, result.texts.front()));
  return json;
}

HeatMap RoutingPlot(const RoutingResult& result) {
  HeatMap map;
  map.title = "Load of each expert, 1: even";
  map.x_label = "expert";
  map.y_label = "text and layer";
  map.low = 0;
  map.high = 2;
  const int64_t experts = result.texts.front().load.num_experts();
  for (int64_t expert = 0; expert < experts; ++expert) map.x_names.push_back(std::to_string(expert));
  for (const TextRouting& text : result.texts) {
    for (int64_t layer = 0; layer < text.load.num_layers(); ++layer) {
      map.y_names.push_back(fmt::format("{} {}", text.name, layer));
      const auto counts = text.load.Layer(layer);
      const double mean =
          static_cast<double>(text.tokens * result.experts_per_token) / static_cast<double>(experts);
      std::vector<double> row;
      // Two digits: the cells show their numbers.
      for (const int64_t count : counts)
        row.push_back(std::round(100 * static_cast<double>(count) / mean) / 100);
      map.values.push_back(std::move(row));
    }
  }
  return map;
}

}  // namespace sluice
