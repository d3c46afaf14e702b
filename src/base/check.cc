#include "base/check.h"

#include <cstring>

namespace sluice::internal {

void CheckFailed(const char* file, int line, const std::string& what) {
  const char* src = std::strstr(file, "src/");
  throw Bug(fmt::format("{}:{}: check failed: {}", src ? src : file, line, what));
}

}  // namespace sluice::internal
