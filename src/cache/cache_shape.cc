#include "cache/cache_shape.h"

#include "cache/kv_cache.h"
#include "ops/key_codes.h"

namespace sluice {

int64_t PagesFor(int64_t num_tokens) {
  return (num_tokens + kPageRows - 1) / kPageRows;
}

int64_t KvCacheShape::KeyCodeBytesPerPage() const {
  int64_t bytes = 0;
  for (const int64_t stages : key_code_stages) bytes += kPageRows * num_kv_heads * KeyCodeBytes(stages);
  return bytes;
}

int64_t KvCacheShape::BytesPerPage() const {
  constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  const int64_t layer = 2 * kPageRows * KeyRowBytes(format, num_kv_heads, head_dim);
  const int64_t gate =
      GateKeyBuffer::BytesFor(kPageRows, gate_head_dim) + (gate_conv_width - 1) * gate_head_dim * kFloat;
  return kPageRows * static_cast<int64_t>(sizeof(int32_t)) + num_layers * layer + KeyCodeBytesPerPage() +
         num_gates * gate;
}

int64_t KvCacheShape::NewestBytes() const {
  constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  const int64_t rotated = (window - 1 + KvCache::kMaxTail) * num_kv_heads * head_dim * kFloat;
  const int64_t rows = (gate_conv_width - 1 + KvCache::kMaxTail) * gate_head_dim * kFloat;
  return num_layers * rotated + num_gates * rows;
}

int64_t KvCacheShape::TreeBytesFor(int64_t capacity) const {
  if (tree_group == 0) return 0;
  return num_gates * GateTreeBuffer::BytesFor({tree_group, TreeCapacity(capacity)}, gate_head_dim);
}

int64_t KvCacheShape::BytesFor(int64_t num_tokens, int64_t capacity) const {
  return PagesFor(num_tokens) * BytesPerPage() + TreeBytesFor(capacity) + NewestBytes();
}

}  // namespace sluice
