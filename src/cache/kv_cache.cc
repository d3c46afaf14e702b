#include "cache/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>

#include "ops/gate_tree_numerics.h"

namespace sluice {

namespace {

int64_t PagesFor(int64_t capacity) {
  return capacity / KvCache::kPageTokens + 1;
}

}  // namespace

int64_t KvCacheShape::BytesPerBlock() const {
  return num_kv_heads * (head_dim + 2) * static_cast<int64_t>(sizeof(float));
}

int64_t KvCacheShape::BytesFor(int64_t capacity) const {
  const int64_t row = num_kv_heads * head_dim;
  const int64_t rotated = window - 1 + KvCache::kMaxAppend;
  const int64_t tail = (gate_conv_width - 1) * gate_head_dim;
  const int64_t per_layer = (2 * capacity + rotated) * row * static_cast<int64_t>(sizeof(float)) +
                            capacity / KeyBlockView::kBlock * BytesPerBlock();
  const int64_t gate_keys = GateKeyBuffer::BytesFor(capacity, gate_head_dim);
  const int64_t gate_tails = (PagesFor(capacity) + 1) * tail * static_cast<int64_t>(sizeof(float));
  const int64_t tokens = capacity * static_cast<int64_t>(sizeof(int32_t));
  return tokens + num_layers * per_layer + num_gates * (gate_keys + gate_tails) + TreeBytesFor(capacity);
}

int64_t KvCacheShape::TreeBytesFor(int64_t capacity) const {
  if (tree_group == 0) return 0;
  return num_gates * GateTreeBuffer::BytesFor({tree_group, capacity}, gate_head_dim);
}

KvCache::KvCache(Ops& ops, const KvCacheShape& shape, int64_t capacity)
    : ops_(ops), shape_(shape), capacity_(capacity), tokens_(DType::kI32, {capacity}) {
  SLUICE_CHECK(ops.dtype() == DType::kF32);
  SLUICE_CHECK(capacity > 0);
  const Shape rows = {capacity, shape.num_kv_heads, shape.head_dim};
  const Shape rotated = {shape.window - 1 + kMaxAppend, shape.num_kv_heads, shape.head_dim};
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    keys_.emplace_back(DType::kF32, rows);
    values_.emplace_back(DType::kF32, rows);
    rotated_.emplace_back(DType::kF32, rotated);
  }
  const int64_t blocks = capacity / KeyBlockView::kBlock;
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    block_centre_.emplace_back(DType::kF32, Shape{blocks, shape.num_kv_heads, shape.head_dim});
    block_radius_.emplace_back(DType::kF32, Shape{blocks, shape.num_kv_heads});
    block_norm_.emplace_back(DType::kF32, Shape{blocks, shape.num_kv_heads});
  }
  const int64_t tail = shape.gate_conv_width - 1;
  for (int64_t i = 0; i < shape.num_gates; ++i) {
    gate_keys_.emplace_back(capacity, shape.gate_head_dim);
    conv_tail_.emplace_back(DType::kF32, Shape{tail, shape.gate_head_dim});
    conv_pages_.emplace_back(DType::kF32, Shape{PagesFor(capacity), tail, shape.gate_head_dim});
    if (shape.tree_group == 0) continue;
    trees_.emplace_back(GateTreeShape{shape.tree_group, capacity}, shape.gate_head_dim);
  }
}

void KvCache::Append(const TensorView& tokens) {
  const int64_t count = tokens.dim(0);
  SLUICE_CHECK_EQ(appended_, 0);
  SLUICE_CHECK(count > 0 && count <= kMaxAppend);
  SLUICE_CHECK_LE(num_tokens_ + count, capacity_);
  appended_ = count;
  std::memcpy(tokens_.view().row<int32_t>(num_tokens_), tokens.data<int32_t>(),
              static_cast<size_t>(count) * sizeof(int32_t));
}

void KvCache::Commit() {
  // Keep the newest window − 1 rotated keys at the front of their buffers.
  const int64_t held = num_rotated_ + appended_;
  const int64_t keep = std::min(held, shape_.window - 1);
  const size_t row_bytes = static_cast<size_t>(shape_.num_kv_heads * shape_.head_dim) * sizeof(float);
  for (const Buffer& rotated : rotated_) {
    auto* data = static_cast<std::byte*>(rotated.view().raw());
    std::memmove(data, data + static_cast<size_t>(held - keep) * row_bytes,
                 static_cast<size_t>(keep) * row_bytes);
  }
  num_rotated_ = keep;
  num_tokens_ += appended_;
  appended_ = 0;
}

int64_t KvCache::Truncate(int64_t num_tokens) {
  SLUICE_CHECK_EQ(appended_, 0);
  SLUICE_CHECK(num_tokens >= 0 && num_tokens <= num_tokens_);
  if (num_tokens != num_tokens_) ReturnTo(num_tokens / kPageTokens * kPageTokens);
  return num_tokens_;
}

void KvCache::Clear() {
  appended_ = 0;
  ReturnTo(0);
}

void KvCache::ReturnTo(int64_t num_tokens) {
  num_tokens_ = num_tokens;
  for (size_t gate = 0; gate < conv_tail_.size(); ++gate) {
    const TensorView tail = conv_tail_[gate].view();
    const TensorView page = conv_pages_[gate].view().At(num_tokens_ / kPageTokens);
    std::memcpy(tail.raw(), page.raw(), static_cast<size_t>(tail.num_elements()) * sizeof(float));
  }
  RecomputeRotated();
}

void KvCache::RecomputeRotated() {
  num_rotated_ = std::min(num_tokens_, shape_.window - 1);
  if (num_rotated_ == 0) return;
  std::vector<int32_t> positions(static_cast<size_t>(num_rotated_));
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(num_tokens_ - num_rotated_));
  for (int64_t layer = 0; layer < shape_.num_layers; ++layer) {
    RopeArgs args;
    args.x = Keys(layer).Rows(num_tokens_ - num_rotated_, num_tokens_);
    args.positions = TensorView::Of(positions.data(), {num_rotated_});
    args.theta = shape_.rope_theta;
    args.out = rotated_[static_cast<size_t>(layer)].view().Rows(0, num_rotated_);
    ops_.Rope(args);
  }
}

TensorView KvCache::Keys(int64_t layer) const {
  return keys_[static_cast<size_t>(layer)].view().Rows(0, num_tokens_ + appended_);
}
TensorView KvCache::Values(int64_t layer) const {
  return values_[static_cast<size_t>(layer)].view().Rows(0, num_tokens_ + appended_);
}
TensorView KvCache::RotatedKeys(int64_t layer) const {
  return rotated_[static_cast<size_t>(layer)].view().Rows(0, num_rotated_ + appended_);
}
TensorView KvCache::NewKeys(int64_t layer) const {
  return keys_[static_cast<size_t>(layer)].view().Rows(num_tokens_, num_tokens_ + appended_);
}
TensorView KvCache::NewValues(int64_t layer) const {
  return values_[static_cast<size_t>(layer)].view().Rows(num_tokens_, num_tokens_ + appended_);
}
TensorView KvCache::NewRotatedKeys(int64_t layer) const {
  return rotated_[static_cast<size_t>(layer)].view().Rows(num_rotated_, num_rotated_ + appended_);
}

KeyBlockView KvCache::KeyBlocks(int64_t layer) const {
  const auto i = static_cast<size_t>(layer);
  return {block_centre_[i].view(), block_radius_[i].view(), block_norm_[i].view(),
          (num_tokens_ + appended_) / KeyBlockView::kBlock};
}

void KvCache::SummarizeNewKeys(int64_t layer) {
  constexpr int64_t kBlock = KeyBlockView::kBlock;
  const int64_t first = num_tokens_ / kBlock;
  const int64_t end = (num_tokens_ + appended_) / kBlock;
  if (first == end) return;
  ops_.SummarizeKeys({Keys(layer).Rows(first * kBlock, end * kBlock), first, KeyBlocks(layer)});
}

GateKeyView KvCache::GateKeys(int64_t gate) const {
  return gate_keys_[static_cast<size_t>(gate)].View(num_tokens_ + appended_);
}

GateTreeView KvCache::GateTree(int64_t gate) const {
  if (shape_.tree_group == 0) return {};
  return trees_[static_cast<size_t>(gate)].View(num_tokens_ + appended_);
}

void KvCache::CloseTreeGroups(int64_t gate) {
  if (shape_.tree_group == 0) return;
  ops_.BuildGateTree({GateKeys(gate), num_tokens_, num_tokens_ + appended_, GateTree(gate)});
}

TensorView KvCache::ConvHistory(int64_t gate) const {
  return conv_tail_[static_cast<size_t>(gate)].view();
}

void KvCache::SaveGateRows(int64_t gate, const TensorView& raw) {
  SLUICE_CHECK_EQ(raw.dim(0), appended_);
  const TensorView tail = conv_tail_[static_cast<size_t>(gate)].view();
  const TensorView pages = conv_pages_[static_cast<size_t>(gate)].view();
  const int64_t tail_rows = tail.dim(0);
  const auto row_bytes = static_cast<size_t>(shape_.gate_head_dim) * sizeof(float);
  // Writes the rows just before token num_tokens_ + end.
  const auto write_tail = [&](int64_t end, const TensorView& destination, const TensorView& old_tail) {
    for (int64_t j = 0; j < tail_rows; ++j) {
      const int64_t row = end - tail_rows + j;
      const float* source = row >= 0 ? raw.row<float>(row) : old_tail.row<float>(tail_rows + row);
      std::memcpy(destination.row<float>(j), source, row_bytes);
    }
  };
  const int64_t first_page = num_tokens_ / kPageTokens + 1;
  for (int64_t page = first_page; page * kPageTokens <= num_tokens_ + appended_; ++page) {
    write_tail(page * kPageTokens - num_tokens_, pages.At(page), tail);
  }
  Buffer old_tail(DType::kF32, tail.shape());
  std::memcpy(old_tail.view().raw(), tail.raw(), static_cast<size_t>(tail_rows) * row_bytes);
  write_tail(appended_, tail, old_tail);
}

void KvCache::CheckBlocks(int64_t layer) const {
  const KeyBlockView held = KeyBlocks(layer);
  const Buffer centre(DType::kF32, held.centre.shape()), radius(DType::kF32, held.radius.shape()),
      norm(DType::kF32, held.norm.shape());
  const TensorView keys = Keys(layer).Rows(0, held.num_blocks * KeyBlockView::kBlock);
  ops_.SummarizeKeys({keys, 0, {centre, radius, norm, 0}});
  const auto same = [&](const TensorView& a, const TensorView& b) {
    const auto bytes = static_cast<size_t>(held.num_blocks * a.row_stride()) * sizeof(float);
    return std::memcmp(a.raw(), b.raw(), bytes) == 0;
  };
  SLUICE_CHECK(same(held.centre, centre) && same(held.radius, radius) && same(held.norm, norm));
}

void KvCache::CheckIntegrity() const {
  SLUICE_CHECK(num_tokens_ >= 0 && num_tokens_ + appended_ <= capacity_);
  SLUICE_CHECK_EQ(num_rotated_, std::min(num_tokens_, shape_.window - 1));
  if (appended_ == 0) {
    for (int64_t layer = 0; layer < shape_.num_layers; ++layer) CheckBlocks(layer);
  }
  for (int64_t gate = 0; gate < shape_.num_gates; ++gate) {
    if (num_tokens_ % kPageTokens != 0) continue;
    const TensorView tail = ConvHistory(gate);
    const TensorView page = conv_pages_[static_cast<size_t>(gate)].view().At(num_tokens_ / kPageTokens);
    const auto bytes = static_cast<size_t>(tail.num_elements()) * sizeof(float);
    SLUICE_CHECK(std::memcmp(tail.raw(), page.raw(), bytes) == 0);
  }
  for (int64_t gate = 0; gate < std::ssize(trees_); ++gate) CheckTree(gate);
}

void KvCache::CheckTree(int64_t gate) const {
  const GateTreeView tree = GateTree(gate);
  const GateKeyView keys = GateKeys(gate);
  const int64_t size = shape_.gate_head_dim;
  const GateKeyBuffer expected(1, size + 2);
  std::vector<float> landmark(static_cast<size_t>(size + 2));
  const auto check_group = [&](int64_t first_key, int64_t first_slot, int64_t num_keys) {
    const int32_t* order = tree.order.row<int32_t>(first_slot);
    std::vector<int32_t> members(order, order + num_keys);  // As rows of x.
    for (int32_t& member : members) member -= static_cast<int32_t>(first_key);
    std::vector<int32_t> sorted = members;
    std::sort(sorted.begin(), sorted.end());
    for (int64_t i = 0; i < num_keys; ++i) {
      SLUICE_CHECK_EQ(sorted[static_cast<size_t>(i)], i);  // Each key of the group once.
      SLUICE_CHECK(SameGateKey(keys, order[i], tree.keys, first_slot + i, size));
      SLUICE_CHECK(i % GateTreeView::kLeaf == 0 || order[i - 1] < order[i]);
    }
    const std::vector<float> x = GateKeyValues(keys, first_key, num_keys, size);
    const auto check_landmarks = [&](int64_t unit, const GateKeyView& landmarks) {
      for (int64_t i = 0; i < num_keys; i += unit) {
        const auto part = std::span(members).subspan(static_cast<size_t>(i), static_cast<size_t>(unit));
        GateLandmark(x.data(), size, part, landmark.data());
        StoreGateKey(landmark.data(), size + 2, 0, expected.View(1));
        SLUICE_CHECK(SameGateKey(landmarks, (first_slot + i) / unit, expected.View(1), 0, size + 2));
      }
    };
    check_landmarks(GateTreeView::kLeaf, tree.leaves);
    check_landmarks(GateTreeView::kNode, tree.nodes);
  };
  ForEachClosedGroup(tree.shape, 0, num_tokens_, check_group);
}

}  // namespace sluice
