// Which prefixes of earlier timelines are still in a pool's pages: a radix tree over token ids, page by page.
// A session that begins with a known prefix takes its pages instead of computing them. When there are more
// pages than the budget allows, or a session needs them, the least recently used go first, from the ends of
// prefixes.
//
// What a page holds depends on more than the tokens before it: timelines are only shared under the same
// `key`, which stands for the model and for the options of its passes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "cache/page_pool.h"

namespace sluice {

class PrefixTree {
 public:
  // Holds at most `max_pages` pages of the pool.
  PrefixTree(std::shared_ptr<PagePool> pool, int64_t max_pages);
  ~PrefixTree();
  PrefixTree(const PrefixTree&) = delete;

  const std::shared_ptr<PagePool>& pool() const { return pool_; }
  int64_t num_pages() const;

  // The pages of the longest known prefix of `tokens`, whole pages only. The caller owns a share of each.
  std::vector<int32_t> Match(const std::string& key, std::span<const int32_t> tokens);
  // Makes the whole pages of a timeline known: page i holds tokens [64 i, 64 i + 64). Of what is known
  // already the old pages stay.
  void Insert(const std::string& key, std::span<const int32_t> tokens, std::span<const int32_t> pages);
  // Forgets least recently used pages until `count` more pages of the pool are free, or none is left to
  // forget. Pages that sessions use are forgotten too, though that frees nothing.
  void Evict(int64_t count);

  // Bug if an invariant does not hold.
  void CheckIntegrity() const;

 private:
  // A run of pages. Children differ in their first page.
  struct Node {
    std::vector<int32_t> tokens;  // 64 per page
    std::vector<int32_t> pages;
    Node* parent = nullptr;
    int64_t last_use = 0;                                            // Not before that of any child.
    std::map<std::vector<int32_t>, std::unique_ptr<Node>> children;  // By the tokens of their first page.
  };

  // Walks down as far as `tokens` agree, cutting the last node where they end to; the walked nodes are used
  // now. Returns the node (null: none) and how many pages were walked.
  std::pair<Node*, int64_t> Walk(Node& root, std::span<const int32_t> tokens);
  // Cuts a node in two: the first `count` pages stay.
  static void Cut(Node& node, int64_t count);
  // Releases the last page of the least recently used leaf. False if there is no page.
  bool ForgetOne();
  void CheckNode(const Node& node, int64_t& pages) const;

  std::shared_ptr<PagePool> pool_;
  int64_t max_pages_;
  mutable std::mutex mutex_;
  int64_t num_pages_ = 0;
  int64_t clock_ = 0;
  std::map<std::string, Node> roots_;  // Nodes without pages.
};

}  // namespace sluice
