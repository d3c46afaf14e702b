// A progress bar on standard error for anything over two seconds: label, bar, share done, rate, time
// left. On a terminal it redraws in place; elsewhere it prints a line at 10% steps.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace sluice {

class ProgressBar {
 public:
  // `unit` is what `total` counts, for example "tokens"; the rate is shown as unit/s.
  ProgressBar(std::string label, int64_t total, std::string unit);
  ~ProgressBar();  // Finishes the line.

  // `note` is appended, for example "loss 3.214".
  void Update(int64_t done, const std::string& note = "");
  void Finish();

 private:
  void Draw(int64_t done, const std::string& note);

  std::string label_;
  int64_t total_;
  std::string unit_;
  bool is_terminal_;
  bool finished_ = false;
  int64_t first_done_ = -1;  // At the first Update, which the rate counts from: a resumed run starts high.
  int64_t last_done_ = 0;
  int last_decile_ = -1;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point first_update_;
  std::chrono::steady_clock::time_point last_draw_;
};

// "1h 02m", "3m 05s", "12.3 s".
std::string FormatDuration(double seconds);
// "1.50 GiB", "24.0 MiB", "512 B".
std::string FormatBytes(double bytes);

}  // namespace sluice
