#include "engine/speculation.h"

#include <algorithm>

#include "base/check.h"
#include "engine/prompt_lookup.h"

namespace sluice {

namespace {

// Weights of the newest value in the running means.
constexpr double kNewestTime = 0.25;
constexpr double kNewestOutcome = 1.0 / 16;

}  // namespace

Speculation::Speculation(int64_t max_draft) : max_draft_(max_draft) {
  SLUICE_CHECK(max_draft >= 0 && max_draft <= kMaxDraft);
}

void Speculation::Learn(std::span<const int32_t> tokens) {
  for (size_t i = 0; i < foreseen_.size() && foreseen_behind_ + i < tokens.size(); ++i) {
    const bool is_right = foreseen_[i] == tokens[foreseen_behind_ + i];
    acceptance_ += kNewestOutcome * ((is_right ? 1.0 : 0.0) - acceptance_);
    if (!is_right) break;
  }
}

int64_t Speculation::BestCount(int64_t most) const {
  if (pass_seconds_ == 0) return 0;  // Nothing to compare with.
  if (draft_seconds_ < 0) return most;
  int64_t best = 0;
  double best_rate = 1 / pass_seconds_;
  double expected = 1, chance = 1;
  for (int64_t n = 1; n <= most; ++n) {
    chance *= acceptance_;
    expected += chance;
    const double rate = expected / (pass_seconds_ + static_cast<double>(n) * draft_seconds_);
    if (rate <= best_rate) continue;
    best = n;
    best_rate = rate;
  }
  return best;
}

std::vector<int32_t> Speculation::Draft(std::span<const int32_t> tokens, int64_t most) {
  most = std::min(most, max_draft_);
  if (most < 1) return {};
  Learn(tokens);
  foreseen_ = PromptLookup(tokens, most);
  foreseen_behind_ = tokens.size();
  if (foreseen_.empty()) return {};
  int64_t count = BestCount(most);
  if (count == 0 && ++not_checked_ == kProbeInterval) count = most;
  if (count > 0) not_checked_ = 0;
  return {foreseen_.begin(), foreseen_.begin() + count};
}

void Speculation::PassDone(int64_t num_drafted, double seconds) {
  if (num_drafted == 0) {
    pass_seconds_ = pass_seconds_ == 0 ? seconds : pass_seconds_ + kNewestTime * (seconds - pass_seconds_);
    return;
  }
  const double added = std::max(0.0, seconds - pass_seconds_) / static_cast<double>(num_drafted);
  draft_seconds_ = draft_seconds_ < 0 ? added : draft_seconds_ + kNewestTime * (added - draft_seconds_);
}

}  // namespace sluice
