// sluice bench load: from a model folder to its first token.
#include "base/progress.h"
#include "cli/bench_commands.h"
#include "cli/common_flags.h"
#include "eval/load_time.h"

namespace sluice {

namespace {

struct BenchLoadFlags {
  CommonFlags common;
  ReportFlags report;
  int repeats = 5;
};

void RunBenchLoad(const BenchLoadFlags& flags) {
  ApplyThreads(flags.common);
  ProgressCallback bar("load", "rounds");
  const LoadTime time = MeasureLoadTime(flags.common.model, flags.repeats, std::ref(bar));
  bar.Finish();
  fmt::print("{}", LoadTimeTable(time));
  WriteJsonReport(flags.report, LoadTimeJson(time));
}

}  // namespace

void AddBenchLoad(CLI::App& bench) {
  auto flags = std::make_shared<BenchLoadFlags>();
  CLI::App* command = bench.add_subcommand("load", "Time from a model folder to its first token");
  command->footer(
      "The folder is loaded --repeats times, each time up to the logits behind one token, after a\n"
      "first time that is not counted and brings its files into the page cache. sluice bench\n"
      "random-model makes a folder of any size.\n"
      "JSON keys: repeats, weight_bytes, load_seconds, first_token_seconds (medians),\n"
      "peak_memory_bytes.\n\n"
      "Example:\n"
      "  sluice bench load --model models/nano --json load.json");
  command->add_option("--repeats", flags->repeats, "Times that count")->capture_default_str();
  command->add_option("--json", flags->report.json, "Write the results to this file, as JSON");
  AddPlainFlags(*command, flags->common);
  command->callback([flags] { RunBenchLoad(*flags); });
}

}  // namespace sluice
