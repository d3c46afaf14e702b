// The op test harness: every check that a case of op_case.h gives, in one call. For each case
//   - the backend's float32 outputs agree with the reference's, element by element, under the bound of
//     compare.h, in memory that is contiguous, misaligned, and with gaps between rows; nothing outside
//     the outputs is written; with one output corrupted the comparison fails; so on every target of the
//     kernels (AVX2, ...);
//   - twice, and with 1 and 2 threads, the same bits come out;
//   - rows alone and in chunks get the same bits as all rows at once (where `rows` is set);
//   - a NaN or infinity in one row reaches that row alone (where `nan_stays_in_row` is set);
//   - the reference's gradient agrees with central differences of the reference's forward op.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "backend/testing/op_run.h"

namespace sluice {

// All checks of all cases; a failure lists every check that failed, one a line.
::testing::AssertionResult CheckCases(const std::vector<OpCase>& cases);
// The same for one case; "" if no check failed.
std::string CheckCase(const OpCase& op_case);

// The single checks: what failed, or "".
std::string CheckAgainstReference(const OpCase& op_case);
std::string CheckRepeatability(const OpCase& op_case);
std::string CheckRowInvariance(const OpCase& op_case);
std::string CheckNanStaysInRow(const OpCase& op_case);
std::string CheckGradient(const OpCase& op_case);

// The largest |y − y64| / (eps · magnitude) over the cases: what their c would have to be.
double WorstRatio(const std::vector<OpCase>& cases);

}  // namespace sluice
