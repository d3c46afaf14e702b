#include "eval/machine_peaks.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>

#include "backend/cpu/peaks.h"
#include "base/threads.h"

namespace sluice {

namespace {

constexpr int64_t kReadBytes = int64_t{512} << 20;
constexpr int64_t kSteps = 1 << 19;  // 5 to 20 ms of any loop of multiply-adds.
constexpr int kRepeats = 4;

// The best of several runs: work per second, where run(part) does its part of NumThreads() and returns the
// work that it did.
double BestRate(const std::function<int64_t(int64_t part)>& run) {
  double best = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    std::atomic<int64_t> work = 0;
    const auto start = std::chrono::steady_clock::now();
    ParallelFor(NumThreads(), [&](int64_t part) { work += run(part); });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(work) / seconds.count());
  }
  return best;
}

}  // namespace

PeakMeter::PeakMeter() : memory_(DType::kI64, {kReadBytes / 8}) {
  memory_.view().Zero();  // Pages that nobody has written are all the same one, which stays in the cache.
}

void PeakMeter::Sample() {
  const auto* words = static_cast<const uint64_t*>(memory_.view().raw());
  const int64_t count = memory_.view().num_elements();
  std::atomic<uint64_t> sum = 0;  // Keeps the reads from being dropped.
  const double read = BestRate([&](int64_t part) {
    const int64_t begin = count * part / NumThreads(), end = count * (part + 1) / NumThreads();
    sum += ReadWords(words + begin, end - begin);
    return 8 * (end - begin);
  });
  peaks_.read_bytes = std::max(peaks_.read_bytes, read);
  peaks_.float_ops = std::max(peaks_.float_ops, BestRate([](int64_t) { return RunFloatPeak(kSteps); }));
  peaks_.bfloat16_ops =
      std::max(peaks_.bfloat16_ops, BestRate([](int64_t) { return RunBFloat16Peak(kSteps); }));
  peaks_.int8_ops = std::max(peaks_.int8_ops, BestRate([](int64_t) { return RunInt8Peak(kSteps); }));
}

std::string FormatPeaks(const MachinePeaks& peaks) {
  return fmt::format("read {:.1f} GB/s, float32 {:.0f} GFLOP/s, bfloat16 {:.0f} GFLOP/s, int8 {:.0f} Gop/s",
                     peaks.read_bytes / 1e9, peaks.float_ops / 1e9, peaks.bfloat16_ops / 1e9,
                     peaks.int8_ops / 1e9);
}

}  // namespace sluice
