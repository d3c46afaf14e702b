#include "eval/memory.h"

#include <cstdio>
#include <fstream>
#include <string>

namespace sluice {

double PeakMemoryBytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    long long kib = 0;
    if (std::sscanf(line.c_str(), "VmHWM: %lld kB", &kib) == 1) return static_cast<double>(kib) * 1024;
  }
  return 0;
}

}  // namespace sluice
