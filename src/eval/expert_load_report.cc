#include "eval/expert_load_report.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "eval/table.h"

namespace sluice {

nlohmann::ordered_json BalanceJson(const Balance& balance) {
  return {{"utilisation", balance.utilisation},
          {"cv", balance.cv},
          {"gini", balance.gini},
          {"effective_experts", balance.effective},
          {"min_to_mean", balance.min_to_mean}};
}

nlohmann::ordered_json ExpertLoadJson(const ExpertLoad& load) {
  const std::vector<Balance> balance = BalanceByLayer(load);
  const int64_t worst = WorstLayer(balance);
  nlohmann::ordered_json json = {{"num_experts", load.num_experts()},
                                 {"utilisation",
                                  {{"mean", MeanOf(balance).utilisation},
                                   {"worst", balance[static_cast<size_t>(worst)].utilisation},
                                   {"worst_layer", worst}}},
                                 {"layers", nlohmann::ordered_json::array()}};
  for (int64_t layer = 0; layer < load.num_layers(); ++layer) {
    const auto counts = load.Layer(layer);
    nlohmann::ordered_json row = {{"layer", layer},
                                  {"rows", std::accumulate(counts.begin(), counts.end(), int64_t{0})},
                                  {"load", counts}};
    row.update(BalanceJson(balance[static_cast<size_t>(layer)]));
    json["layers"].push_back(std::move(row));
  }
  return json;
}

std::string ExpertLoadBars(const ExpertLoad& load) {
  constexpr std::array<const char*, 9> kBlocks = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const std::vector<Balance> balance = BalanceByLayer(load);
  Table table({"expert load", "each expert's, of the fullest", "utilisation"});
  for (int64_t layer = 0; layer < load.num_layers(); ++layer) {
    const auto counts = load.Layer(layer);
    const int64_t fullest = std::max<int64_t>(1, *std::max_element(counts.begin(), counts.end()));
    std::string bars;
    // Rounded up: only an expert without any rows is blank.
    for (const int64_t count : counts)
      bars += kBlocks[static_cast<size_t>((8 * count + fullest - 1) / fullest)];
    table.AddRow(
        {fmt::format("layer {}", layer), bars, FormatShare(balance[static_cast<size_t>(layer)].utilisation)});
  }
  return table.ToString();
}

}  // namespace sluice
