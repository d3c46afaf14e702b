#include "eval/load_time.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/error.h"
#include "engine/session.h"
#include "eval/median.h"
#include "eval/memory.h"
#include "eval/table.h"
#include "text/prompt.h"

namespace sluice {

namespace {

// Room of the session, in tokens: what memory is needed beside the weights should be the passes'.
constexpr int64_t kCapacity = 1024;

double Mebibytes(double bytes) {
  return bytes / (1 << 20);
}

}  // namespace

LoadTime MeasureLoadTime(const std::filesystem::path& folder, int repeats,
                         const std::function<void(int64_t done, int64_t total)>& progress) {
  if (repeats < 1) throw InputError("--repeats must be at least 1, not {}", repeats);
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  LoadTime time;
  time.repeats = repeats;
  std::vector<double> load, first_token;
  for (int round = 0; round <= repeats; ++round) {
    const auto start = Clock::now();
    const Engine engine(folder);
    const auto loaded = Clock::now();
    SessionOptions options;
    options.capacity = std::min(kCapacity, engine.config().context_length);
    Session session(engine, options);
    const std::vector<int32_t> prompt = {kUser};
    session.Sync(prompt);
    const auto end = Clock::now();
    time.weight_bytes = engine.model().WeightBytes();
    if (progress) progress(round + 1, repeats + 1);
    if (round == 0) continue;
    load.push_back(Seconds(loaded - start).count());
    first_token.push_back(Seconds(end - loaded).count());
  }
  time.load_seconds = Median(load);
  time.first_token_seconds = Median(first_token);
  time.peak_memory_bytes = PeakMemoryBytes();
  return time;
}

std::string LoadTimeTable(const LoadTime& time) {
  Table table({"", "median"});
  table.AddRow({"load and pack", fmt::format("{:.0f} ms", 1e3 * time.load_seconds)});
  table.AddRow({"first token behind it", fmt::format("{:.0f} ms", 1e3 * time.first_token_seconds)});
  table.AddRow({"weights", fmt::format("{:.0f} MiB", Mebibytes(static_cast<double>(time.weight_bytes)))});
  table.AddRow({"peak memory", fmt::format("{:.0f} MiB", Mebibytes(time.peak_memory_bytes))});
  return table.ToString();
}

nlohmann::ordered_json LoadTimeJson(const LoadTime& time) {
  return {{"repeats", time.repeats},
          {"weight_bytes", time.weight_bytes},
          {"load_seconds", time.load_seconds},
          {"first_token_seconds", time.first_token_seconds},
          {"peak_memory_bytes", time.peak_memory_bytes}};
}

}  // namespace sluice
