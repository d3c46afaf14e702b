// The results of `sluice bench` for people, programs and the eye.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/progress.h"
#include "base/threads.h"
#include "eval/model_cost.h"
#include "eval/table.h"

namespace sluice {

namespace {

double ShareOfRead(const ModelCostRow& row, const MachinePeaks& peaks) {
  return row.work.MemorySeconds(peaks) / row.seconds;
}
double ShareOfCompute(const ModelCostRow& row, const MachinePeaks& peaks) {
  return row.work.ComputeSeconds(peaks) / row.seconds;
}

const char* NameOf(GateIndex index) {
  return index == GateIndex::kFlat ? "flat" : index == GateIndex::kTree ? "tree" : "auto";
}

// What a step would reach if nothing but the machine's memory and the given units held it up.
PlotSeries Roof(const std::string& name, const MachinePeaks& peaks, double ops_per_second) {
  PlotSeries roof{name, {}, {}};
  const double ridge = ops_per_second / peaks.read_bytes;
  for (const double intensity : {0.5, ridge, 2000.0}) {
    roof.x.push_back(intensity);
    roof.y.push_back(std::min(intensity * peaks.read_bytes, ops_per_second) / 1e9);
  }
  return roof;
}

using Figure = std::function<double(const ModelCostRow&)>;

PlotSeries StepSeries(const ModelCostReport& report, const std::string& step, const Figure& x,
                      const Figure& y) {
  PlotSeries series{step, {}, {}, true};
  for (const ModelCostRow& row : report.rows) {
    if (row.step != step || x(row) <= 0) continue;  // The axis is logarithmic.
    series.x.push_back(x(row));
    series.y.push_back(y(row));
  }
  return series;
}

}  // namespace

std::string ModelCostTable(const ModelCostReport& report) {
  Table table({"step", "depth", "tokens/s", "ms/pass", "GB/s", "of read", "Gop/s", "of compute", "limit"});
  for (const ModelCostRow& row : report.rows) {
    const std::string step = row.tokens > 1 ? fmt::format("{} {}", row.step, row.tokens) : row.step;
    const double read = ShareOfRead(row, report.peaks), compute = ShareOfCompute(row, report.peaks);
    table.AddRow({step, FormatCount(row.depth), fmt::format("{:.1f}", row.tokens_per_second()),
                  fmt::format("{:.2f}", 1e3 * row.seconds),
                  fmt::format("{:.1f}", row.work.bytes() / row.seconds / 1e9), FormatShare(read),
                  fmt::format("{:.1f}", row.work.ops() / row.seconds / 1e9), FormatShare(compute),
                  read > compute ? "memory" : "compute"});
  }
  return fmt::format(
      "{}: {} parameters, {} of weights ({}); {} attention, cache in {}; {} threads\n"
      "the machine's peaks, measured in this run: {}\n\n{}"
      "tokens/s: by the median pass. GB/s, Gop/s: what a pass must read and do at least, over its time.\n"
      "of read, of compute: shares of the peaks; limit: the larger one.\n",
      report.model, FormatCount(report.parameters), FormatBytes(static_cast<double>(report.weight_bytes)),
      report.weights, NameOf(report.options.attention), NameOf(report.options.cache_format), NumThreads(),
      FormatPeaks(report.peaks), table.ToString());
}

nlohmann::ordered_json ModelCostJson(const ModelCostReport& report) {
  nlohmann::ordered_json json = {{"threads", NumThreads()},
                                 {"model", report.model},
                                 {"weights", report.weights},
                                 {"attention", NameOf(report.options.attention)},
                                 {"top_k", report.options.top_k},
                                 {"index", NameOf(report.options.index)},
                                 {"cache_format", NameOf(report.options.cache_format)},
                                 {"parameters", report.parameters},
                                 {"weight_bytes", report.weight_bytes},
                                 {"peaks",
                                  {{"read_bytes_per_second", report.peaks.read_bytes},
                                   {"float_ops_per_second", report.peaks.float_ops},
                                   {"bfloat16_ops_per_second", report.peaks.bfloat16_ops},
                                   {"int8_ops_per_second", report.peaks.int8_ops}}},
                                 {"rows", nlohmann::ordered_json::array()}};
  for (const ModelCostRow& row : report.rows) {
    json["rows"].push_back({{"step", row.step},
                            {"depth", row.depth},
                            {"tokens", row.tokens},
                            {"seconds", row.seconds},
                            {"tokens_per_second", row.tokens_per_second()},
                            {"weight_bytes", row.work.weight_bytes},
                            {"cache_bytes", row.work.cache_bytes},
                            {"float_ops", row.work.float_ops},
                            {"bfloat16_ops", row.work.bfloat16_ops},
                            {"int8_ops", row.work.int8_ops},
                            {"share_of_read", ShareOfRead(row, report.peaks)},
                            {"share_of_compute", ShareOfCompute(row, report.peaks)}});
  }
  return json;
}

std::vector<LinePlot> ModelCostPlots(const ModelCostReport& report) {
  const Figure intensity = [](const ModelCostRow& row) { return row.work.ops() / row.work.bytes(); };
  const Figure ops = [](const ModelCostRow& row) { return row.work.ops() / row.seconds / 1e9; };
  const Figure depth = [](const ModelCostRow& row) { return static_cast<double>(row.depth); };
  const Figure speed = [](const ModelCostRow& row) { return row.tokens_per_second(); };
  LinePlot roofline{
      "Roofline: every depth is a point", "operations per byte that must be read", "Gop/s", true, true, {}};
  roofline.series = {Roof("memory, int8 peak", report.peaks, report.peaks.int8_ops),
                     Roof("memory, bfloat16 peak", report.peaks, report.peaks.bfloat16_ops),
                     Roof("memory, float32 peak", report.peaks, report.peaks.float_ops),
                     StepSeries(report, "decode", intensity, ops),
                     StepSeries(report, "prefill", intensity, ops)};
  roofline.key_at_bottom = true;
  LinePlot speeds{"Speed by depth (depth 0 is left out)", "tokens in the cache", "tokens/s", true, true, {}};
  speeds.series = {StepSeries(report, "decode", depth, speed), StepSeries(report, "prefill", depth, speed)};
  for (LinePlot* plot : {&roofline, &speeds}) {
    std::erase_if(plot->series, [](const PlotSeries& series) { return series.x.empty(); });
  }
  if (speeds.series.empty()) return {roofline};
  return {roofline, speeds};
}

}  // namespace sluice
