// Subjects and values of synthetic facts as text: "the ship Velmora", "4 March 1987".
//
// Disjoint splits: a share of all strings, chosen by hash, belongs to kHeldOut, the rest to kTrain;
// invented words, subjects and open values are drawn until they fall on their split's side. Values from
// a short list (colours, instruments) are disjoint by their lists.
#pragma once

#include <string>

#include "base/random.h"
#include "train/fact_lists.h"

namespace sluice {

std::string MakeFactSubject(Random& random, FactSplit split, SubjectKind kind);
std::string MakeFactValue(Random& random, FactSplit split, ValueKind kind);

// A subject that is easily mistaken for `subject`, a person: it shares the first or the last word.
std::string MakeSimilarPerson(Random& random, FactSplit split, const std::string& subject);

// "the Calder contract" -> "The Calder contract".
std::string CapitalisedFirst(const std::string& text);

}  // namespace sluice
