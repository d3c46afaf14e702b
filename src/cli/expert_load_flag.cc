#include "cli/expert_load_flag.h"

#include <cstdio>

#include "cli/common_flags.h"
#include "eval/expert_load_report.h"

namespace sluice {

void AddExpertLoadFlag(CLI::App& command, std::string& file) {
  command.add_option("--expert-load", file,
                     "Write the load of every expert to this file, as JSON; -: draw it on standard error");
}

void ReportExpertLoad(const std::string& file, const ExpertLoad& load) {
  if (file == "-") {
    std::fflush(stdout);  // The bars come behind what was printed before, also where both are one file.
    fmt::print(stderr, "{}", ExpertLoadBars(load));
  } else {
    WriteJsonReport({file, ""}, ExpertLoadJson(load));
  }
}

}  // namespace sluice
