// Comparing what a float32 backend computed with the reference's float64 values and magnitudes, and
// the mutation check: a comparison that cannot fail is worth nothing, so every passing one is
// repeated with a corrupted output and must then fail.
//
// An element passes when |y − y64| <= c · eps · magnitude + kUnderflow, with eps = 2^-23 (float32's machine
// epsilon). NaN and infinities must be at the same elements. Integers must be equal.
#pragma once

#include <string>

#include "backend/testing/op_run.h"

namespace sluice {

inline constexpr double kEpsF32 = 0x1p-23;
// Numbers near the end of float32's range (2^-126) may be flushed to zero, and so may what is made of them.
inline constexpr double kUnderflow = 0x1p-100;

// "" if every element of every tensor passes, else the first that does not.
std::string CompareWithBound(const Results& tested, const Results& reference, double c);

// The largest |y − y64| / (eps · magnitude) of all elements: what c would have to be.
double WorstRatio(const Results& tested, const Results& reference);

// "" if both hold the same bits (NaN equals NaN), else the first difference.
std::string CompareBits(const Results& a, const Results& b);

// Corrupts `tested`, which must have passed, one element or row at a time: moved by 64 times its bound (or
// one float32 step, if that is more), NaN, the largest of a row set to zero, a row set to zero, an integer
// moved by one. "" if the comparison notices every time, else the corruption that it missed.
std::string CheckMutationsAreNoticed(const Results& tested, const Results& reference, double c);

}  // namespace sluice
