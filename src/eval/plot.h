// Plots as SVG files, drawn by gnuplot (Debian package gnuplot-nox) and written as a whole or not at
// all. Throws InputError if gnuplot is not installed, SystemError if it fails.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace sluice {

struct PlotSeries {
  std::string name;
  std::vector<double> x;
  std::vector<double> y;
  bool points = false;  // Marks them on the line.
};

struct LinePlot {
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_x = false;
  bool log_y = false;
  std::vector<PlotSeries> series;  // Points that are not finite leave a gap.
  bool key_at_bottom = false;      // Where lines rise.
};
void WritePlot(const LinePlot& plot, const std::filesystem::path& file);
// One below the other. REQUIRES: at least one.
void WritePlot(const std::vector<LinePlot>& panels, const std::filesystem::path& file);

// Cells coloured by value in [low, high], from red to green, each with its number.
struct HeatMap {
  std::string title;
  std::string x_label;
  std::string y_label;
  std::vector<std::string> x_names;
  std::vector<std::string> y_names;         // From the top.
  std::vector<std::vector<double>> values;  // [y][x]
  double low = 0;
  double high = 100;
};
void WritePlot(const HeatMap& plot, const std::filesystem::path& file);

}  // namespace sluice
