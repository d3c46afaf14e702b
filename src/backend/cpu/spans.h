// Walking several views of one shape in step, as contiguous runs of elements, in parallel. The cut is
// by shape and strides alone.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "base/threads.h"
#include "tensor/tensor.h"

namespace sluice {

inline constexpr int64_t kSpanElements = 16384;

// A cut of a shape into runs that are contiguous in every one of the views.
struct SpanCut {
  int64_t num_spans;
  int64_t span_size;  // Elements of a run; the last one may be shorter if the views are contiguous.
  int64_t num_elements;
  bool contiguous;  // All views: runs lie one after another. Otherwise run i is row i.
};

template <size_t kViews>
SpanCut CutSpans(const std::array<TensorView, kViews>& views) {
  SpanCut cut{};
  cut.num_elements = views[0].num_elements();
  cut.contiguous =
      std::all_of(views.begin(), views.end(), [](const TensorView& v) { return v.contiguous(); });
  const int64_t rows = views[0].rank() == 0 ? 1 : views[0].dim(0);
  if (cut.num_elements == 0) return cut;
  cut.span_size = cut.contiguous ? kSpanElements : cut.num_elements / rows;
  cut.num_spans = cut.contiguous ? (cut.num_elements + kSpanElements - 1) / kSpanElements : rows;
  return cut;
}

// body(span_idx, pointers, count) for each run; runs of about kSpanElements make a task.
template <size_t kViews, class Body>
void ForEachSpan(const std::array<TensorView, kViews>& views, const Body& body) {
  const SpanCut cut = CutSpans(views);
  if (cut.num_spans == 0) return;
  const int64_t grain = std::max<int64_t>(1, kSpanElements / cut.span_size);
  ParallelForRange(cut.num_spans, grain, [&](int64_t begin, int64_t end) {
    for (int64_t span = begin; span < end; ++span) {
      std::array<float*, kViews> pointers;
      for (size_t i = 0; i < kViews; ++i) {
        pointers[i] = cut.contiguous ? views[i].template data<float>() + span * cut.span_size
                                     : views[i].template row<float>(span);
      }
      const int64_t left = cut.num_elements - span * cut.span_size;
      body(span, pointers, std::min(cut.span_size, left));
    }
  });
}

}  // namespace sluice
