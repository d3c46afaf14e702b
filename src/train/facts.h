// Synthetic retrieval tasks: invented facts that training and evaluation plant in real text and ask
// for later. A fact is a clause that ends in its value,
//   "the access code of Marlow Finch is 48213",
// wrapped into a sentence ("For the record, the access code of Marlow Finch is 48213."). The question
// repeats the words in front of the value ("What is the access code of Marlow Finch?"), and the answer
// is the clause itself, capitalised and closed with a full stop: a reader that finds those words in the
// text only has to go on copying.
//
// The vocabulary is open: names are built from syllables, codes from digits and letters. The two splits
// share no subject, no value, no name word and no syllable; kHeldOut also has attributes, sentences and
// questions of its own, which make up half of what it says. Half of kTrain's attributes are composed
// (train/composed_facts.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/random.h"
#include "train/fact_lists.h"

namespace sluice {

struct Fact {
  std::string subject;    // "Marlow Finch", "the Calder contract"
  std::string attribute;  // "access code"; for a verb, its pattern: "{s} was signed on"
  std::string value;      // "48213"; never ends in a full stop
  std::string sentence;   // Holds the answer, up to the case of its first letter.
  std::string question;
  std::string answer;  // A sentence whose tail is the value and a full stop.
};

// Facts as a pure function of (seed, split): cheap to construct, so that a document can have its own.
class FactGenerator {
 public:
  FactGenerator(uint64_t seed, FactSplit split);

  Fact Next();

  // `n` facts that distract from each other: one attribute with different subjects (often alike in
  // name), or one subject with different attributes. Answers differ, and so do values wherever the kind
  // of value has enough of them. REQUIRES: n >= 1.
  std::vector<Fact> NextGroup(int n);

 private:
  // What a fact is about, before it has words for the subject and the value.
  struct Form {
    FactAttribute attribute;
    bool possessive = false;  // "Marlow Finch's access code" instead of "the access code of Marlow Finch".
  };

  const FactForms& PickForms();
  FactAttribute PickAttribute();
  Form PickForm(SubjectKind kind);
  SubjectKind PickSubjectKind(const FactAttribute& attribute);
  // The wording of a question about a noun, {q}; `person`: the noun stands for one.
  std::string PickQuestion(bool person);
  Fact Make(const Form& form, const std::string& subject);
  std::vector<Fact> OneSubject(int n);
  std::vector<Fact> OneAttribute(int n);

  FactSplit split_;
  Random random_;
};

}  // namespace sluice
