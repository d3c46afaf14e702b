// Flags that several commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "engine/session.h"

namespace sluice {

struct CommonFlags {
  std::string model = "models/nano";
  std::string profile;  // Empty: the model's own router biases.
  int threads = 0;      // 0: as many as the machine has.
  bool pin = false;
  uint64_t seed = 1;
};
// --model, --threads, --pin, --seed: all that commands take whose result no profile changes.
void AddPlainFlags(CLI::App& command, CommonFlags& flags);
// These and --profile.
void AddCommonFlags(CLI::App& command, CommonFlags& flags);
// Sets the number of threads and loads the model with its profile.
Engine LoadEngine(const CommonFlags& flags);
void ApplyThreads(const CommonFlags& flags);

struct SessionFlags {
  std::string attention = "sparse";
  std::optional<int64_t> top_k;  // Absent: the model's own number.
  double gate_mass = SessionOptions().gate_mass;
  int64_t min_keys = SessionOptions().min_keys;
  int64_t chunk_tokens = SessionOptions().chunk_tokens;
  std::string index = "auto";
  std::string cache_format = "bf16";
  std::optional<double> guarantee;
};
// --attention sparse, dense or both, of commands that compare the two.
void AddModesFlag(CLI::App& command, std::string& attention);
// What it names, dense first.
std::vector<AttentionMode> AttentionModes(const std::string& attention);
// --attention sparse or dense.
void AddAttentionFlag(CLI::App& command, SessionFlags& flags);
// --top-k, --index, --cache-format.
void AddSelectionFlags(CLI::App& command, SessionFlags& flags);
// These and --gate-mass, --min-keys, --chunk.
void AddPassFlags(CLI::App& command, SessionFlags& flags);
// --guarantee.
void AddGuaranteeFlag(CLI::App& command, SessionFlags& flags);
// All of these and --attention.
void AddSessionFlags(CLI::App& command, SessionFlags& flags);
// What --top-k says, 0 if it is absent. Throws InputError for a number below 1.
int64_t NumberOfKeys(const std::optional<int64_t>& top_k);
SessionOptions MakeSessionOptions(const SessionFlags& flags);

// --json FILE and --plot FILE of evaluations.
struct ReportFlags {
  std::string json;
  std::string plot;
};
void AddReportFlags(CLI::App& command, ReportFlags& flags);
// Writes the JSON if it was asked for.
void WriteJsonReport(const ReportFlags& flags, const nlohmann::ordered_json& json);

// The text of a file, "-" is standard input. Invalid UTF-8 is replaced, with a warning that names the
// byte. InputError if the file is missing or empty.
std::string ReadTextInput(const std::string& file);

}  // namespace sluice
