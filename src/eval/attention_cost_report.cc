// The results of `sluice bench attention` for people, programs and the eye.
#include <fmt/format.h>

#include "base/threads.h"
#include "eval/attention_cost.h"
#include "eval/table.h"

namespace sluice {

namespace {

std::string FormatTime(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.1f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.2f} ms", seconds * 1e3);
  return fmt::format("{:.1f} s", seconds);
}

// Dense attention's figure at the row's length, over the row's; empty where it was not measured.
std::string TimesLess(const std::vector<AttentionCostRow>& rows, const AttentionCostRow& row,
                      double (*figure)(const AttentionCostRow&)) {
  for (const AttentionCostRow& other : rows) {
    if (other.method != "dense" || other.length != row.length) continue;
    return fmt::format("{:.1f}x", figure(other) / figure(row));
  }
  return "";
}

LinePlot LengthPlot(const std::vector<AttentionCostRow>& rows, const std::string& title,
                    const std::string& y_label, double (*figure)(const AttentionCostRow&)) {
  LinePlot plot{title, "tokens", y_label, true, true, {}};
  for (const AttentionCostRow& row : rows) {
    if (plot.series.empty() || plot.series.back().name != row.method)
      plot.series.push_back({row.method, {}, {}});
    plot.series.back().x.push_back(static_cast<double>(row.length));
    plot.series.back().y.push_back(figure(row));
  }
  return plot;
}

double QuerySeconds(const AttentionCostRow& row) {
  return row.query_seconds;
}
double QueryFlops(const AttentionCostRow& row) {
  return row.query.total();
}
double PrefillSeconds(const AttentionCostRow& row) {
  return row.prefill_seconds;
}
double ModelFlops(const AttentionCostRow& row) {
  return row.model_flops;
}

}  // namespace

std::string AttentionCostTable(const std::vector<AttentionCostRow>& rows) {
  Table table({"method", "tokens", "query", "", "query FLOPs", "", "prefill", "", "prefill FLOPs",
               "whole model", ""});
  for (const AttentionCostRow& row : rows) {
    table.AddRow({row.method, FormatCount(row.length), FormatTime(row.query_seconds),
                  TimesLess(rows, row, QuerySeconds), FormatFlops(row.query.total()),
                  TimesLess(rows, row, QueryFlops),
                  (row.prefill_estimated ? "~" : "") + FormatTime(row.prefill_seconds),
                  TimesLess(rows, row, PrefillSeconds), FormatFlops(row.prefill.total()),
                  FormatFlops(row.model_flops), TimesLess(rows, row, ModelFlops)});
  }
  return fmt::format(
      "{}x: times less than dense at the same length; ~: estimated from costs per query at several "
      "positions\n",
      table.ToString());
}

std::string AttentionCostCsv(const std::vector<AttentionCostRow>& rows) {
  std::string csv =
      "method,length,query_seconds,query_flops,query_int8_ops,prefill_seconds,prefill_estimated,"
      "prefill_flops,prefill_int8_ops,model_flops\n";
  for (const AttentionCostRow& row : rows) {
    csv += fmt::format("{},{},{:.9g},{:.0f},{:.0f},{:.6g},{},{:.0f},{:.0f},{:.0f}\n", row.method, row.length,
                       row.query_seconds, row.query.floats, row.query.int8, row.prefill_seconds,
                       row.prefill_estimated, row.prefill.floats, row.prefill.int8, row.model_flops);
  }
  return csv;
}

nlohmann::ordered_json AttentionCostJson(const std::vector<AttentionCostRow>& rows, int64_t top_k) {
  nlohmann::ordered_json json = {
      {"threads", NumThreads()}, {"top_k", top_k}, {"rows", nlohmann::ordered_json::array()}};
  for (const AttentionCostRow& row : rows) {
    json["rows"].push_back({{"method", row.method},
                            {"length", row.length},
                            {"query_seconds", row.query_seconds},
                            {"query_flops", row.query.floats},
                            {"query_int8_ops", row.query.int8},
                            {"prefill_seconds", row.prefill_seconds},
                            {"prefill_estimated", row.prefill_estimated},
                            {"prefill_flops", row.prefill.floats},
                            {"prefill_int8_ops", row.prefill.int8},
                            {"model_flops", row.model_flops}});
  }
  return json;
}

std::vector<LinePlot> AttentionCostPlots(const std::vector<AttentionCostRow>& rows) {
  return {LengthPlot(rows, "Attention of one token, all layers", "seconds", QuerySeconds),
          LengthPlot(rows, "Attention of one token, all layers, counted", "operations", QueryFlops),
          LengthPlot(rows, "Attention of a whole prefill", "seconds", PrefillSeconds)};
}

}  // namespace sluice
