// Wordings of questions put together from word lists, some fifty thousand of them ("For my notes, spell out
// {q} word for word."). A model that has seen only a list of wordings takes another one's words for the
// beginning of its answer.
#pragma once

#include <string>

#include "base/random.h"

namespace sluice {

// A wording that asks for the noun at {q}, a person or a thing. For kTrain alone: none is kHeldOut's.
std::string ComposeQuestion(Random& random);

}  // namespace sluice
