// The results of `sluice eval gating` for people, programs and the eye.
#include <cmath>
#include <functional>

#include "eval/gating.h"
#include "eval/table.h"

namespace sluice {

namespace {

using Distance = GateMassSummary::Distance;

// A row per distance at which the oracle of any selector has keys, a column per selector.
std::string DistanceTable(const GatingResult& result, const std::string& name,
                          const std::function<double(const Distance&)>& figure) {
  std::vector<std::string> header = {name + " at distance"};
  for (const GatingRow& row : result.rows) header.push_back(row.selector);
  Table table(header);
  for (size_t bucket = 0; bucket < kDistanceBuckets; ++bucket) {
    std::vector<std::string> cells = {FormatCount(int64_t{1} << bucket) + " on"};
    bool any = false;
    for (const GatingRow& row : result.rows) {
      const Distance& distance = row.mass.by_distance[bucket];
      any = any || distance.wanted > 0;
      cells.push_back(distance.wanted > 0 ? FormatShare(figure(distance)) : "-");
    }
    if (any) table.AddRow(cells);
  }
  return table.ToString();
}

std::string AnswerTable(const GatingResult& result) {
  Table table({"answers", "right", "nats/token", "over dense"});
  const auto add = [&](const GatingRow& row) {
    table.AddRow(
        {row.selector, FormatShare(row.answers.accuracy()),
         fmt::format("{:.4f}", row.answers.nats_per_token()),
         fmt::format("{:+.4f}", row.answers.nats_per_token() - result.dense.answers.nats_per_token())});
  };
  add(result.dense);
  for (const GatingRow& row : result.rows) add(row);
  return fmt::format("{}{} questions\n\n", table.ToString(), result.dense.answers.questions);
}

nlohmann::ordered_json FigureJson(const MassFigure& figure) {
  return {{"mean", figure.mean}, {"p5", figure.p5}, {"worst_layer", figure.worst_layer}};
}

void AddAnswers(const AnswerFigures& answers, nlohmann::ordered_json& json) {
  if (answers.questions == 0) return;
  json["questions"] = answers.questions;
  json["answer_accuracy"] = answers.accuracy();
  json["answer_nats_per_token"] = answers.nats_per_token();
}

nlohmann::ordered_json RowJson(const GatingResult& result, const GatingRow& row) {
  nlohmann::ordered_json json = {{"selector", row.selector},
                                 {"samples", row.mass.num_samples},
                                 {"keys", row.mass.keys},
                                 {"recall", row.mass.recall},
                                 {"far", row.mass.far},
                                 {"retained", FigureJson(row.mass.retained)},
                                 {"relative", FigureJson(row.mass.relative)},
                                 {"relative_by_layer", row.mass.relative_by_layer},
                                 {"nats_per_token", row.nats},
                                 {"perplexity", std::exp(row.nats)},
                                 {"nats_over_dense", row.nats - result.dense.nats},
                                 {"perplexity_over_dense", result.PerplexityOverDense(row)}};
  AddAnswers(row.answers, json);
  json["by_distance"] = nlohmann::ordered_json::array();
  for (size_t bucket = 0; bucket < kDistanceBuckets; ++bucket) {
    const Distance& distance = row.mass.by_distance[bucket];
    if (distance.wanted == 0) continue;
    json["by_distance"].push_back({{"from", int64_t{1} << bucket},
                                   {"wanted", distance.wanted},
                                   {"recall", distance.recall()},
                                   {"retained", FigureJson(distance.retained)},
                                   {"relative", FigureJson(distance.relative)}});
  }
  return json;
}

LinePlot DistancePlot(const GatingResult& result, const std::string& title, const std::string& y_label,
                      const std::function<double(const Distance&)>& figure) {
  LinePlot plot{title, "distance, tokens", y_label, true, false, {}};
  for (const GatingRow& row : result.rows) {
    PlotSeries series;
    series.name = row.selector;
    for (size_t bucket = 0; bucket < kDistanceBuckets; ++bucket) {
      const Distance& distance = row.mass.by_distance[bucket];
      if (distance.wanted == 0) continue;
      series.x.push_back(std::ldexp(1.0, static_cast<int>(bucket)));
      series.y.push_back(100 * figure(distance));
    }
    plot.series.push_back(std::move(series));
  }
  return plot;
}

}  // namespace

std::string GatingTable(const GatingResult& result) {
  Table table({"selector", "keys", fmt::format("recall@{}", result.options.session.top_k), "retained", "p5",
               "worst layer", "of oracle's", "p5", "worst layer", "nats/token", "over dense"});
  for (const GatingRow& row : result.rows) {
    const GateMassSummary& mass = row.mass;
    table.AddRow({row.selector, fmt::format("{:.1f}", mass.keys), FormatShare(mass.recall),
                  FormatShare(mass.retained.mean), FormatShare(mass.retained.p5),
                  FormatShare(mass.retained.worst_layer), FormatShare(mass.relative.mean),
                  FormatShare(mass.relative.p5), FormatShare(mass.relative.worst_layer),
                  fmt::format("{:.4f}", row.nats), fmt::format("{:+.4f}", row.nats - result.dense.nats)});
  }
  std::string text = table.ToString() + "\n";
  for (const GatingRow& row : result.rows) {
    text += fmt::format("{} against dense: {:+.2f}% perplexity\n", row.selector,
                        100 * result.PerplexityOverDense(row));
  }
  if (const std::optional<double> share = result.GateOverFlat())
    text += fmt::format("gate retains {:.2f}% of what flat retains\n", 100 * *share);
  text += "\n";
  if (result.dense.answers.questions > 0) text += AnswerTable(result);
  text += DistanceTable(result, "recall", [](const Distance& d) { return d.recall(); }) + "\n";
  text += DistanceTable(result, "retained", [](const Distance& d) { return d.retained.mean; }) + "\n";
  text += DistanceTable(result, "of oracle's", [](const Distance& d) { return d.relative.mean; });
  return fmt::format("{}\n{} documents of up to {} tokens, their last {} scored; dense: {:.4f} nats/token\n",
                     text, result.documents, FormatCount(result.options.length),
                     FormatCount(result.options.scored), result.dense.nats);
}

nlohmann::ordered_json GatingJson(const GatingResult& result) {
  const GatingOptions& options = result.options;
  nlohmann::ordered_json dense = {{"nats_per_token", result.dense.nats},
                                  {"perplexity", std::exp(result.dense.nats)}};
  AddAnswers(result.dense.answers, dense);
  nlohmann::ordered_json json = {{"length", options.length},
                                 {"documents", result.documents},
                                 {"scored", options.scored},
                                 {"queries", options.queries},
                                 {"top_k", options.session.top_k},
                                 {"seed", options.seed},
                                 {"seconds", result.seconds},
                                 {"dense", dense},
                                 {"selectors", nlohmann::ordered_json::array()}};
  for (const GatingRow& row : result.rows) json["selectors"].push_back(RowJson(result, row));
  if (const std::optional<double> share = result.GateOverFlat()) json["gate_over_flat"] = *share;
  return json;
}

std::vector<LinePlot> GatingPlots(const GatingResult& result) {
  std::vector<LinePlot> plots = {
      DistancePlot(
          result,
          fmt::format("Share of the oracle's {} keys that are selected", result.options.session.top_k),
          "recall, percent", [](const Distance& d) { return d.recall(); }),
      DistancePlot(result, "Attention mass of the selection, relative to the oracle's",
                   "relative mass, percent", [](const Distance& d) { return d.relative.mean; })};
  LinePlot layers{"Attention mass of the selection, relative to the oracle's",
                  "layer",
                  "relative mass, percent",
                  false,
                  false,
                  {}};
  for (const GatingRow& row : result.rows) {
    PlotSeries series;
    series.name = row.selector;
    for (size_t layer = 0; layer < row.mass.relative_by_layer.size(); ++layer) {
      series.x.push_back(static_cast<double>(layer));
      series.y.push_back(100 * row.mass.relative_by_layer[layer]);
    }
    layers.series.push_back(std::move(series));
  }
  plots.push_back(std::move(layers));
  return plots;
}

}  // namespace sluice
