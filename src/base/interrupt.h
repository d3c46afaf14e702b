// Ctrl-C as a flag: long loops ask InterruptRequested() at safe points, save, and stop.
#pragma once

#include "base/error.h"

namespace sluice {

// Work that has nothing to save ends with this one.
class Interrupted : public Error {
 public:
  using Error::Error;
  Interrupted() : Error("interrupted") {}
};

// Installs handlers for SIGINT and SIGTERM. The first signal sets the flag; one that follows more
// than half a second later ends the process at once. One sooner than that says the same again:
// programs that run others, such as timeout(1), signal their child and then its whole group.
void InstallInterruptHandler();
bool InterruptRequested();
inline void ThrowIfInterrupted() {
  if (InterruptRequested()) throw Interrupted();
}

}  // namespace sluice
