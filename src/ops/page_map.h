// Where the rows of a timeline lie in a larger memory: in pages of 64 rows, or simply one after another.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sluice {

inline constexpr int64_t kPageRows = 64;

// Page i of a timeline is page pages[i] of the memory. Without a list row s is row s.
struct PageMap {
  const int32_t* pages = nullptr;  // Of all pages that hold rows.

  int64_t Page(int64_t i) const { return pages == nullptr ? i : pages[i]; }
  int64_t Slot(int64_t s) const {
    return pages == nullptr ? s : pages[s / kPageRows] * kPageRows + s % kPageRows;
  }
  // The end of the rows from `begin` on, below `end`, that lie one after another.
  int64_t RunEnd(int64_t begin, int64_t end) const {
    if (pages == nullptr) return end;
    int64_t page = begin / kPageRows;
    while ((page + 1) * kPageRows < end && pages[page + 1] == pages[page] + 1) ++page;
    return std::min(end, (page + 1) * kPageRows);
  }
};

}  // namespace sluice
