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

// Installs handlers for SIGINT and SIGTERM. The first signal sets the flag; a second one ends the
// process at once.
void InstallInterruptHandler();
bool InterruptRequested();
inline void ThrowIfInterrupted() {
  if (InterruptRequested()) throw Interrupted();
}

}  // namespace sluice
