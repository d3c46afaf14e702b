// Exact selection of the highest-scoring far keys: a scan of the packed gate keys (gate_scan.h), of a tree
// (gate_tree_search.h) and of the keys that it does not hold yet. How the work is cut into tasks is decided
// here; the best of all parts' best are the best.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/gate_scan.h"
#include "backend/cpu/gate_tree_search.h"
#include "base/threads.h"
#include "ops/gate.h"
#include "ops/gate_tree_numerics.h"

namespace sluice {
namespace {

using gate_scan::QueryCodes;
using gate_scan::ScanQuery;
using gate_scan::TopEntries;

constexpr int64_t kTileQueries = 32;  // Queries that share a key block while it is in L1.
// Few queries over many keys are split over ranges of keys, so that one decode step uses all threads.
// The result does not depend on the split: the best of all parts' best are the best.
constexpr int64_t kSplitBelowQueries = 16;
constexpr int64_t kMinSplitKeys = 4096;

// A query of SelectKeys: the part of the tree that it searches, and the keys that it scans.
struct SelectQuery {
  std::vector<GateTreeRange> ranges;
  int64_t first_far;   // Of all its far keys.
  int64_t scan_begin;  // Of those that it scans.
  int64_t scan_end;
  QueryCodes codes;
  std::optional<TreeSearch> search;  // Where there are ranges.

  SelectQuery(const SelectKeysArgs& args, int64_t t)
      : ranges(GateTreeRanges(args.search, args.span.WindowBegin(t))),
        first_far(args.span.SinksEnd(t)),
        scan_begin(std::max(first_far, ranges.empty() ? 0 : ranges.back().key_end)),
        scan_end(args.span.WindowBegin(t)),
        codes(args.gq.row<float>(t), args.gw.row<float>(t), args.gq.dim(1), args.gq.dim(2)) {
    if (ranges.empty()) return;
    search.emplace(args.search, ranges, args.gq.row<float>(t), args.gw.row<float>(t), args.gq.dim(1),
                   args.gq.dim(2));
  }

  int64_t num_scanned() const { return std::max<int64_t>(scan_end - scan_begin, 0); }
  // Of the keys that the search arrives at.
  ScanQuery OverTree(TopEntries* top) const { return codes.Over(first_far, scan_end, top); }
};

// The best entries to the two ascending parts of row t.
void WriteCandidates(std::vector<uint64_t> entries, const SelectKeysArgs& args, int64_t t) {
  const int64_t num_selected = args.num_selected;
  const int64_t width = args.candidates.dim(1);
  const auto by_index = [](uint64_t a, uint64_t b) {
    return gate_scan::EntryIndex(a) < gate_scan::EntryIndex(b);
  };
  if (!std::is_sorted(entries.begin(), entries.end(), by_index)) {
    std::sort(entries.begin(), entries.end(), by_index);
  }
  const auto rank = [&](int64_t k) {
    return k < std::ssize(entries) ? gate_scan::RankedEntry(entries, k) : 0;
  };
  const uint64_t last_chosen = num_selected > 0 ? rank(num_selected) : ~uint64_t{0};
  const uint64_t last = width > num_selected ? rank(width) : last_chosen;
  int32_t* row = args.candidates.row<int32_t>(t);
  float* scores = args.scores.present() ? args.scores.row<float>(t) : nullptr;
  std::fill_n(row, width, -1);
  if (scores != nullptr) std::fill_n(scores, width, 0.0f);
  int64_t chosen = 0;
  int64_t others = num_selected;
  for (const uint64_t entry : entries) {
    if (entry < last) continue;
    const int64_t i = entry >= last_chosen ? chosen++ : others++;
    row[i] = gate_scan::EntryIndex(entry);
    if (scores != nullptr) scores[i] = gate_scan::EntryScore(entry);
  }
}

// One query, its tree and its scan in a part for every thread.
void SelectSplit(const SelectKeysArgs& args, int64_t t) {
  SelectQuery query(args, t);
  const int64_t num_keys = query.num_scanned();
  const int64_t scan_parts = num_keys >= kMinSplitKeys ? NumThreads() : 1;
  const int64_t tree_parts = query.search ? NumThreads() : 0;
  if (query.search) {
    ParallelFor(tree_parts, [&](int64_t part) { query.search->ScoreLeaves(part, tree_parts); });
    query.search->ChooseLeaves();
  }
  std::vector<TopEntries> tops(static_cast<size_t>(tree_parts + scan_parts));
  ParallelFor(tree_parts + scan_parts, [&](int64_t task) {
    TopEntries& top = tops[static_cast<size_t>(task)];
    top.Reset(args.candidates.dim(1));
    if (task < tree_parts) return query.search->CollectKeys(task, tree_parts, query.OverTree(&top));
    const int64_t part = task - tree_parts;
    ScanQuery scan = query.codes.Over(query.scan_begin + num_keys * part / scan_parts,
                                      query.scan_begin + num_keys * (part + 1) / scan_parts, &top);
    gate_scan::ScanKeys(args.keys, &scan, 1, args.gq.dim(1), args.gq.dim(2));
    top.Compact();
  });
  std::vector<uint64_t> entries;
  for (const TopEntries& top : tops)
    entries.insert(entries.end(), top.entries().begin(), top.entries().end());
  WriteCandidates(std::move(entries), args, t);
}

// Neighbouring queries: each searches the tree, and all go over the blocks of the other keys together.
void SelectTile(const SelectKeysArgs& args, int64_t begin, int64_t end) {
  std::vector<SelectQuery> queries;
  std::vector<TopEntries> tops(static_cast<size_t>(end - begin));
  std::vector<ScanQuery> scans;
  for (int64_t t = begin; t < end; ++t) {
    TopEntries& top = tops[static_cast<size_t>(t - begin)];
    top.Reset(args.candidates.dim(1));
    SelectQuery query(args, t);
    if (query.search) {
      query.search->ScoreLeaves(0, 1);
      query.search->ChooseLeaves();
      query.search->CollectKeys(0, 1, query.OverTree(&top));
      query.search.reset();
    }
    queries.push_back(std::move(query));
    scans.push_back(queries.back().codes.Over(queries.back().scan_begin, queries.back().scan_end, &top));
  }
  gate_scan::ScanKeys(args.keys, scans.data(), end - begin, args.gq.dim(1), args.gq.dim(2));
  for (int64_t t = begin; t < end; ++t) {
    WriteCandidates(tops[static_cast<size_t>(t - begin)].entries(), args, t);
  }
}

}  // namespace

void CpuOps::SelectKeys(const SelectKeysArgs& args) {
  const int64_t tokens = args.gq.dim(0);
  if (tokens == 0 || args.candidates.dim(1) == 0) return;
  if (tokens < kSplitBelowQueries && args.span.NumFar(tokens - 1) >= kMinSplitKeys) {
    for (int64_t t = 0; t < tokens; ++t) SelectSplit(args, t);
    return;
  }
  ParallelForRange(tokens, kTileQueries, [&](int64_t begin, int64_t end) { SelectTile(args, begin, end); });
}

}  // namespace sluice
