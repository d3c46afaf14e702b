// Random numbers that are a pure function of (seed, stream, counter): Philox-4x32-10 (Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3", 2011). The state is three integers, so training
// resumes exactly and any place in a stream can be reached directly.
#pragma once

#include <array>
#include <cstdint>

namespace sluice {

// The block function itself: 128 random bits for each (counter, key).
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

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
  std::array<uint32_t, 4> block_{};
  int used_ = 4;
};

}  // namespace sluice
