#include "cli/common_flags.h"

#include <algorithm>
#include <iostream>
#include <iterator>
#include <thread>

#include "base/file.h"
#include "base/threads.h"
#include "text/utf8.h"

namespace sluice {

void AddPlainFlags(CLI::App& command, CommonFlags& flags) {
  command.add_option("--model", flags.model, "Model folder (config.json, model.safetensors, tokenizer.json)")
      ->capture_default_str();
  command.add_option("--threads", flags.threads, "Threads; 0: as many as this machine has")
      ->capture_default_str();
  command.add_flag("--pin", flags.pin,
                   "Keep each thread on a core of its own: for a machine that does nothing else");
  command.add_option("--seed", flags.seed, "Seed of everything random")->capture_default_str();
}

void AddCommonFlags(CLI::App& command, CommonFlags& flags) {
  AddPlainFlags(command, flags);
  command.add_option("--profile", flags.profile,
                     "Route by this profile of the model, made with `sluice calibrate`; default: by the "
                     "model's own biases");
}

void ApplyThreads(const CommonFlags& flags) {
  const int machine = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  SetNumThreads(flags.threads == 0 ? machine : flags.threads);
  if (flags.pin) PinThreads();
}

Engine LoadEngine(const CommonFlags& flags) {
  ApplyThreads(flags);
  return Engine(flags.model, flags.profile);
}

void AddAttentionFlag(CLI::App& command, SessionFlags& flags) {
  command.add_option("--attention", flags.attention, "sparse (the gate selects keys) or dense (all keys)")
      ->check(CLI::IsMember({"sparse", "dense"}))
      ->capture_default_str();
}

void AddSessionFlags(CLI::App& command, SessionFlags& flags) {
  AddAttentionFlag(command, flags);
  AddPassFlags(command, flags);
  AddGuaranteeFlag(command, flags);
}

void AddGuaranteeFlag(CLI::App& command, SessionFlags& flags) {
  command.add_option(
      "--guarantee", flags.guarantee,
      "Prove that no head of any query leaves more than this share of its attention unread, reading "
      "more keys where need be (sparse attention only), such as 0.01");
}

void AddModesFlag(CLI::App& command, std::string& attention) {
  command.add_option("--attention", attention, "sparse, dense or both")
      ->check(CLI::IsMember({"sparse", "dense", "both"}))
      ->capture_default_str();
}

std::vector<AttentionMode> AttentionModes(const std::string& attention) {
  std::vector<AttentionMode> modes;
  if (attention != "sparse") modes.push_back(AttentionMode::kDense);
  if (attention != "dense") modes.push_back(AttentionMode::kSparse);
  return modes;
}

void AddSelectionFlags(CLI::App& command, SessionFlags& flags) {
  command.add_option("--top-k", flags.top_k,
                     "Far keys that the gate selects per query, at least 1; default: the model's own number");
  command
      .add_option(
          "--index", flags.index,
          "How the gate finds keys: flat (scan all), tree (search its index), auto (the faster one at "
          "each depth)")
      ->check(CLI::IsMember({"auto", "flat", "tree"}))
      ->capture_default_str();
  command
      .add_option("--cache-format", flags.cache_format,
                  "How keys and values are kept: f32, bf16 (half of the memory) or int8 (a quarter)")
      ->check(CLI::IsMember({"f32", "bf16", "int8"}))
      ->capture_default_str();
}

void AddPassFlags(CLI::App& command, SessionFlags& flags) {
  AddSelectionFlags(command, flags);
  command
      .add_option("--gate-mass", flags.gate_mass,
                  "Adaptive number of keys: of the --top-k the best that hold this share of the gate's "
                  "softmax; 1: all")
      ->capture_default_str();
  command.add_option("--min-keys", flags.min_keys, "Keys that --gate-mass keeps at least")
      ->capture_default_str();
  command
      .add_option("--chunk", flags.chunk_tokens,
                  "Tokens per prefill pass, 1 to 4096; changes speed, not results")
      ->capture_default_str();
}

int64_t NumberOfKeys(const std::optional<int64_t>& top_k) {
  if (top_k && *top_k < 1) {
    throw InputError(
        "--top-k must be at least 1, not {}; leave it out for the model's own number (the number of tokens "
        "to "
        "sample from is --sample-top-k)",
        *top_k);
  }
  return top_k.value_or(0);
}

SessionOptions MakeSessionOptions(const SessionFlags& flags) {
  SessionOptions options;
  options.attention = flags.attention == "dense" ? AttentionMode::kDense : AttentionMode::kSparse;
  options.top_k = NumberOfKeys(flags.top_k);
  options.gate_mass = flags.gate_mass;
  options.min_keys = flags.min_keys;
  options.chunk_tokens = flags.chunk_tokens;
  options.cache_format = flags.cache_format == "bf16"   ? DType::kBF16
                         : flags.cache_format == "int8" ? DType::kI8
                                                        : DType::kF32;
  options.index = flags.index == "flat"   ? GateIndex::kFlat
                  : flags.index == "tree" ? GateIndex::kTree
                                          : GateIndex::kAuto;
  if (!flags.guarantee) return options;
  options.guarantee = *flags.guarantee;
  if (!(options.guarantee > 0 && options.guarantee < 1)) {
    throw InputError(
        "--guarantee: {} is not a share between 0 and 1; 0.01 leaves at most 1% of attention unread",
        options.guarantee);
  }
  if (flags.attention == "dense") {
    throw InputError("--guarantee: dense attention leaves nothing out; use it with --attention sparse");
  }
  return options;
}

void AddReportFlags(CLI::App& command, ReportFlags& flags) {
  command.add_option("--json", flags.json, "Write the results to this file, as JSON");
  command.add_option("--plot", flags.plot, "Draw the results into this SVG file (needs gnuplot)");
}

void WriteJsonReport(const ReportFlags& flags, const nlohmann::ordered_json& json) {
  if (flags.json.empty()) return;
  // Model output may stop inside a character.
  WriteFileAtomically(flags.json, json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

std::string ReadTextInput(const std::string& file) {
  std::string text;
  if (file == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    text = ReadFile(file);
  }
  const std::string name = file == "-" ? "standard input" : file;
  if (text.empty()) throw InputError("{}: empty; there is nothing to read", name);
  const auto invalid = ValidateUtf8(text);
  if (!invalid) return text;
  fmt::print(
      stderr,
      "warning: {}: invalid UTF-8 at byte {}; such bytes are read as U+FFFD (convert the file to UTF-8 "
      "to avoid this)\n",
      name, *invalid);
  return SanitizeUtf8(text);
}

}  // namespace sluice
