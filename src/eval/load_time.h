// How long a model folder takes from nothing to its first token: files mapped, checked and packed for the
// kernels, then one token read by a session. The folder's files are in the page cache after the first round,
// which is not counted. Figures are medians over rounds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace sluice {

struct LoadTime {
  int repeats = 0;
  int64_t weight_bytes = 0;
  double load_seconds = 0;         // Until the engine is there.
  double first_token_seconds = 0;  // From there to the logits behind one token.
  double peak_memory_bytes = 0;    // Of the process; 0 where the system does not tell.
};

// `progress` gets (done, total) rounds. Throws InputError as Engine does, and for repeats below 1.
LoadTime MeasureLoadTime(const std::filesystem::path& folder, int repeats,
                         const std::function<void(int64_t done, int64_t total)>& progress = {});

std::string LoadTimeTable(const LoadTime& time);
// {"repeats", "weight_bytes", "load_seconds", "first_token_seconds", "peak_memory_bytes"}
nlohmann::ordered_json LoadTimeJson(const LoadTime& time);

}  // namespace sluice
