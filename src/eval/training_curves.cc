#include "eval/training_curves.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "eval/plot.h"

namespace sluice {

namespace {

struct Curve {
  const char* column;
  const char* name;
};
constexpr std::array<Curve, 4> kCurves = {{{"text_loss", "text, nats per token"},
                                           {"answer_loss", "answers, nats per token"},
                                           {"repeat_loss", "repeated passages, nats per token"},
                                           {"gate_loss", "gate distillation, nats"}}};

std::vector<std::string> SplitLine(const std::string& line) {
  std::vector<std::string> fields;
  std::istringstream stream(line);
  for (std::string field; std::getline(stream, field, ',');) fields.push_back(field);
  return fields;
}

// A column's values, one per step.
std::vector<double> Column(const std::vector<std::vector<std::string>>& rows, std::string_view name,
                           const std::filesystem::path& file) {
  const auto& header = rows.front();
  const auto found = std::find(header.begin(), header.end(), name);
  if (found == header.end()) throw InputError("{}: there is no column \"{}\"", file.string(), name);
  const auto column = static_cast<size_t>(found - header.begin());
  std::vector<double> values;
  for (size_t i = 1; i < rows.size(); ++i) {
    if (rows[i].size() != header.size()) throw InputError("{}: line {} is not whole", file.string(), i + 1);
    const std::string& field = rows[i][column];
    double value = 0;
    std::from_chars(field.data(), field.data() + field.size(), value);
    values.push_back(value);
  }
  return values;
}

// Means over consecutive groups of `group` values. A loss of 0 says that the step had no such tokens: it
// does not count, and a group of nothing else leaves a gap.
std::vector<double> Averaged(const std::vector<double>& values, size_t group) {
  std::vector<double> means;
  for (size_t begin = 0; begin < values.size(); begin += group) {
    const size_t end = std::min(begin + group, values.size());
    double sum = 0, count = 0;
    for (size_t i = begin; i < end; ++i) {
      sum += values[i];
      count += values[i] != 0 ? 1 : 0;
    }
    means.push_back(count > 0 ? sum / count : std::nan(""));
  }
  return means;
}

}  // namespace

void PlotTraining(const std::filesystem::path& metrics, const std::filesystem::path& svg) {
  std::vector<std::vector<std::string>> rows;
  std::istringstream lines(ReadFile(metrics));
  for (std::string line; std::getline(lines, line);) rows.push_back(SplitLine(line));
  if (rows.size() < 2) throw InputError("{}: holds no training step", metrics.string());
  const size_t group = std::max<size_t>(1, rows.size() / 100);
  std::vector<double> tokens = Averaged(Column(rows, "tokens", metrics), group);
  for (double& value : tokens) value /= 1e6;

  LinePlot plot;
  plot.title = "Training losses";
  plot.x_label = "million tokens";
  plot.y_label = "nats";
  for (const Curve& curve : kCurves) {
    plot.series.push_back({curve.name, tokens, Averaged(Column(rows, curve.column, metrics), group)});
  }
  WritePlot(plot, svg);
}

}  // namespace sluice
