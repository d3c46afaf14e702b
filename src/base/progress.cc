// Redraws at most ten times a second on a terminal; elsewhere one line per 10% and never for work
// that ends within two seconds.
#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace sluice {
namespace {

constexpr double kSecondsBeforeShown = 2.0;
constexpr double kSecondsBetweenDraws = 0.1;
constexpr int kBarWidth = 24;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// "950", "12.3k", "4.56M".
std::string FormatRate(double rate) {
  if (rate >= 1e6) return fmt::format("{:.2f}M", rate / 1e6);
  if (rate >= 1e4) return fmt::format("{:.1f}k", rate / 1e3);
  return fmt::format("{:.{}f}", rate, rate < 10 ? 2 : 0);
}

}  // namespace

ProgressBar::ProgressBar(std::string label, int64_t total, std::string unit)
    : label_(std::move(label)),
      total_(std::max<int64_t>(total, 0)),
      unit_(std::move(unit)),
      is_terminal_(::isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      last_draw_() {}

ProgressBar::~ProgressBar() {
  Finish();
}

void ProgressBar::Update(int64_t done, const std::string& note) {
  if (finished_) return;
  if (first_done_ < 0) {
    first_done_ = done;
    first_update_ = std::chrono::steady_clock::now();
  }
  last_done_ = done;
  if (SecondsSince(start_) < kSecondsBeforeShown) return;
  if (is_terminal_) {
    if (SecondsSince(last_draw_) >= kSecondsBetweenDraws || done >= total_) Draw(done, note);
    return;
  }
  const int decile = total_ > 0 ? static_cast<int>(std::min<int64_t>(10, done * 10 / total_)) : 10;
  if (decile > last_decile_) Draw(done, note);
  last_decile_ = std::max(decile, last_decile_);
}

void ProgressBar::Draw(int64_t done, const std::string& note) {
  last_draw_ = std::chrono::steady_clock::now();
  const double share =
      total_ > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0.0, 1.0) : 1.0;
  const double elapsed = SecondsSince(start_);
  const double rate = done > first_done_ ? static_cast<double>(done - first_done_) /
                                               std::max(SecondsSince(first_update_), 1e-9)
                                         : static_cast<double>(done) / std::max(elapsed, 1e-9);
  const int filled = static_cast<int>(std::lround(share * kBarWidth));
  std::string line = fmt::format("{} [{}{}] {:3.0f}%  {}/{} {}  {} {}/s", label_, std::string(filled, '#'),
                                 std::string(kBarWidth - filled, '.'), std::floor(share * 100), done, total_,
                                 unit_, FormatRate(rate), unit_);
  if (done >= total_) {
    line += fmt::format("  in {}", FormatDuration(elapsed));
  } else if (rate > 0) {
    line += fmt::format("  {} left", FormatDuration(static_cast<double>(total_ - done) / rate));
  }
  if (!note.empty()) line += "  " + note;
  // One call, so that lines of a log do not interleave.
  const std::string out = is_terminal_ ? "\r\033[K" + line : line + "\n";
  std::fwrite(out.data(), 1, out.size(), stderr);
  std::fflush(stderr);
}

void ProgressBar::Finish() {
  if (finished_) return;
  finished_ = true;
  const bool drawn = last_draw_ != std::chrono::steady_clock::time_point();
  if (is_terminal_ && drawn) std::fputs("\n", stderr);
}

std::string FormatDuration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) return fmt::format("{}m {:02d}s", whole / 60, whole % 60);
  const int64_t minutes = std::llround(seconds / 60);
  return fmt::format("{}h {:02d}m", minutes / 60, minutes % 60);
}

std::string FormatBytes(double bytes) {
  if (bytes < 1024) return fmt::format("{:.0f} B", bytes);
  if (bytes < 1024.0 * 1024) return fmt::format("{:.1f} KiB", bytes / 1024);
  if (bytes < 1024.0 * 1024 * 1024) return fmt::format("{:.1f} MiB", bytes / (1024.0 * 1024));
  return fmt::format("{:.2f} GiB", bytes / (1024.0 * 1024 * 1024));
}

}  // namespace sluice
