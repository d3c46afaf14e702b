#include "eval/table.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace sluice {

namespace {

// Columns on the screen: bytes that do not continue a UTF-8 sequence.
size_t Width(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace

void Table::AddRow(std::vector<std::string> cells) {
  SLUICE_CHECK_EQ(cells.size(), header_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::ToString() const {
  std::vector<size_t> widths;
  for (size_t column = 0; column < header_.size(); ++column) {
    size_t width = Width(header_[column]);
    for (const auto& row : rows_) width = std::max(width, Width(row[column]));
    widths.push_back(width);
  }
  std::string text;
  const auto add_line = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (size_t column = 0; column < cells.size(); ++column) {
      const std::string padding(widths[column] - Width(cells[column]), ' ');
      if (column > 0) line += "  ";
      line += column == 0 ? cells[column] + padding : padding + cells[column];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line;
    text += '\n';
  };
  add_line(header_);
  size_t total = 2 * (widths.size() - 1);
  for (const size_t width : widths) total += width;
  text += std::string(total, '-') + "\n";
  for (const auto& row : rows_) add_line(row);
  return text;
}

std::string FormatCount(int64_t count) {
  std::string digits = std::to_string(count);
  const int64_t first = count < 0 ? 1 : 0;
  for (auto place = static_cast<int64_t>(digits.size()) - 3; place > first; place -= 3) {
    digits.insert(static_cast<size_t>(place), 1, ',');
  }
  return digits;
}

std::string FormatFlops(double flops) {
  constexpr std::array<const char*, 5> kUnits = {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"};
  size_t unit = 0;
  while (flops >= 1000 && unit + 1 < kUnits.size()) {
    flops /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", flops, flops < 10 ? 2 : flops < 100 ? 1 : 0, kUnits[unit]);
}

std::string FormatShare(double share) {
  return fmt::format("{:.1f}%", 100 * share);
}

}  // namespace sluice
