// Attributes of synthetic facts put together from word lists, some ten thousand nouns ("night dock
// code"), verbs ("{s} was later praised in") and things ("{s} lifts a barrel stamped"). Most make little
// sense, and need not: a model that has seen them copies the words of a question, and of the text what the
// question leaves out, whatever they are, instead of knowing a list of them.
#pragma once

#include "base/random.h"
#include "train/fact_lists.h"

namespace sluice {

// For kTrain alone; uses no noun and no verb that only kHeldOut has. Fits every subject.
FactAttribute ComposeAttribute(Random& random);

}  // namespace sluice
