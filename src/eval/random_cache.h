// A cache that is full without a model having read anything: for measuring passes at a depth.
#pragma once

#include <cstdint>

#include "cache/kv_cache.h"
#include "model/config.h"

namespace sluice {

// Appends random tokens until the cache holds `num_tokens`, through what the model calls itself. Keys and
// values are normal, of the size that QK-norm gives; the gates' keys are normal around 512 directions, as a
// text's are, so that there are some alike. A pure function of the seed and the place. REQUIRES: num_tokens
// fit, and are not fewer than there are.
void FillCache(const ModelConfig& config, Ops& ops, int64_t num_tokens, uint64_t seed, KvCache& cache);

}  // namespace sluice
