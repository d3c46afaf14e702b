// Random numbers that are a pure function of (seed, stream, counter): Philox-4x32-10 (Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3", 2011). The state is three integers, so training
// resumes exactly and any place in a stream can be reached directly.
#pragma once

#include <cstdint>

namespace sluice {

class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  uint32_t NextU32();
  uint64_t NextU64();
  // Uniform in [0, n), without modulo bias. REQUIRES: n > 0.
  uint64_t Below(uint64_t n);
  // Uniform in [0, 1), 53 bits.
  double Uniform();
  // Standard normal (Box-Muller).
  double Normal();

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t counter_ = 0;
  uint32_t block_[4] = {};
  int used_ = 4;
};

}  // namespace sluice
