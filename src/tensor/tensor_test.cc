// Views address the elements they say; bounds and types are checked; the arena's allocations never
// overlap while they live, and settle into one block.
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/random.h"

namespace sluice {
namespace {

TEST(ShapeTest, ElementsRankAndText) {
  EXPECT_EQ(Shape({4, 8}).num_elements(), 32);
  EXPECT_EQ(Shape({}).num_elements(), 1);
  EXPECT_EQ(Shape({3, 0, 2}).num_elements(), 0);
  EXPECT_EQ(Shape({4, 8}).rank(), 2);
  EXPECT_EQ(Shape({4, 8}).ToString(), "[4, 8]");
  EXPECT_EQ(Shape().ToString(), "[]");
  EXPECT_EQ(Shape({1, 2}), Shape({1, 2}));
  EXPECT_NE(Shape({1, 2}), Shape({1, 2, 1}));
  EXPECT_THROW(Shape({1, 2, 3, 4, 5}), Bug);
  EXPECT_THROW(Shape({-1}), Bug);
}

class ViewTest : public ::testing::Test {
 protected:
  ViewTest() { std::iota(data_.begin(), data_.end(), 0.0f); }
  std::array<float, 24> data_;
};

TEST_F(ViewTest, AbsentAndPresent) {
  EXPECT_FALSE(TensorView().present());
  EXPECT_TRUE(TensorView::Of(data_.data(), {24}).present());
}

TEST_F(ViewTest, RowsOfAContiguousView) {
  const TensorView view = TensorView::Of(data_.data(), {4, 6});
  EXPECT_TRUE(view.contiguous());
  EXPECT_EQ(view.row_stride(), 6);
  EXPECT_EQ(view.row<float>(2)[1], 13);
  const TensorView rows = view.Rows(1, 3);
  EXPECT_EQ(rows.shape(), Shape({2, 6}));
  EXPECT_EQ(rows.data<float>()[0], 6);
  EXPECT_EQ(view.Rows(4, 4).num_elements(), 0);
  EXPECT_THROW(view.Rows(3, 5), Bug);
  EXPECT_THROW(view.Rows(2, 1), Bug);
  EXPECT_THROW(view.Rows(-1, 1), Bug);
}

TEST_F(ViewTest, AtDropsTheFirstAxis) {
  const TensorView view = TensorView::Of(data_.data(), {2, 3, 4});
  EXPECT_EQ(view.At(1).shape(), Shape({3, 4}));
  EXPECT_EQ(view.At(1).At(2).data<float>()[3], 23);
  EXPECT_EQ(view.At(1).At(2).At(3).rank(), 0);
  EXPECT_EQ(view.At(1).At(2).At(3).data<float>()[0], 23);
  EXPECT_THROW(view.At(2), Bug);
}

TEST_F(ViewTest, ColumnsAreStrided) {
  const TensorView view = TensorView::Of(data_.data(), {4, 6}).Columns(2, 5);
  EXPECT_EQ(view.shape(), Shape({4, 3}));
  EXPECT_FALSE(view.contiguous());
  EXPECT_EQ(view.row<float>(3)[0], 20);
  EXPECT_EQ(view.Rows(1, 2).row<float>(0)[2], 10);
  EXPECT_TRUE(view.Rows(1, 2).contiguous());
  EXPECT_THROW(view.Reshape({12}), Bug);
  EXPECT_THROW(view.Columns(2, 4), Bug);
  EXPECT_THROW(TensorView::Of(data_.data(), {24}).Columns(0, 1), Bug);
}

TEST_F(ViewTest, ReshapeKeepsTheElements) {
  const TensorView view = TensorView::Of(data_.data(), {4, 6}).Reshape({2, 2, 6});
  EXPECT_EQ(view.At(1).At(1).data<float>()[5], 23);
  EXPECT_THROW(view.Reshape({23}), Bug);
}

TEST_F(ViewTest, WrongTypeIsABug) {
  const TensorView view = TensorView::Of(data_.data(), {24});
  EXPECT_THROW(view.data<double>(), Bug);
  EXPECT_THROW(view.data<int32_t>(), Bug);
  EXPECT_NO_THROW(view.data<const float>());
}

TEST_F(ViewTest, ZeroTouchesOnlyItsElements) {
  TensorView::Of(data_.data(), {4, 6}).Columns(1, 3).Zero();
  for (int i = 0; i < 24; ++i)
    EXPECT_EQ(data_[static_cast<size_t>(i)], i % 6 == 1 || i % 6 == 2 ? 0 : static_cast<float>(i)) << i;
  TensorView::Of(data_.data(), {4, 6}).Zero();
  for (const float value : data_) EXPECT_EQ(value, 0);
  EXPECT_NO_THROW(TensorView().Zero());
}

TEST(BufferTest, AlignedAndZeroed) {
  for (const int64_t n : {0, 1, 17, 4097}) {
    const Buffer buffer(DType::kF32, {n});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.view().raw()) % 64, 0u);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(buffer.view().data<float>()[i], 0);
  }
  EXPECT_FALSE(Buffer().view().present());
}

TEST(BufferTest, MoveKeepsTheMemory) {
  Buffer first(DType::kI32, {3});
  first.view().data<int32_t>()[2] = 7;
  const Buffer second = std::move(first);
  EXPECT_EQ(second.view().data<int32_t>()[2], 7);
}

TEST(ArenaTest, AlignedAndEmptyAllocations) {
  Arena arena;
  EXPECT_EQ(arena.capacity_bytes(), 0u);
  const TensorView a = arena.Allocate(DType::kI8, {3});
  const TensorView b = arena.Allocate(DType::kF32, {0, 5});
  const TensorView c = arena.Allocate(DType::kF64, {2, 2});
  for (const TensorView& view : {a, b, c}) {
    EXPECT_TRUE(view.present());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.raw()) % 64, 0u);
  }
  EXPECT_NE(a.raw(), c.raw());
}

TEST(ArenaTest, SettlesIntoOneBlockOfThePeak) {
  Arena arena;
  for (int i = 0; i < 50; ++i) arena.Allocate(DType::kF32, {100'000});
  arena.Reset();
  const size_t settled = arena.capacity_bytes();
  EXPECT_GE(settled, 50u * 400'000);
  EXPECT_LE(settled, 2 * 50u * 400'000);
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::vector<TensorView> views;
    for (int i = 0; i < 50; ++i) views.push_back(arena.Allocate(DType::kF32, {100'000}));
    const auto* first = static_cast<std::byte*>(views.front().raw());
    const auto* last = static_cast<std::byte*>(views.back().raw());
    EXPECT_LE(static_cast<size_t>(last - first), settled);  // All in one block.
    arena.Reset();
    EXPECT_EQ(arena.capacity_bytes(), settled);
  }
}

TEST(ArenaTest, ReleaseGoesBackAcrossBlocks) {
  Arena arena;
  const TensorView kept = arena.Allocate(DType::kI32, {1000});
  std::fill_n(kept.data<int32_t>(), 1000, 42);
  const Arena::Position mark = arena.Mark();
  const void* scratch = arena.Allocate(DType::kI32, {1000}).raw();
  for (int i = 0; i < 5; ++i) arena.Allocate(DType::kF32, {1 << 20}).Zero();
  const size_t capacity = arena.capacity_bytes();
  arena.Release(mark);
  EXPECT_EQ(arena.Allocate(DType::kI32, {1000}).raw(), scratch);
  for (int i = 0; i < 5; ++i) arena.Allocate(DType::kF32, {1 << 20}).Zero();
  EXPECT_EQ(arena.capacity_bytes(), capacity);  // The same blocks serve again.
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(kept.data<int32_t>()[i], 42);
}

// Random allocations, marks, releases and resets: every live view keeps its own bytes.
TEST(ArenaTest, LiveViewsNeverOverlap) {
  struct Live {
    TensorView view;
    uint8_t fill;
  };
  Random random(11);
  Arena arena;
  std::vector<Live> live;
  std::vector<std::pair<Arena::Position, size_t>> marks;
  for (int step = 0; step < 3000; ++step) {
    const uint64_t choice = random.Below(100);
    if (choice < 70) {
      const auto bytes = static_cast<int64_t>(random.Below(random.Below(20) == 0 ? 3'000'000 : 5'000));
      live.push_back({arena.Allocate(DType::kU8, {bytes}), static_cast<uint8_t>(random.NextU32())});
      if (bytes > 0) std::memset(live.back().view.raw(), live.back().fill, static_cast<size_t>(bytes));
    } else if (choice < 83) {
      marks.emplace_back(arena.Mark(), live.size());
    } else if (choice < 99 && !marks.empty()) {
      arena.Release(marks.back().first);
      live.resize(marks.back().second);
      marks.pop_back();
    } else if (choice == 99) {
      arena.Reset();
      live.clear();
      marks.clear();
    }
    if (step % 50 != 0) continue;
    for (const auto& [view, fill] : live) {
      const uint8_t* bytes = view.data<uint8_t>();
      for (int64_t i = 0; i < view.num_elements(); i += 61) ASSERT_EQ(bytes[i], fill) << "step " << step;
      if (view.num_elements() > 0) {
        ASSERT_EQ(bytes[view.num_elements() - 1], fill) << "step " << step;
      }
    }
  }
}

}  // namespace
}  // namespace sluice
