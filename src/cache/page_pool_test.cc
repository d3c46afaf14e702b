// Counting of pages, and what they take.
#include "cache/page_pool.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace sluice {
namespace {

// A model of 12 layers whose 12 query heads share one key/value head, with a gate for every four layers.
KvCacheShape LargeShape(DType format) {
  KvCacheShape shape;
  shape.num_layers = 12;
  shape.num_kv_heads = 1;
  shape.head_dim = 64;
  shape.window = 128;
  shape.num_gates = 3;
  shape.gate_head_dim = 32;
  shape.gate_conv_width = 4;
  shape.tree_group = KvCacheShape::kTreeGroup;
  shape.format = format;
  return shape;
}

TEST(PagePoolTest, A128KTimelineFitsItsBudget) {
  constexpr int64_t kTokens = 131072;
  // With key codes of 5 and of 2 bytes.
  KvCacheShape shape = LargeShape(DType::kBF16);
  shape.key_code_stages.assign(12, 4);
  EXPECT_LE(shape.BytesFor(kTokens, kTokens), 440'000'000);
  shape = LargeShape(DType::kI8);
  shape.key_code_stages.assign(12, 1);
  EXPECT_LE(shape.BytesFor(kTokens, kTokens), 240'000'000);
}

TEST(PagePoolTest, PagesAreGivenOutFromTheLowestAndCounted) {
  KvCacheShape shape = LargeShape(DType::kI8);
  shape.num_layers = 1;
  shape.key_code_stages = {4};
  PagePool pool(shape, 4);
  std::vector<int32_t> pages;
  ASSERT_TRUE(pool.Acquire(3, pages));
  EXPECT_EQ(pages, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_FALSE(pool.Acquire(2, pages));
  EXPECT_EQ(pages.size(), 3u);
  pool.Share(1);
  for (const int32_t page : {1, 0}) pool.Release(page);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(pool.num_owners(1), 1);
  EXPECT_EQ(pool.bytes_in_use(), 2 * shape.BytesPerPage());
  pages.clear();
  ASSERT_TRUE(pool.Acquire(1, pages));
  EXPECT_EQ(pages[0], 0);
  EXPECT_THROW(pool.Release(3), Bug);
  EXPECT_THROW(pool.Share(3), Bug);
  pool.CheckIntegrity();
}

TEST(PagePoolTest, CopiesEveryKindOfRow) {
  KvCacheShape shape = LargeShape(DType::kI8);
  shape.num_layers = 2;
  PagePool pool(shape, 3);
  for (const PagePool::Kind& kind : pool.Kinds()) {
    const size_t bytes = static_cast<size_t>(kind.rows.dim(1)) * SizeOf(kind.rows.dtype());
    ASSERT_GT(bytes, 0u) << kind.name;
    auto* memory = static_cast<std::byte*>(kind.rows.raw());
    for (size_t i = 0; i < 3 * bytes; ++i) memory[i] = static_cast<std::byte>(i / bytes + 1);
  }
  pool.Copy(2, 0);
  for (const PagePool::Kind& kind : pool.Kinds()) {
    const size_t bytes = static_cast<size_t>(kind.rows.dim(1)) * SizeOf(kind.rows.dtype());
    const auto* memory = static_cast<const std::byte*>(kind.rows.raw());
    for (size_t i = 0; i < 3 * bytes; ++i)
      ASSERT_EQ(memory[i], static_cast<std::byte>(i < bytes ? 3 : i / bytes + 1)) << kind.name;
  }
}

}  // namespace
}  // namespace sluice
