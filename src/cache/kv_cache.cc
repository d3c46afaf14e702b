#include "cache/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>

#include "ops/gate_tree_numerics.h"

namespace sluice {

namespace {

size_t RowBytes(const TensorView& rows) {
  return static_cast<size_t>(rows.row_stride()) * SizeOf(rows.dtype());
}

// Rows [from, from + count) to rows [to, to + count), which may overlap them.
void MoveRows(const TensorView& rows, int64_t from, int64_t to, int64_t count) {
  const size_t bytes = RowBytes(rows);
  auto* memory = static_cast<std::byte*>(rows.raw());
  std::memmove(memory + static_cast<size_t>(to) * bytes, memory + static_cast<size_t>(from) * bytes,
               static_cast<size_t>(count) * bytes);
}

void CopyRows(const TensorView& from, const TensorView& to) {
  if (from.num_elements() > 0)
    std::memcpy(to.raw(), from.raw(), static_cast<size_t>(from.dim(0)) * RowBytes(from));
}

}  // namespace

KvCache::KvCache(Ops& ops, std::shared_ptr<PagePool> pool, int64_t capacity, int64_t tree_group)
    : ops_(ops), pool_(std::move(pool)), shape_(pool_->shape()), capacity_(capacity) {
  SLUICE_CHECK(ops.dtype() == DType::kF32);
  SLUICE_CHECK(capacity > 0);
  shape_.tree_group = tree_group;
  const Shape rotated = {shape_.window - 1 + kMaxTail, shape_.num_kv_heads, shape_.head_dim};
  const Shape gate_rows = {shape_.gate_conv_width - 1 + kMaxTail, shape_.gate_head_dim};
  for (int64_t i = 0; i < shape_.num_layers; ++i) rotated_.emplace_back(DType::kF32, rotated);
  for (int64_t i = 0; i < shape_.num_gates; ++i) {
    gate_rows_.emplace_back(DType::kF32, gate_rows);
    if (tree_group > 0)
      trees_.emplace_back(GateTreeShape{tree_group, shape_.TreeCapacity(capacity)}, shape_.gate_head_dim);
  }
}

KvCache::KvCache(Ops& ops, const KvCacheShape& shape, int64_t capacity)
    : KvCache(ops, std::make_shared<PagePool>(shape, PagesFor(capacity)), capacity, shape.tree_group) {}

KvCache::~KvCache() {
  ReleasePagesFrom(0);
}

KvCache KvCache::Fork() const {
  SLUICE_CHECK_EQ(appended_, 0);
  KvCache fork(ops_, pool_, capacity_, shape_.tree_group);
  fork.pages_.assign(pages_.begin(), pages_.begin() + PagesFor(num_tokens_));
  for (const int32_t page : fork.pages_) pool_->Share(page);
  fork.num_tokens_ = num_tokens_;
  fork.num_rotated_ = num_rotated_;
  fork.first_rotated_ = first_rotated_;
  for (size_t i = 0; i < rotated_.size(); ++i) CopyRows(rotated_[i], fork.rotated_[i]);
  for (size_t i = 0; i < gate_rows_.size(); ++i) CopyRows(gate_rows_[i], fork.gate_rows_[i]);
  for (size_t i = 0; i < trees_.size(); ++i) fork.trees_[i].CopyFrom(trees_[i]);
  return fork;
}

int64_t KvCache::bytes() const {
  return std::ssize(pages_) * shape_.BytesPerPage() + shape_.TreeBytesFor(capacity_) + shape_.NewestBytes();
}

void KvCache::ReleasePagesFrom(int64_t page) {
  for (; std::ssize(pages_) > page; pages_.pop_back()) pool_->Release(pages_.back());
}

bool KvCache::Reserve(int64_t count) {
  SLUICE_CHECK_LE(num_tokens_ + count, capacity_);
  const int64_t missing = std::max<int64_t>(PagesFor(num_tokens_ + count) - std::ssize(pages_), 0);
  // The page that is not full yet is written next: it must be the timeline's alone.
  const auto last = static_cast<size_t>(num_tokens_ / kPageTokens);
  const bool copy = num_tokens_ % kPageTokens != 0 && pool_->num_owners(pages_[last]) > 1;
  std::vector<int32_t> taken;
  if (!pool_->Acquire(missing + (copy ? 1 : 0), taken)) return false;
  if (copy) {
    pool_->Copy(pages_[last], taken.back());
    pool_->Release(pages_[last]);
    pages_[last] = taken.back();
    taken.pop_back();
  }
  pages_.insert(pages_.end(), taken.begin(), taken.end());
  return true;
}

void KvCache::Append(const TensorView& tokens) {
  const int64_t count = tokens.dim(0);
  SLUICE_CHECK_EQ(appended_, 0);
  SLUICE_CHECK(count > 0 && count <= kMaxAppend);
  SLUICE_CHECK(Reserve(count));
  appended_ = count;
  const PageMap map{pages_.data()};
  for (int64_t i = 0; i < count; ++i)
    pool_->Tokens().data<int32_t>()[map.Slot(num_tokens_ + i)] = tokens.data<int32_t>()[i];
  // Room for the rotated keys of a short append, behind the old ones.
  if (count > kMaxTail || first_rotated_ + num_rotated_ + count <= rotated_[0].view().dim(0)) return;
  for (const Buffer& rotated : rotated_) MoveRows(rotated, first_rotated_, 0, num_rotated_);
  first_rotated_ = 0;
}

void KvCache::Commit(int64_t count) {
  SLUICE_CHECK(count == appended_ || (count >= 0 && count < appended_ && appended_ <= kMaxTail));
  const int64_t held = num_rotated_ + count;
  const int64_t keep = std::min(held, shape_.window - 1);
  if (appended_ <= kMaxTail) {
    first_rotated_ += held - keep;
    const int64_t history = shape_.gate_conv_width - 1;
    for (const Buffer& rows : gate_rows_) MoveRows(rows, count, 0, history);
  } else {
    first_rotated_ = 0;
  }
  num_rotated_ = keep;
  num_tokens_ += count;
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
  const int64_t page = num_tokens / kPageTokens;
  ReleasePagesFrom(page);
  for (int64_t gate = 0; gate < std::ssize(gate_rows_); ++gate) {
    const TensorView history = ConvHistory(gate);
    if (page == 0) {
      history.Zero();
    } else {
      CopyRows(pool_->ConvTails(gate).At(pages_.back()), history);
    }
  }
  RecomputeRotated();
}

void KvCache::Adopt(const std::vector<int32_t>& pages) {
  SLUICE_CHECK(num_tokens_ == 0 && appended_ == 0);
  ReleasePagesFrom(0);
  pages_ = pages;
  ReturnTo(std::ssize(pages) * kPageTokens);
  RebuildTrees();
}

void KvCache::RestoreTail(int64_t num_tokens, const std::vector<TensorView>& conv_history) {
  SLUICE_CHECK(num_tokens_ == 0 && PagesFor(num_tokens) <= std::ssize(pages_));
  num_tokens_ = num_tokens;
  for (int64_t gate = 0; gate < std::ssize(gate_rows_); ++gate)
    CopyRows(conv_history[static_cast<size_t>(gate)], ConvHistory(gate));
  RecomputeRotated();
  RebuildTrees();
}

void KvCache::RebuildTrees() {
  for (int64_t gate = 0; gate < std::ssize(trees_); ++gate)
    ops_.BuildGateTree({GateKeys(gate), 0, GateTree(gate).num_keys, GateTree(gate)});
}

void KvCache::RecomputeRotated() {
  first_rotated_ = 0;
  num_rotated_ = std::min(num_tokens_, shape_.window - 1);
  if (num_rotated_ == 0) return;
  std::vector<int32_t> positions(static_cast<size_t>(num_rotated_));
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(num_tokens_ - num_rotated_));
  const Buffer keys(DType::kF32, {num_rotated_, shape_.num_kv_heads, shape_.head_dim});
  for (int64_t layer = 0; layer < shape_.num_layers; ++layer) {
    ops_.LoadKeyRows({Keys(layer), num_tokens_ - num_rotated_, keys});
    RopeArgs args;
    args.x = keys;
    args.positions = TensorView::Of(positions.data(), {num_rotated_});
    args.theta = shape_.rope_theta;
    args.out = rotated_[static_cast<size_t>(layer)].view().Rows(0, num_rotated_);
    ops_.Rope(args);
  }
}

void KvCache::CopyTokens(int64_t begin, int64_t end, int32_t* out) const {
  SLUICE_CHECK(begin >= 0 && begin <= end && end <= num_tokens_ + appended_);
  const PageMap map{pages_.data()};
  const int32_t* tokens = pool_->Tokens().data<int32_t>();
  for (int64_t i = begin; i < end; ++i) *out++ = tokens[map.Slot(i)];
}

KeyRows KvCache::Rows(KeyRows memory) const {
  memory.map = {pages_.data()};
  memory.num_rows = num_tokens_ + appended_;
  return memory;
}

TensorView KvCache::RotatedKeys(int64_t layer, Arena& arena) const {
  const TensorView own = rotated_[static_cast<size_t>(layer)].view();
  const int64_t count = num_rotated_ + appended_;
  if (appended_ <= kMaxTail) return own.Rows(first_rotated_, first_rotated_ + count);
  const TensorView rotated = arena.Allocate(DType::kF32, {count, shape_.num_kv_heads, shape_.head_dim});
  CopyRows(own.Rows(first_rotated_, first_rotated_ + num_rotated_), rotated.Rows(0, num_rotated_));
  return rotated;
}

void KvCache::SaveRotatedKeys(int64_t layer, const TensorView& rotated) {
  if (appended_ <= kMaxTail) return;  // They are in place.
  const int64_t count = rotated.dim(0);
  const int64_t keep = std::min(count, shape_.window - 1);
  CopyRows(rotated.Rows(count - keep, count), rotated_[static_cast<size_t>(layer)].view().Rows(0, keep));
}

KeyCodeView KvCache::KeyCodes(int64_t layer) const {
  KeyCodeView codes = pool_->KeyCodes(layer);
  codes.map = {pages_.data()};
  codes.num_keys = num_tokens_ + appended_;
  return codes;
}

void KvCache::EncodeNewKeys(int64_t layer, const KeyCodebook& codebook) {
  if (shape_.key_code_stages.empty()) return;
  ops_.EncodeKeys({Keys(layer), num_tokens_, num_tokens_ + appended_, codebook, KeyCodes(layer)});
}

GateKeyView KvCache::GateKeys(int64_t gate) const {
  GateKeyView keys = pool_->GateKeys(gate);
  keys.num_keys = num_tokens_ + appended_;
  keys.map = {pages_.data()};
  return keys;
}

GateTreeView KvCache::GateTree(int64_t gate) const {
  if (trees_.empty()) return {};
  return trees_[static_cast<size_t>(gate)].View(
      std::min(num_tokens_ + appended_, shape_.TreeCapacity(capacity_)));
}

void KvCache::CloseTreeGroups(int64_t gate) {
  if (trees_.empty()) return;
  const GateTreeView tree = GateTree(gate);
  ops_.BuildGateTree({GateKeys(gate), std::min(num_tokens_, tree.num_keys), tree.num_keys, tree});
}

TensorView KvCache::ConvHistory(int64_t gate) const {
  return gate_rows_[static_cast<size_t>(gate)].view().Rows(0, shape_.gate_conv_width - 1);
}

void KvCache::SaveGateRows(int64_t gate, const TensorView& raw) {
  SLUICE_CHECK_EQ(raw.dim(0), appended_);
  const TensorView history = ConvHistory(gate);
  const int64_t history_rows = history.dim(0);
  const size_t row_bytes = static_cast<size_t>(shape_.gate_head_dim) * sizeof(float);
  // The row of appended token i; those before it are history.
  const auto row = [&](int64_t i) {
    return i >= 0 ? raw.row<float>(i) : history.row<float>(history_rows + i);
  };
  const auto copy_tail = [&](int64_t end, const TensorView& to) {
    for (int64_t j = 0; j < history_rows; ++j)
      std::memcpy(to.row<float>(j), row(end - history_rows + j), row_bytes);
  };
  for (int64_t page = num_tokens_ / kPageTokens; (page + 1) * kPageTokens <= num_tokens_ + appended_;
       ++page) {
    copy_tail((page + 1) * kPageTokens - num_tokens_,
              pool_->ConvTails(gate).At(pages_[static_cast<size_t>(page)]));
  }
  const TensorView rows = gate_rows_[static_cast<size_t>(gate)].view();
  if (appended_ > kMaxTail) return copy_tail(appended_, history);
  for (int64_t i = 0; i < appended_; ++i) std::memcpy(rows.row<float>(history_rows + i), row(i), row_bytes);
}

void KvCache::CheckIntegrity() const {
  SLUICE_CHECK(num_tokens_ >= 0 && num_tokens_ + appended_ <= capacity_);
  SLUICE_CHECK_LE(PagesFor(num_tokens_ + appended_), std::ssize(pages_));
  SLUICE_CHECK_EQ(num_rotated_, std::min(num_tokens_, shape_.window - 1));
  for (const int32_t page : pages_) SLUICE_CHECK(pool_->num_owners(page) > 0);
  pool_->CheckIntegrity();
  for (int64_t gate = 0; gate < shape_.num_gates; ++gate) {
    if (num_tokens_ % kPageTokens != 0 || num_tokens_ == 0) continue;
    const TensorView history = ConvHistory(gate);
    const int32_t page = pages_[static_cast<size_t>(num_tokens_ / kPageTokens - 1)];
    const auto bytes = static_cast<size_t>(history.num_elements()) * sizeof(float);
    SLUICE_CHECK(bytes == 0 || std::memcmp(history.raw(), pool_->ConvTails(gate).At(page).raw(), bytes) == 0);
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
  ForEachClosedGroup(tree.shape, 0, std::min(num_tokens_, tree.num_keys), check_group);
}

}  // namespace sluice
