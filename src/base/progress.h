// A progress bar on standard error for anything over two seconds: label, bar, share done, rate, time
// left. On a terminal it redraws in place; elsewhere it prints a line at 10% steps.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

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

// A bar for what tells its progress by calls of (done, total): drawn from the first of them on. Passed by
// std::ref.
class ProgressCallback {
 public:
  ProgressCallback(std::string label, std::string unit) : label_(std::move(label)), unit_(std::move(unit)) {}
  void operator()(int64_t done, int64_t total, const std::string& note = "") {
    if (!bar_) bar_.emplace(label_, total, unit_);
    bar_->Update(done, note);
  }
  void Finish() { bar_.reset(); }

 private:
  std::string label_;
  std::string unit_;
  std::optional<ProgressBar> bar_;
};

// "1h 02m", "3m 05s", "12.3 s".
std::string FormatDuration(double seconds);
// "1.50 GiB", "24.0 MiB", "512 B".
std::string FormatBytes(double bytes);

}  // namespace sluice
