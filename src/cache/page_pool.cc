#include "cache/page_pool.h"

#include <cstring>

namespace sluice {

PagePool::PagePool(const KvCacheShape& shape, int64_t num_pages)
    : shape_(shape),
      num_pages_(num_pages),
      tokens_(DType::kI32, {num_pages, kPageRows}),
      owners_(static_cast<size_t>(num_pages), 0) {
  SLUICE_CHECK(num_pages > 0);
  const int64_t rows = num_pages * kPageRows, heads = shape.num_kv_heads;
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    for (std::vector<Buffer>* kind : {&keys_, &values_}) {
      kind->emplace_back(shape.format, Shape{rows, heads, shape.head_dim});
    }
    for (std::vector<Buffer>* kind : {&key_scale_, &value_scale_}) {
      if (shape.format == DType::kI8) kind->emplace_back(DType::kF16, Shape{rows, heads});
    }
  }
  for (const int64_t stages : shape.key_code_stages) {
    key_codes_.push_back(stages > 0 ? Buffer(DType::kU8, Shape{rows, heads, stages}) : Buffer());
    key_distances_.emplace_back(DType::kU8, Shape{rows, heads});
  }
  for (int64_t i = 0; i < shape.num_gates; ++i) {
    constexpr int64_t kGroup = GateKeyView::kGroup;
    gate_codes_.emplace_back(DType::kI8, Shape{rows / kGroup, shape.gate_head_dim / 2, kGroup, 2});
    gate_scale_.emplace_back(DType::kF16, Shape{rows});
    conv_tails_.emplace_back(DType::kF32, Shape{num_pages, shape.gate_conv_width - 1, shape.gate_head_dim});
  }
  for (int64_t page = 0; page < num_pages; ++page) free_.push(static_cast<int32_t>(page));
}

int64_t PagePool::num_free() const {
  const std::lock_guard lock(mutex_);
  return std::ssize(free_);
}

bool PagePool::Acquire(int64_t count, std::vector<int32_t>& pages) {
  const std::lock_guard lock(mutex_);
  if (count > std::ssize(free_)) return false;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t page = free_.top();
    free_.pop();
    owners_[At(page)] = 1;
    pages.push_back(page);
  }
  return true;
}

void PagePool::Share(int32_t page) {
  const std::lock_guard lock(mutex_);
  SLUICE_CHECK(owners_[At(page)] > 0);
  ++owners_[At(page)];
}

void PagePool::Release(int32_t page) {
  const std::lock_guard lock(mutex_);
  SLUICE_CHECK(owners_[At(page)] > 0);
  if (--owners_[At(page)] == 0) free_.push(page);
}

int64_t PagePool::num_owners(int32_t page) const {
  const std::lock_guard lock(mutex_);
  return owners_[At(page)];
}

std::vector<PagePool::Kind> PagePool::Kinds() const {
  std::vector<Kind> kinds;
  const auto add = [&](const std::string& name, const TensorView& memory) {
    // In memory of all pages, the elements of one page lie side by side.
    const int64_t elements = memory.num_elements() / num_pages_;
    kinds.push_back({name, memory.Reshape({num_pages_, elements})});
  };
  add("tokens", tokens_);
  for (int64_t i = 0; i < shape_.num_layers; ++i) {
    const std::string layer = fmt::format("layers.{}.", i);
    add(layer + "keys", keys_[At(i)]);
    add(layer + "values", values_[At(i)]);
    if (shape_.format == DType::kI8) {
      add(layer + "key_scales", key_scale_[At(i)]);
      add(layer + "value_scales", value_scale_[At(i)]);
    }
    if (shape_.key_code_stages.empty()) continue;
    if (shape_.key_code_stages[At(i)] > 0) add(layer + "key_codes", key_codes_[At(i)]);
    add(layer + "key_distances", key_distances_[At(i)]);
  }
  for (int64_t i = 0; i < shape_.num_gates; ++i) {
    const std::string gate = fmt::format("gates.{}.", i);
    add(gate + "keys", gate_codes_[At(i)]);
    add(gate + "key_scales", gate_scale_[At(i)]);
    add(gate + "conv_tails", conv_tails_[At(i)]);
  }
  return kinds;
}

void PagePool::Copy(int32_t from, int32_t to) {
  for (const Kind& kind : Kinds()) {
    const size_t bytes = static_cast<size_t>(kind.rows.dim(1)) * SizeOf(kind.rows.dtype());
    auto* memory = static_cast<std::byte*>(kind.rows.raw());
    std::memcpy(memory + static_cast<size_t>(to) * bytes, memory + static_cast<size_t>(from) * bytes, bytes);
  }
}

void PagePool::CheckIntegrity() const {
  const std::lock_guard lock(mutex_);
  auto free = free_;
  std::vector<bool> is_free(At(num_pages_), false);
  for (; !free.empty(); free.pop()) {
    SLUICE_CHECK(!is_free[At(free.top())]);
    is_free[At(free.top())] = true;
  }
  for (size_t page = 0; page < owners_.size(); ++page) SLUICE_CHECK((owners_[page] == 0) == is_free[page]);
}

}  // namespace sluice
