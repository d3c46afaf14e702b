#include "eval/random_cache.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/interrupt.h"
#include "base/random.h"

namespace sluice {

namespace {

// A prime: the same row never begins at the same place of the pool twice in a row.
constexpr int64_t kPoolSize = 100'003;
constexpr int64_t kDirections = 512;
constexpr float kSpread = 0.3f;  // Of gate keys around their directions.

// Normal numbers, made once and read from any place.
class Pool {
 public:
  explicit Pool(uint64_t seed) : values_(kPoolSize) {
    Random random(seed);
    for (float& value : values_) value = static_cast<float>(random.Normal());
  }

  // Fills rows as numbers `place`, `place` + 1, ... of the pool.
  void Fill(int64_t place, const TensorView& rows) const {
    float* out = rows.data<float>();
    for (int64_t left = rows.num_elements(); left > 0;) {
      const int64_t begin = place % kPoolSize;
      const int64_t count = std::min(left, kPoolSize - begin);
      std::memcpy(out, values_.data() + begin, static_cast<size_t>(count) * sizeof(float));
      out += count;
      left -= count;
      place += count;
    }
  }
  float At(int64_t place) const { return values_[static_cast<size_t>(place % kPoolSize)]; }

 private:
  std::vector<float> values_;
};

// Keys of a gate, [tokens, size], of the tokens from `first` on.
void FillGateKeys(const Pool& pool, int64_t first, Random& random, const TensorView& gk) {
  for (int64_t t = 0; t < gk.dim(0); ++t) {
    const auto direction = static_cast<int64_t>(random.Below(kDirections));
    const auto noise = static_cast<int64_t>(random.Below(kPoolSize));
    float* row = gk.row<float>(t);
    for (int64_t c = 0; c < gk.dim(1); ++c) {
      row[c] = pool.At(direction * gk.dim(1) + c) + kSpread * pool.At(noise + first + t + c);
    }
  }
}

// Tokens [cache.num_tokens(), + count).
void AppendRandom(const ModelConfig& config, Ops& ops, const Pool& pool, int64_t count, uint64_t seed,
                  Arena& arena, KvCache& cache) {
  arena.Reset();
  const int64_t first = cache.num_tokens();
  Random random(seed, static_cast<uint64_t>(first));
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(random.Below(static_cast<uint64_t>(config.vocab_size)));
  }
  cache.Append(TensorView::Of(tokens.data(), {count}));
  const TensorView rows = arena.Allocate(DType::kF32, {count, config.num_kv_heads, config.head_dim});
  const Arena::Position mark = arena.Mark();
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    pool.Fill(static_cast<int64_t>(random.Below(kPoolSize)), rows);
    ops.StoreKeyRows({rows, first, cache.Values(layer)});
    pool.Fill(static_cast<int64_t>(random.Below(kPoolSize)), rows);
    ops.StoreKeyRows({rows, first, cache.Keys(layer)});
    const TensorView rotated = cache.RotatedKeys(layer, arena);
    const int64_t held = first - cache.RotatedBegin();
    ops.LoadKeyRows({cache.Keys(layer), first, rotated.Rows(held, held + count)});
    cache.SaveRotatedKeys(layer, rotated);
    arena.Release(mark);
  }
  const TensorView gk = arena.Allocate(DType::kF32, {count, config.gate.head_dim});
  for (int64_t gate = 0; gate < config.num_gates(); ++gate) {
    FillGateKeys(pool, first, random, gk);
    cache.SaveGateRows(gate, gk);
    ops.PackGateKeys({gk, first, cache.GateKeys(gate)});
    cache.CloseTreeGroups(gate);
  }
  cache.Commit();
}

}  // namespace

void FillCache(const ModelConfig& config, Ops& ops, int64_t num_tokens, uint64_t seed, KvCache& cache) {
  SLUICE_CHECK_LE(cache.num_tokens(), num_tokens);
  const Pool pool(seed);
  Arena arena;
  while (cache.num_tokens() < num_tokens) {
    ThrowIfInterrupted();
    AppendRandom(config, ops, pool, std::min(num_tokens - cache.num_tokens(), KvCache::kMaxAppend), seed,
                 arena, cache);
  }
}

}  // namespace sluice
