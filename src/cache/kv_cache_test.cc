// The cache of a timeline that grows, goes back and forks at random: what it keeps beside the keys is what a
// fresh cache of the same tokens keeps, and the gate's tree finds in it what a scan finds.
#include "cache/kv_cache.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <memory>

#include "backend/backend.h"
#include "base/random.h"
#include "ops/gate_tree_numerics.h"

namespace sluice {
namespace {

constexpr int64_t kCapacity = 3000;
constexpr int64_t kGroup = 256;  // And 1,024.
constexpr int64_t kHeads = 2;
constexpr int64_t kSize = 8;

KvCacheShape TinyShape() {
  KvCacheShape shape;
  shape.num_layers = 1;
  shape.num_kv_heads = 1;
  shape.head_dim = 4;
  shape.window = 24;
  shape.rope_theta = 10000;
  shape.num_gates = 2;
  shape.gate_head_dim = kSize;
  shape.gate_conv_width = 3;
  shape.tree_group = kGroup;
  shape.key_code_stages = {0};
  return shape;
}

// Rows that depend on token and position alone.
Buffer RowsOf(const std::vector<int32_t>& tokens, int64_t begin, int64_t gate, int64_t channels) {
  const int64_t count = std::ssize(tokens) - begin;
  Buffer rows(DType::kF32, {count, channels});
  for (int64_t i = 0; i < count; ++i) {
    Random random(static_cast<uint64_t>(gate),
                  static_cast<uint64_t>(tokens[static_cast<size_t>(begin + i)] * 10000 + begin + i));
    for (int64_t c = 0; c < channels; ++c) rows.view().row<float>(i)[c] = static_cast<float>(random.Normal());
  }
  return rows;
}

// A timeline and its cache, filled as the model fills it.
class Timeline {
 public:
  explicit Timeline(Ops& ops) : ops_(ops), cache_(ops, TinyShape(), kCapacity) {}

  Timeline(Ops& ops, KvCache cache, std::vector<int32_t> tokens)
      : ops_(ops), cache_(std::move(cache)), tokens_(std::move(tokens)) {}
  Timeline Fork() const { return Timeline(ops_, cache_.Fork(), tokens_); }

  // Only the first `accepted` of them are committed.
  void Append(const std::vector<int32_t>& more, int64_t accepted) {
    const int64_t begin = cache_.num_tokens();
    tokens_.insert(tokens_.end(), more.begin(), more.end());
    cache_.Append(TensorView::Of(more.data(), {std::ssize(more)}));
    for (int64_t gate = 0; gate < 2; ++gate) {
      const Buffer gk = RowsOf(tokens_, begin, gate, kSize);
      cache_.SaveGateRows(gate, gk);
      ops_.PackGateKeys({gk, begin, cache_.GateKeys(gate)});
      cache_.CloseTreeGroups(gate);
    }
    Arena arena;
    const Buffer zeros(DType::kF32, {std::ssize(more), 1, 4});
    ops_.StoreKeyRows({zeros, begin, cache_.Keys(0)});
    ops_.StoreKeyRows({zeros, begin, cache_.Values(0)});
    const TensorView rotated = cache_.RotatedKeys(0, arena);
    rotated.Zero();
    cache_.SaveRotatedKeys(0, rotated);
    const Buffer ones(DType::kF32, {1, 4});
    std::fill_n(ones.view().data<float>(), 4, 1.0f);
    cache_.EncodeNewKeys(0, {zeros.view().At(0), ones, {}});
    cache_.Commit(accepted);
    tokens_.resize(static_cast<size_t>(begin + accepted));
  }
  void Append(const std::vector<int32_t>& more) { Append(more, std::ssize(more)); }
  void Truncate(int64_t num_tokens) { tokens_.resize(static_cast<size_t>(cache_.Truncate(num_tokens))); }

  // What a query behind all tokens selects.
  std::vector<int32_t> Select(int64_t gate, int64_t beam) const {
    const Buffer gq = RowsOf({1}, 0, 7, kHeads * kSize);
    const Buffer gw = RowsOf({1}, 0, 8, kHeads);
    const Buffer candidates(DType::kI32, {1, 16});
    SelectKeysArgs args;
    args.gq = gq.view().Reshape({1, kHeads, kSize});
    args.gw = gw;
    args.keys = cache_.GateKeys(gate);
    args.span.query_offset = cache_.num_tokens() - 1;
    args.span.window = 24;
    args.num_selected = 16;
    args.candidates = candidates;
    if (beam > 0) args.search = {cache_.GateTree(gate), beam, 0};
    ops_.SelectKeys(args);
    const int32_t* row = candidates.view().data<int32_t>();
    return {row, row + 16};
  }

  const std::vector<int32_t>& tokens() const { return tokens_; }
  const KvCache& cache() const { return cache_; }

 private:
  Ops& ops_;
  KvCache cache_;
  std::vector<int32_t> tokens_;
};

TEST(KvCacheTest, TreesOfRandomTimelines) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const bool holds = rc::check("a timeline's trees depend on its tokens alone", [&] {
    Timeline timeline(*ops);
    const int64_t steps = *rc::gen::inRange<int64_t>(1, 9);
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t length = timeline.cache().num_tokens();
      if (length > 0 && *rc::gen::inRange(0, 3) == 0) {
        timeline.Truncate(*rc::gen::inRange<int64_t>(0, length + 1));
      } else if (length < kCapacity) {
        const auto count = *rc::gen::inRange<int64_t>(1, std::min<int64_t>(1200, kCapacity - length) + 1);
        const auto token = *rc::gen::inRange<int32_t>(0, 50);
        const int64_t accepted =
            count <= KvCache::kMaxTail ? *rc::gen::inRange<int64_t>(0, count + 1) : count;
        timeline.Append(std::vector<int32_t>(static_cast<size_t>(count), token), accepted);
      }
      timeline.cache().CheckIntegrity();
    }
    if (timeline.tokens().empty()) return;
    Timeline fresh(*ops);
    fresh.Append(timeline.tokens());
    for (int64_t gate = 0; gate < 2; ++gate) {
      const GateTreeView a = timeline.cache().GateTree(gate), b = fresh.cache().GateTree(gate);
      RC_ASSERT(a.num_keys == std::min<int64_t>(std::ssize(timeline.tokens()), kCapacity - 24));
      ForEachClosedGroup(a.shape, 0, a.num_keys, [&](int64_t, int64_t first_slot, int64_t num_keys) {
        const auto order = [&](const GateTreeView& tree) {
          const int32_t* begin = tree.order.row<int32_t>(first_slot);
          return std::vector<int32_t>(begin, begin + num_keys);
        };
        RC_ASSERT(order(a) == order(b));
      });
      RC_ASSERT(timeline.Select(gate, 2) == fresh.Select(gate, 2));
      RC_ASSERT(timeline.Select(gate, kCapacity / 16 + 1) == timeline.Select(gate, 0));
    }
  });
  EXPECT_TRUE(holds);
}

TEST(KvCacheTest, ForksOverOnePool) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const bool holds = rc::check("timelines that share pages do not touch each other's tokens", [&] {
    KvCacheShape shape = TinyShape();
    const auto pool = std::make_shared<PagePool>(shape, 400);
    {
      std::vector<Timeline> timelines;
      timelines.emplace_back(*ops, KvCache(*ops, pool, kCapacity, kGroup), std::vector<int32_t>());
      for (int64_t step = *rc::gen::inRange<int64_t>(1, 16); step > 0; --step) {
        const auto which = *rc::gen::inRange<size_t>(0, timelines.size());
        const int64_t length = timelines[which].cache().num_tokens();
        switch (*rc::gen::inRange(0, 4)) {
          case 0:
            if (timelines.size() < 6) timelines.push_back(timelines[which].Fork());
            break;
          case 1:
            timelines[which].Truncate(*rc::gen::inRange<int64_t>(0, length + 1));
            break;
          default:
            const auto count = *rc::gen::inRange<int64_t>(1, std::min<int64_t>(300, kCapacity - length) + 1);
            timelines[which].Append(
                std::vector<int32_t>(static_cast<size_t>(count), *rc::gen::inRange(0, 50)));
        }
        for (const Timeline& timeline : timelines) {
          timeline.cache().CheckIntegrity();
          std::vector<int32_t> tokens(timeline.tokens().size());
          timeline.cache().CopyTokens(0, std::ssize(tokens), tokens.data());
          RC_ASSERT(tokens == timeline.tokens());
        }
      }
      for (const Timeline& timeline : timelines) {
        if (timeline.tokens().empty()) continue;
        Timeline fresh(*ops);
        fresh.Append(timeline.tokens());
        RC_ASSERT(timeline.Select(1, 2) == fresh.Select(1, 2));
      }
    }
    RC_ASSERT(pool->num_free() == pool->num_pages());
  });
  EXPECT_TRUE(holds);
}

TEST(KvCacheTest, APoolThatIsFullChangesNothing) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const auto pool = std::make_shared<PagePool>(TinyShape(), 3);
  Timeline timeline(*ops, KvCache(*ops, pool, kCapacity, 0), {});
  timeline.Append(std::vector<int32_t>(130, 1));
  EXPECT_EQ(pool->num_free(), 0);
  KvCache other = timeline.cache().Fork();
  EXPECT_FALSE(other.Reserve(1));  // It would have to copy the last page.
  EXPECT_EQ(other.num_tokens(), 130);
  other.Clear();
  EXPECT_FALSE(other.Reserve(1));
  other.CheckIntegrity();
  timeline.cache().CheckIntegrity();
}

TEST(KvCacheTest, IntegrityFailsWhenATreeIsChanged) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  Timeline timeline(*ops);
  timeline.Append(std::vector<int32_t>(2 * kGroup + 5, 3));
  timeline.cache().CheckIntegrity();
  const GateTreeView tree = timeline.cache().GateTree(1);
  int8_t* codes = tree.nodes.packed.data<int8_t>();
  codes[0] = static_cast<int8_t>(codes[0] ^ 1);
  EXPECT_THROW(timeline.cache().CheckIntegrity(), Bug);
  codes[0] = static_cast<int8_t>(codes[0] ^ 1);
  std::swap(tree.order.data<int32_t>()[300], tree.order.data<int32_t>()[301]);
  EXPECT_THROW(timeline.cache().CheckIntegrity(), Bug);
}

TEST(KvCacheTest, TreesAreOptionalAndCounted) {
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  KvCacheShape shape = TinyShape();
  const int64_t with_trees = shape.BytesFor(kCapacity, kCapacity);
  shape.tree_group = 0;
  const KvCache cache(*ops, shape, kCapacity);
  EXPECT_FALSE(cache.GateTree(0).present());
  cache.CheckIntegrity();
  // Per slot of either level an index, a copy, and a sixteenth and more of a landmark.
  const int64_t trees = with_trees - shape.BytesFor(kCapacity, kCapacity);
  const int64_t slots = 2 * (11 * kGroup + 2 * 1024);
  EXPECT_GT(trees, slots * (4 + kSize + 2));
  EXPECT_LT(trees, slots * (4 + kSize + 2 + 2));
}

}  // namespace
}  // namespace sluice
