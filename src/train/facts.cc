// Putting facts together: an attribute, a subject that fits it, a value, and the words around them.
#include "train/facts.h"

#include <algorithm>
#include <bit>
#include <set>

#include "base/check.h"
#include "train/composed_facts.h"
#include "train/composed_questions.h"
#include "train/fact_phrases.h"

namespace sluice {
namespace {

constexpr int kTries = 64;  // Draws for a distinct value before a repeated one is taken.

std::string Replaced(std::string_view pattern, std::string_view key, std::string_view with) {
  std::string text(pattern);
  for (size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + with.size())) {
    text.replace(at, key.size(), with);
  }
  return text;
}

uint16_t BitsOf(SubjectKind kind) {
  return static_cast<uint16_t>(kind);
}

template <class T>
const T& Pick(Random& random, const std::vector<T>& items) {
  return items[random.Below(items.size())];
}

}  // namespace

FactGenerator::FactGenerator(uint64_t seed, FactSplit split)
    : split_(split), random_(seed, split == FactSplit::kTrain ? 0x7fac'7500 : 0x7fac'7501) {}

// kHeldOut takes each part of a fact's wording from its own patterns half of the time.
const FactForms& FactGenerator::PickForms() {
  const bool own = split_ == FactSplit::kHeldOut && random_.Below(2) == 0;
  return FactFormsOf(own ? FactSplit::kHeldOut : FactSplit::kTrain);
}

SubjectKind FactGenerator::PickSubjectKind(const FactAttribute& attribute) {
  auto skip = random_.Below(static_cast<uint64_t>(std::popcount(attribute.subjects)));
  for (int bit = 0; bit < kNumSubjectKinds; ++bit) {
    if ((attribute.subjects >> bit & 1) != 0 && skip-- == 0) return static_cast<SubjectKind>(1 << bit);
  }
  SLUICE_CHECK(false && "an attribute fits no subject");
  return SubjectKind::kPerson;
}

FactAttribute FactGenerator::PickAttribute() {
  if (split_ == FactSplit::kTrain && random_.Below(2) == 0) return ComposeAttribute(random_);
  return Pick(random_, PickForms().attributes);
}

// A random attribute that fits the kind of subject.
FactGenerator::Form FactGenerator::PickForm(SubjectKind kind) {
  for (;;) {
    FactAttribute attribute = PickAttribute();
    const bool possessive = random_.Below(3) == 0;
    if ((attribute.subjects & BitsOf(kind)) != 0) return {std::move(attribute), possessive};
  }
}

std::string FactGenerator::PickQuestion(bool person) {
  if (split_ == FactSplit::kTrain && random_.Below(2) == 0) return ComposeQuestion(random_);
  const FactForms& forms = PickForms();
  return std::string(Pick(random_, person ? forms.person_questions : forms.questions));
}

Fact FactGenerator::Make(const Form& form, const std::string& subject) {
  const FactAttribute& attribute = form.attribute;
  Fact fact;
  fact.subject = subject;
  fact.attribute = attribute.phrase;
  do {  // Again if the subject's name holds the value already.
    fact.value = MakeFactValue(random_, split_, attribute.value);
  } while (subject.find(fact.value) != std::string::npos);
  std::string lead;  // Everything before the value.
  if (attribute.is_verb()) {
    lead = Replaced(attribute.phrase, "{s}", subject);
    fact.question = Replaced(attribute.question, "{s}", subject);
  } else {
    const std::string noun = form.possessive ? fmt::format("{}'s {}", subject, attribute.phrase)
                                             : fmt::format("the {} of {}", attribute.phrase, subject);
    lead = noun + " is";
    fact.question = Replaced(PickQuestion(attribute.value == ValueKind::kPerson), "{q}", noun);
  }
  const std::string clause = lead + " " + fact.value;
  fact.answer = CapitalisedFirst(clause) + ".";
  const std::string_view pattern = Pick(random_, PickForms().sentences);
  fact.sentence = Replaced(Replaced(pattern, "{c}", clause), "{C}", CapitalisedFirst(clause));
  return fact;
}

Fact FactGenerator::Next() {
  const FactAttribute attribute = PickAttribute();
  const SubjectKind kind = PickSubjectKind(attribute);
  const bool possessive = random_.Below(3) == 0;
  return Make({attribute, possessive}, MakeFactSubject(random_, split_, kind));
}

std::vector<Fact> FactGenerator::NextGroup(int n) {
  SLUICE_CHECK_GE(n, 1);
  constexpr int kMostAttributes = 6;  // Every kind of subject has more than this.
  if (n <= kMostAttributes && random_.Below(3) == 0) return OneSubject(n);
  return OneAttribute(n);
}

std::vector<Fact> FactGenerator::OneSubject(int n) {
  const SubjectKind kind = PickSubjectKind(PickAttribute());
  const std::string subject = MakeFactSubject(random_, split_, kind);
  std::vector<Fact> facts;
  std::set<std::string> attributes;
  std::set<std::string> values;
  int tries = 0;
  while (static_cast<int>(facts.size()) < n) {
    const Form form = PickForm(kind);
    if (attributes.count(form.attribute.phrase) != 0) continue;
    Fact fact = Make(form, subject);
    if (values.count(fact.value) != 0 && ++tries < kTries) continue;
    attributes.insert(form.attribute.phrase);
    values.insert(fact.value);
    facts.push_back(std::move(fact));
  }
  return facts;
}

std::vector<Fact> FactGenerator::OneAttribute(int n) {
  const FactAttribute attribute = PickAttribute();
  const Form form{attribute, random_.Below(3) == 0};
  const SubjectKind kind = PickSubjectKind(attribute);
  const bool similar = kind == SubjectKind::kPerson && random_.Below(2) == 0;
  std::vector<Fact> facts;
  std::set<std::string> subjects, values;
  int tries = 0;
  while (static_cast<int>(facts.size()) < n) {
    const std::string subject = similar && !facts.empty() && random_.Below(2) == 0
                                    ? MakeSimilarPerson(random_, split_, Pick(random_, facts).subject)
                                    : MakeFactSubject(random_, split_, kind);
    if (subjects.count(subject) != 0) continue;
    Fact fact = Make(form, subject);
    if (values.count(fact.value) != 0 && ++tries < kTries) continue;
    subjects.insert(subject);
    values.insert(fact.value);
    facts.push_back(std::move(fact));
  }
  return facts;
}

}  // namespace sluice
