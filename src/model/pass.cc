#include "model/pass.h"

#include "base/threads.h"

namespace sluice {

namespace {

// Segments of more rows than this keep all threads busy by themselves.
constexpr int64_t kFewRows = 8;

}  // namespace

void ForSegments(std::span<const PassSegment> segments, const std::function<void(size_t)>& body) {
  std::vector<size_t> small;
  for (size_t i = 0; i < segments.size(); ++i) {
    const bool is_watched = segments[i].options->selector != nullptr || segments[i].observer != nullptr;
    if (segments[i].num_rows() <= kFewRows && !is_watched) {
      small.push_back(i);
    } else {
      body(i);
    }
  }
  ParallelFor(std::ssize(small), [&](int64_t i) { body(small[static_cast<size_t>(i)]); });
}

}  // namespace sluice
