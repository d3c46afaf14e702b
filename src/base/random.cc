// Philox-4x32-10: ten rounds of two 32x32 -> 64-bit multiplications, the key stepping by Weyl
// constants. The counter is (block number, stream), the key is the seed.
#include "base/random.h"

#include <cmath>
#include <numbers>

#include "base/check.h"

namespace sluice {

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

uint32_t Random::NextU32() {
  if (used_ == 4) {
    block_ = Philox4x32({static_cast<uint32_t>(counter_), static_cast<uint32_t>(counter_ >> 32),
                         static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)},
                        {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)});
    ++counter_;
    used_ = 0;
  }
  return block_[static_cast<size_t>(used_++)];
}

uint64_t Random::NextU64() {
  const uint64_t low = NextU32();
  return low | static_cast<uint64_t>(NextU32()) << 32;
}

uint64_t Random::Below(uint64_t n) {
  SLUICE_CHECK(n > 0);
  // Values under 2^64 mod n are drawn again, which leaves a whole multiple of n.
  const uint64_t threshold = (0 - n) % n;
  uint64_t value;
  do value = NextU64();
  while (value < threshold);
  return value % n;
}

double Random::Uniform() {
  return static_cast<double>(NextU64() >> 11) * 0x1p-53;
}

double Random::Normal() {
  const double u = 1 - Uniform();  // In (0, 1]: the logarithm is finite.
  const double angle = 2 * std::numbers::pi * Uniform();
  return std::sqrt(-2 * std::log(u)) * std::cos(angle);
}

}  // namespace sluice
