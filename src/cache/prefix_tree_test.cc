// A prefix tree over random timelines gives back what was put in, keeps to its budget and gives up pages in
// order of last use.
#include "cache/prefix_tree.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

namespace sluice {
namespace {

KvCacheShape TinyShape() {
  KvCacheShape shape;
  shape.num_layers = 1;
  shape.num_kv_heads = 1;
  shape.head_dim = 2;
  shape.window = 4;
  shape.num_gates = 1;
  shape.gate_head_dim = 2;
  shape.gate_conv_width = 1;
  return shape;
}

std::shared_ptr<PagePool> MakePool(int64_t num_pages) {
  return std::make_shared<PagePool>(TinyShape(), num_pages);
}

// Tokens of pages that each repeat one letter.
std::vector<int32_t> Tokens(const std::string& letters) {
  std::vector<int32_t> tokens;
  for (const char letter : letters) tokens.insert(tokens.end(), kPageRows, letter);
  return tokens;
}

// Puts a timeline in as a session does that then ends: its own pages, except for what is known.
void Insert(PrefixTree& tree, const std::string& key, const std::string& letters) {
  std::vector<int32_t> pages = tree.Match(key, Tokens(letters));
  ASSERT_TRUE(tree.pool()->Acquire(std::ssize(letters) - std::ssize(pages), pages));
  tree.Insert(key, Tokens(letters), pages);
  for (const int32_t page : pages) tree.pool()->Release(page);
}

// How many pages of a timeline are known.
int64_t Known(PrefixTree& tree, const std::string& key, const std::string& letters) {
  const std::vector<int32_t> pages = tree.Match(key, Tokens(letters));
  for (const int32_t page : pages) tree.pool()->Release(page);
  return std::ssize(pages);
}

TEST(PrefixTreeTest, SharesAndSplits) {
  PrefixTree tree(MakePool(20), 20);
  Insert(tree, "", "abcd");
  EXPECT_EQ(Known(tree, "", "abcdef"), 4);
  EXPECT_EQ(Known(tree, "", "abx"), 2);
  EXPECT_EQ(Known(tree, "", "x"), 0);
  EXPECT_EQ(Known(tree, "other", "abcd"), 0);
  Insert(tree, "", "abxy");
  EXPECT_EQ(tree.num_pages(), 6);
  EXPECT_EQ(tree.pool()->num_free(), 14);
  EXPECT_EQ(Known(tree, "", "abxyz"), 4);
  EXPECT_EQ(Known(tree, "", "abcd"), 4);
  // Part of a page is not known.
  std::vector<int32_t> tokens = Tokens("abc");
  tokens.pop_back();
  const std::vector<int32_t> pages = tree.Match("", tokens);
  EXPECT_EQ(pages.size(), 2u);
  for (const int32_t page : pages) tree.pool()->Release(page);
  tree.CheckIntegrity();
}

TEST(PrefixTreeTest, LeastRecentlyUsedGoFirst) {
  PrefixTree tree(MakePool(20), 6);
  Insert(tree, "", "abc");
  Insert(tree, "", "axy");
  EXPECT_EQ(Known(tree, "", "abc"), 3);  // Now "axy" is the older one.
  Insert(tree, "", "pq");
  EXPECT_EQ(tree.num_pages(), 6);
  EXPECT_EQ(Known(tree, "", "axy"), 2);  // Its end went.
  EXPECT_EQ(Known(tree, "", "abc"), 3);
  tree.Evict(20);
  EXPECT_EQ(tree.num_pages(), 0);
  EXPECT_EQ(tree.pool()->num_free(), 20);
}

TEST(PrefixTreeTest, PagesInUseOutliveTheTree) {
  const std::shared_ptr<PagePool> pool = MakePool(4);
  std::vector<int32_t> pages;
  {
    PrefixTree tree(pool, 4);
    Insert(tree, "", "abc");
    pages = tree.Match("", Tokens("ab"));
    tree.Evict(4);
    EXPECT_EQ(pool->num_free(), 2);
  }
  for (const int32_t page : pages) pool->Release(page);
  EXPECT_EQ(pool->num_free(), 4);
  pool->CheckIntegrity();
}

TEST(PrefixTreeTest, RandomTimelines) {
  const bool holds = rc::check("a page found holds the tokens asked for", [] {
    const auto max_pages = *rc::gen::inRange<int64_t>(1, 24);
    PrefixTree tree(MakePool(40), max_pages);
    std::map<int32_t, std::string> prefix_of;  // What each page was made for.
    for (int64_t step = *rc::gen::inRange<int64_t>(1, 40); step > 0; --step) {
      const auto letters = *rc::gen::container<std::string>(rc::gen::inRange('a', 'd')).as("a timeline");
      const std::string timeline = letters.substr(0, 8);
      std::vector<int32_t> pages = tree.Match("", Tokens(timeline));
      for (size_t i = 0; i < pages.size(); ++i)
        RC_ASSERT(prefix_of.at(pages[i]) == timeline.substr(0, i + 1));
      const auto known = pages.size();
      RC_ASSERT(tree.pool()->Acquire(std::ssize(timeline) - std::ssize(pages), pages));
      for (size_t i = known; i < pages.size(); ++i) prefix_of[pages[i]] = timeline.substr(0, i + 1);
      if (*rc::gen::inRange(0, 5) > 0) tree.Insert("", Tokens(timeline), pages);
      for (const int32_t page : pages) tree.pool()->Release(page);
      if (*rc::gen::inRange(0, 8) == 0) tree.Evict(*rc::gen::inRange<int64_t>(0, 40));
      tree.CheckIntegrity();
      tree.pool()->CheckIntegrity();
      RC_ASSERT(tree.num_pages() + tree.pool()->num_free() == 40);
    }
  });
  EXPECT_TRUE(holds);
}

}  // namespace
}  // namespace sluice
