// Memory for packed gate keys and for a tree over them (ops/gate.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "ops/gate.h"
#include "tensor/tensor.h"

namespace sluice {

// Room for `capacity` keys of `size` channels, rounded up to whole groups of 16.
class GateKeyBuffer {
 public:
  GateKeyBuffer(int64_t capacity, int64_t size)
      : packed_(DType::kI8, {NumGroups(capacity), size / 2, GateKeyView::kGroup, 2}),
        scale_(DType::kF16, {NumGroups(capacity) * GateKeyView::kGroup}) {}

  GateKeyView View(int64_t num_keys) const { return {packed_, scale_, num_keys}; }
  // REQUIRES: the same capacity and size.
  void CopyFrom(const GateKeyBuffer& other) {
    CopyBuffer(other.packed_, packed_);
    CopyBuffer(other.scale_, scale_);
  }
  static void CopyBuffer(const TensorView& from, const TensorView& to) {
    SLUICE_CHECK(from.shape() == to.shape());
    const size_t bytes = static_cast<size_t>(from.num_elements()) * SizeOf(from.dtype());
    if (bytes > 0) std::memcpy(to.raw(), from.raw(), bytes);
  }
  static int64_t BytesFor(int64_t capacity, int64_t size) {
    return NumGroups(capacity) * GateKeyView::kGroup * (size + 2);
  }

 private:
  static int64_t NumGroups(int64_t capacity) {
    return (capacity + GateKeyView::kGroup - 1) / GateKeyView::kGroup;
  }

  Buffer packed_;
  Buffer scale_;
};

// A tree over keys of `size` channels.
class GateTreeBuffer {
 public:
  GateTreeBuffer(const GateTreeShape& shape, int64_t size)
      : shape_(shape),
        order_(DType::kI32, {shape.NumSlots()}),
        keys_(shape.NumSlots(), size),
        leaves_(shape.NumSlots() / GateTreeView::kLeaf, size + 2),
        nodes_(shape.NumSlots() / GateTreeView::kNode, size + 2) {}

  // num_keys: whose groups are closed.
  GateTreeView View(int64_t num_keys) const {
    return {shape_, num_keys, order_, keys_.View(0), leaves_.View(0), nodes_.View(0)};
  }
  // REQUIRES: the same shape.
  void CopyFrom(const GateTreeBuffer& other) {
    GateKeyBuffer::CopyBuffer(other.order_, order_);
    keys_.CopyFrom(other.keys_);
    leaves_.CopyFrom(other.leaves_);
    nodes_.CopyFrom(other.nodes_);
  }
  static int64_t BytesFor(const GateTreeShape& shape, int64_t size) {
    const int64_t slots = shape.NumSlots();
    return slots * static_cast<int64_t>(sizeof(int32_t)) + GateKeyBuffer::BytesFor(slots, size) +
           GateKeyBuffer::BytesFor(slots / GateTreeView::kLeaf, size + 2) +
           GateKeyBuffer::BytesFor(slots / GateTreeView::kNode, size + 2);
  }

 private:
  GateTreeShape shape_;
  Buffer order_;
  GateKeyBuffer keys_;
  GateKeyBuffer leaves_;
  GateKeyBuffer nodes_;
};

}  // namespace sluice
