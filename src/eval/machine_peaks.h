// What this machine can do at most, on NumThreads() threads: the roofs of the roofline model (Williams,
// Waterman and Patterson, 2009). A step that reads B bytes and does F operations takes at least
// max(B / read speed, F / peak).
#pragma once

#include <string>

#include "tensor/tensor.h"

namespace sluice {

struct MachinePeaks {
  double read_bytes = 0;    // Bytes per second, read in order from memory that no cache holds.
  double float_ops = 0;     // Float32 operations per second, a multiply-add being two.
  double bfloat16_ops = 0;  // Of attention's products of bfloat16, likewise; on most machines float_ops.
  double int8_ops = 0;      // 8-bit integer operations per second, summed in 32 bits, likewise.
};

// Measures again whenever it is asked to, so that peaks come from the same minutes as what is compared with
// them; the best of all samples counts.
class PeakMeter {
 public:
  // Takes 512 MiB of memory.
  PeakMeter();
  // Half a second.
  void Sample();
  // REQUIRES: Sample was called.
  const MachinePeaks& peaks() const { return peaks_; }

 private:
  Buffer memory_;
  MachinePeaks peaks_;
};

// "read 22.1 GB/s, float32 190 GFLOP/s, bfloat16 380 GFLOP/s, int8 412 Gop/s".
std::string FormatPeaks(const MachinePeaks& peaks);

}  // namespace sluice
