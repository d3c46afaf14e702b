// How much faster several sessions decode in one pass than one session alone: a pass reads the weights once
// for all of them. The two are timed in turns, so that both meet the same neighbours on the machine.
#pragma once

#include <cstdint>
#include <functional>

#include "engine/session.h"
#include "model/model.h"

namespace sluice {

struct SessionThroughputOptions {
  int64_t num_sessions = 16;
  int64_t depth = 1024;  // Tokens that each session holds before the first step.
  int64_t steps = 32;    // Of each of the two.
  PassOptions pass;
  DType cache_format = SessionOptions().cache_format;
  uint64_t seed = 1;  // Of the tokens, other ones in every session.
};

struct SessionThroughput {
  double one_seconds = 0;  // Of a pass with one session: the median.
  double all_seconds = 0;  // Of a pass with all of them: the median.

  double Gain(int64_t num_sessions) const {
    return static_cast<double>(num_sessions) * one_seconds / all_seconds;
  }
};

// `progress` gets (done, total) steps. Throws InputError if there is nothing to measure.
SessionThroughput MeasureSessions(const Model& model, const SessionThroughputOptions& options,
                                  const std::function<void(int64_t done, int64_t total)>& progress = {});

}  // namespace sluice
