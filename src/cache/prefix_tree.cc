#include "cache/prefix_tree.h"

#include <algorithm>

namespace sluice {

namespace {

std::vector<int32_t> PageTokens(std::span<const int32_t> tokens, int64_t page) {
  const auto part = tokens.subspan(static_cast<size_t>(page * kPageRows), static_cast<size_t>(kPageRows));
  return {part.begin(), part.end()};
}

}  // namespace

PrefixTree::PrefixTree(std::shared_ptr<PagePool> pool, int64_t max_pages)
    : pool_(std::move(pool)), max_pages_(max_pages) {
  SLUICE_CHECK(max_pages >= 0);
}

PrefixTree::~PrefixTree() {
  while (ForgetOne()) {
  }
}

int64_t PrefixTree::num_pages() const {
  const std::lock_guard lock(mutex_);
  return num_pages_;
}

void PrefixTree::Cut(Node& node, int64_t count) {
  auto rest = std::make_unique<Node>();
  const auto tokens = static_cast<std::ptrdiff_t>(count * kPageRows);
  rest->tokens.assign(node.tokens.begin() + tokens, node.tokens.end());
  rest->pages.assign(node.pages.begin() + static_cast<std::ptrdiff_t>(count), node.pages.end());
  rest->parent = &node;
  rest->last_use = node.last_use;
  rest->children = std::move(node.children);
  for (auto& [first, child] : rest->children) child->parent = rest.get();
  node.tokens.resize(static_cast<size_t>(tokens));
  node.pages.resize(static_cast<size_t>(count));
  node.children.clear();
  node.children.emplace(PageTokens(rest->tokens, 0), std::move(rest));
}

std::pair<PrefixTree::Node*, int64_t> PrefixTree::Walk(Node& root, std::span<const int32_t> tokens) {
  const int64_t num_pages = std::ssize(tokens) / kPageRows;
  ++clock_;
  Node* node = &root;
  int64_t walked = 0;
  while (true) {
    node->last_use = clock_;
    if (walked == num_pages) break;
    const auto found = node->children.find(PageTokens(tokens, walked));
    if (found == node->children.end()) break;
    node = found->second.get();
    int64_t same = 1;  // The first page is the child's key.
    while (same < std::ssize(node->pages) && walked + same < num_pages &&
           PageTokens(node->tokens, same) == PageTokens(tokens, walked + same)) {
      ++same;
    }
    if (same < std::ssize(node->pages)) Cut(*node, same);
    walked += same;
  }
  return {node, walked};
}

std::vector<int32_t> PrefixTree::Match(const std::string& key, std::span<const int32_t> tokens) {
  const std::lock_guard lock(mutex_);
  std::vector<int32_t> pages;
  const auto root = roots_.find(key);
  if (root == roots_.end()) return pages;
  for (const Node* node = Walk(root->second, tokens).first; node != nullptr; node = node->parent)
    pages.insert(pages.begin(), node->pages.begin(), node->pages.end());
  for (const int32_t page : pages) pool_->Share(page);
  return pages;
}

void PrefixTree::Insert(const std::string& key, std::span<const int32_t> tokens,
                        std::span<const int32_t> pages) {
  const std::lock_guard lock(mutex_);
  const int64_t num_pages = std::min(std::ssize(tokens) / kPageRows, std::ssize(pages));
  const auto whole = tokens.first(static_cast<size_t>(num_pages * kPageRows));
  const auto [node, walked] = Walk(roots_[key], whole);
  if (walked < num_pages) {
    auto added = std::make_unique<Node>();
    added->tokens.assign(whole.begin() + static_cast<std::ptrdiff_t>(walked * kPageRows), whole.end());
    added->pages.assign(pages.begin() + static_cast<std::ptrdiff_t>(walked),
                        pages.begin() + static_cast<std::ptrdiff_t>(num_pages));
    added->parent = node;
    added->last_use = clock_;
    for (const int32_t page : added->pages) pool_->Share(page);
    num_pages_ += std::ssize(added->pages);
    node->children.emplace(PageTokens(added->tokens, 0), std::move(added));
  }
  while (num_pages_ > max_pages_ && ForgetOne()) {
  }
}

bool PrefixTree::ForgetOne() {
  Node* oldest = nullptr;
  const auto visit = [&](auto& self, Node& node) -> void {
    for (auto& [first, child] : node.children) self(self, *child);
    const bool is_leaf = node.children.empty() && node.parent != nullptr;
    if (is_leaf && (oldest == nullptr || node.last_use < oldest->last_use)) oldest = &node;
  };
  for (auto& [key, root] : roots_) visit(visit, root);
  if (oldest == nullptr) return false;
  pool_->Release(oldest->pages.back());
  oldest->pages.pop_back();
  --num_pages_;
  if (!oldest->pages.empty()) {
    oldest->tokens.resize(oldest->pages.size() * static_cast<size_t>(kPageRows));
  } else {
    Node* parent = oldest->parent;
    parent->children.erase(PageTokens(oldest->tokens, 0));
  }
  return true;
}

void PrefixTree::Evict(int64_t count) {
  const std::lock_guard lock(mutex_);
  while (pool_->num_free() < count && ForgetOne()) {
  }
}

void PrefixTree::CheckNode(const Node& node, int64_t& pages) const {
  SLUICE_CHECK_EQ(std::ssize(node.tokens), std::ssize(node.pages) * kPageRows);
  SLUICE_CHECK(node.parent == nullptr || !node.pages.empty());
  for (const int32_t page : node.pages) SLUICE_CHECK(pool_->num_owners(page) > 0);
  pages += std::ssize(node.pages);
  for (const auto& [first, child] : node.children) {
    SLUICE_CHECK(child->parent == &node && child->last_use <= node.last_use);
    SLUICE_CHECK(first == PageTokens(child->tokens, 0));
    CheckNode(*child, pages);
  }
}

void PrefixTree::CheckIntegrity() const {
  const std::lock_guard lock(mutex_);
  int64_t pages = 0;
  for (const auto& [key, root] : roots_) CheckNode(root, pages);
  SLUICE_CHECK_EQ(pages, num_pages_);
  SLUICE_CHECK_LE(num_pages_, max_pages_);
}

}  // namespace sluice
