// Full attention's mass on the far keys of single queries: what a selection is judged by, and what an
// oracle selects by.
#pragma once

#include <cstdint>
#include <vector>

#include "model/pass.h"

namespace sluice {

// With p[h, s] the softmax of head h over all keys of query row t (sink logit in the denominator),
//   mass[i] = Σ_h p[h, SinksEnd(t) + i]
// for the far keys, window and sinks excluded, the gate's bias in their logits where the model has one.
// Float32 tensors of a cpu pass; dot products in float32. A head
// whose logits are not finite adds nothing.
std::vector<float> FarMass(const AttentionStep& step, int64_t t);

// The `k` far keys of largest mass, as positions, ascending; ties go to the lower position. All of them
// where there are fewer.
std::vector<int32_t> LargestMass(const AttentionInputs& inputs, int64_t t, const std::vector<float>& mass,
                                 int64_t k);

}  // namespace sluice
