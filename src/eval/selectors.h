// Selections that the gate is compared with: by chance, by recency, and the best there is; of as many keys
// as the gate selects.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/pass.h"

namespace sluice {

// "random", "recent" or "oracle"; null for "gate", the model's own, and for "flat", the same with all keys
// scanned, which Session::SetIndex asks for. Throws InputError for other names.
//   random   far keys drawn evenly, others for every query and layer; a function of `seed`
//   recent   the newest far keys: a longer window
//   oracle   the far keys of largest attention, summed over heads, for every layer of its own (a gate
//            serves several); it reads all keys, so that it is far slower than the model
std::unique_ptr<Selector> MakeSelector(const std::string& name, uint64_t seed);

// All names that MakeSelector takes, "gate" first.
const std::vector<std::string>& SelectorNames();

}  // namespace sluice
