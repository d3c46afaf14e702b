#include "eval/session_throughput.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/interrupt.h"
#include "base/random.h"
#include "eval/median.h"

namespace sluice {

namespace {

constexpr int64_t kChunk = 512;

// Caches that passes extend with random tokens.
class Timelines {
 public:
  Timelines(const Model& model, const SessionThroughputOptions& options, int64_t count)
      : model_(model),
        options_(options),
        random_(options.seed),
        logits_(DType::kF32, {count, model.config().vocab_size}) {
    KvCacheShape shape = model.CacheShape();
    shape.format = options.cache_format;
    for (int64_t i = 0; i < count; ++i)
      caches_.emplace_back(model.ops(), shape, options.depth + options.steps + 1);
  }

  // Seconds of a pass over `count` more tokens of each of the timelines [begin, end).
  double Extend(size_t begin, size_t end, int64_t count) {
    ThrowIfInterrupted();
    std::vector<int32_t> tokens((end - begin) * static_cast<size_t>(count));
    for (int32_t& token : tokens)
      token = static_cast<int32_t>(random_.Below(static_cast<uint64_t>(model_.config().vocab_size)));
    std::vector<TimelinePart> parts;
    for (size_t i = begin; i < end; ++i) {
      const int32_t* first = tokens.data() + static_cast<int64_t>(i - begin) * count;
      parts.push_back({TensorView::Of(first, {count}), &options_.pass, &caches_[i], nullptr, 1});
    }
    const auto start = std::chrono::steady_clock::now();
    model_.Extend(memory_, parts, logits_.view().Rows(0, std::ssize(parts)));
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  void Fill(size_t timeline) {
    for (int64_t done = 0; done < options_.depth; done += kChunk)
      Extend(timeline, timeline + 1, std::min(kChunk, options_.depth - done));
  }

 private:
  const Model& model_;
  const SessionThroughputOptions& options_;
  Random random_;
  Buffer logits_;
  std::vector<KvCache> caches_;
  PassMemory memory_;
};

}  // namespace

SessionThroughput MeasureSessions(const Model& model, const SessionThroughputOptions& options,
                                  const std::function<void(int64_t done, int64_t total)>& progress) {
  if (options.num_sessions < 1)
    throw InputError("the number of sessions must be at least 1, not {}", options.num_sessions);
  if (options.steps < 1) throw InputError("the number of steps must be at least 1, not {}", options.steps);
  const int64_t longest = options.depth + options.steps + 1;
  if (options.depth < 0 || longest > model.config().context_length) {
    throw InputError("a depth of {} tokens and {} more do not fit the model's context of {}", options.depth,
                     options.steps + 1, model.config().context_length);
  }
  const auto num_sessions = static_cast<size_t>(options.num_sessions);
  // One more than there are sessions: the one that decodes alone.
  Timelines timelines(model, options, options.num_sessions + 1);
  const int64_t total = options.num_sessions + 1 + options.steps;
  int64_t done = 0;
  const auto report = [&] {
    if (progress) progress(++done, total);
  };
  for (size_t i = 0; i <= num_sessions; ++i) {
    timelines.Fill(i);
    report();
  }
  std::vector<double> one, all;
  timelines.Extend(num_sessions, num_sessions + 1, 1);  // Both have their memory after a first pass.
  timelines.Extend(0, num_sessions, 1);
  for (int64_t step = 0; step < options.steps; ++step) {
    one.push_back(timelines.Extend(num_sessions, num_sessions + 1, 1));
    all.push_back(timelines.Extend(0, num_sessions, 1));
    report();
  }
  return {Median(std::move(one)), Median(std::move(all))};
}

}  // namespace sluice
