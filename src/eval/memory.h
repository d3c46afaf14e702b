// What this process has used of the machine's memory.
#pragma once

namespace sluice {

// Peak resident size in bytes (VmHWM); 0 where the system does not tell.
double PeakMemoryBytes();

}  // namespace sluice
