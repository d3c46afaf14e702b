// Ctrl-C as a flag: long loops ask InterruptRequested() at safe points, save, and stop.
#pragma once

namespace sluice {

// Installs handlers for SIGINT and SIGTERM. The first signal sets the flag; a second one ends the
// process at once.
void InstallInterruptHandler();
bool InterruptRequested();

}  // namespace sluice
