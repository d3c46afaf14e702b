// Loops that do one thing as fast as a core can: what the kernels' speed is compared with
// (eval/machine_peaks.h times them). They run on the best target that the kernels have on this machine.
#pragma once

#include <cstdint>

namespace sluice {

// Multiplies and adds float32 values that never leave the registers. Returns the operations done, a
// multiplication and an addition being two; `steps` bounds the time: a few nanoseconds each.
int64_t RunFloatPeak(int64_t steps);
// The same with pairs of bfloat16 values, summed in float32, where attention does so; else RunFloatPeak.
int64_t RunBFloat16Peak(int64_t steps);
// The same with 8-bit integers, summed in 32 bits, by the instructions of the 8-bit kernels.
int64_t RunInt8Peak(int64_t steps);
// Reads `count` words, once and in order, and returns their sum.
uint64_t ReadWords(const uint64_t* words, int64_t count);

}  // namespace sluice
