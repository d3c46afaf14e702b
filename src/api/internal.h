// The engine's own classes under names of their own. The public ones (sluice/sluice.h) are called the same,
// but live in the inline namespace sluice::v1: where both are declared, `sluice::Engine` would mean either.
// So files of this folder include this header ahead of all else, and write in namespace sluice::v1, where the
// plain name is the public class.
#pragma once

#include "base/threads.h"
#include "engine/engine.h"
#include "engine/generate.h"
#include "engine/guarantee_figures.h"
#include "engine/prompt.h"
#include "engine/session.h"

namespace sluice::internal {

using CoreEngine = Engine;
using CoreSession = Session;
using CoreSessionOptions = SessionOptions;
using CoreGateIndex = GateIndex;
using CoreSamplingOptions = SamplingOptions;
using CoreGeneration = Generation;
using CoreTokenLogprob = TokenLogprob;
using CorePlaceLogprobs = PlaceLogprobs;
using CoreStopReason = StopReason;
using CoreSyncStats = SyncStats;
using CoreError = Error;
using CoreInputError = InputError;
using CoreSystemError = SystemError;
inline constexpr auto& kCoreGenerate = Generate;
inline constexpr auto& kCoreSetNumThreads = SetNumThreads;
inline constexpr auto& kCoreNumThreads = NumThreads;
inline constexpr auto& kCoreAskPrompt = AskPrompt;
inline constexpr auto& kCoreQuestionPrompt = QuestionPrompt;

}  // namespace sluice::internal

#include <sluice/sluice.h>
