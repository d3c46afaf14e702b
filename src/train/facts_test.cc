// Facts: answers that can be copied from their sentences, groups that distract, splits that share
// nothing, the same facts for the same seed.
#include "train/facts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <iterator>
#include <set>
#include <sstream>

#include "train/composed_facts.h"
#include "train/composed_questions.h"

namespace sluice {
namespace {

constexpr int kNumFacts = 10'000;

std::string LowerFirst(std::string text) {
  text[0] = static_cast<char>(std::tolower(text[0]));
  return text;
}

std::vector<Fact> Facts(uint64_t seed, FactSplit split, int n) {
  FactGenerator generator(seed, split);
  std::vector<Fact> facts;
  for (int i = 0; i < n; ++i) facts.push_back(generator.Next());
  return facts;
}

template <class T>
std::set<T> Common(const std::set<T>& a, const std::set<T>& b) {
  std::set<T> common;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::inserter(common, common.end()));
  return common;
}

void ExpectWellFormed(const Fact& fact) {
  EXPECT_NE(fact.value.back(), '.');
  // The sentence holds the answer, full stop included, up to the case of the first letter.
  EXPECT_TRUE(fact.sentence.find(fact.answer) != std::string::npos ||
              fact.sentence.find(LowerFirst(fact.answer)) != std::string::npos ||
              fact.sentence.find(fact.answer.substr(1)) != std::string::npos)
      << fact.sentence << " / " << fact.answer;
  EXPECT_TRUE(fact.answer.ends_with(" " + fact.value + ".")) << fact.answer;
  EXPECT_NE(fact.answer.find(fact.subject.substr(1)), std::string::npos) << fact.answer;
  EXPECT_NE(fact.question.find(fact.subject), std::string::npos) << fact.question;
  EXPECT_EQ(fact.question.find('{'), std::string::npos) << fact.question;
  EXPECT_EQ(fact.sentence.find('{'), std::string::npos) << fact.sentence;
  EXPECT_FALSE(std::islower(static_cast<unsigned char>(fact.answer[0]))) << fact.answer;
  // The question must not give the value away, unless by accident of a very short one.
  if (fact.value.size() > 3) {
    EXPECT_EQ(fact.question.find(fact.value), std::string::npos) << fact.question;
  }
}

TEST(FactsTest, AnswersStandInTheirSentences) {
  for (const FactSplit split : {FactSplit::kTrain, FactSplit::kHeldOut}) {
    for (const Fact& fact : Facts(1, split, kNumFacts)) ExpectWellFormed(fact);
  }
}

TEST(FactsTest, NounQuestionsRepeatThePhrase) {
  for (const Fact& fact : Facts(2, FactSplit::kTrain, 2000)) {
    if (fact.attribute.find("{s}") != std::string::npos) continue;
    const std::string of = "the " + fact.attribute + " of " + fact.subject;
    const std::string possessive = fact.subject + "'s " + fact.attribute;
    EXPECT_TRUE(fact.question.find(of) != std::string::npos ||
                fact.question.find(possessive) != std::string::npos)
        << fact.question;
  }
}

TEST(FactsTest, AreAFunctionOfSeedAndSplit) {
  const auto a = Facts(3, FactSplit::kTrain, 100), b = Facts(3, FactSplit::kTrain, 100);
  const auto other = Facts(4, FactSplit::kTrain, 100);
  int equal = 0;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(a[i].sentence, b[i].sentence);
    EXPECT_EQ(a[i].question, b[i].question);
    if (a[i].sentence == other[i].sentence) ++equal;
  }
  EXPECT_LT(equal, 3);
}

TEST(FactsTest, AreDiverse) {
  std::set<std::string> subjects, values, attributes, sentences;
  for (const Fact& fact : Facts(5, FactSplit::kTrain, kNumFacts)) {
    subjects.insert(fact.subject);
    values.insert(fact.value);
    attributes.insert(fact.attribute);
    sentences.insert(fact.sentence);
  }
  EXPECT_GT(subjects.size(), kNumFacts * 9 / 10);
  EXPECT_GT(values.size(), kNumFacts * 7 / 10);
  EXPECT_GT(sentences.size(), kNumFacts * 99 / 100);
  for (const FactAttribute& attribute : FactFormsOf(FactSplit::kTrain).attributes) {
    EXPECT_EQ(attributes.count(attribute.phrase), 1u) << attribute.phrase;
  }
  EXPECT_GT(attributes.size(), kNumFacts / 4);  // The others are composed.
}

TEST(FactsTest, SplitsShareNoSubjectAndNoValue) {
  std::set<std::string> subjects[2], values[2];
  for (const FactSplit split : {FactSplit::kTrain, FactSplit::kHeldOut}) {
    const int side = static_cast<int>(split);
    FactGenerator generator(6, split);
    for (const Fact& fact : Facts(6, split, 2 * kNumFacts)) {
      subjects[side].insert(fact.subject);
      values[side].insert(fact.value);
    }
    for (int i = 0; i < 2000; ++i) {
      for (const Fact& fact : generator.NextGroup(4)) {
        subjects[side].insert(fact.subject);
        values[side].insert(fact.value);
      }
    }
  }
  EXPECT_TRUE(Common(subjects[0], subjects[1]).empty()) << *Common(subjects[0], subjects[1]).begin();
  EXPECT_TRUE(Common(values[0], values[1]).empty()) << *Common(values[0], values[1]).begin();
}

TEST(FactsTest, ListsAreDisjointAndWithoutRepeats) {
  const FactWords& train = FactWordsOf(FactSplit::kTrain);
  const FactWords& held_out = FactWordsOf(FactSplit::kHeldOut);
  using List = std::vector<std::string_view> FactWords::*;
  for (const List list :
       {&FactWords::syllables, &FactWords::first_names, &FactWords::surnames, &FactWords::cities,
        &FactWords::adjectives, &FactWords::nouns, &FactWords::colours, &FactWords::instruments,
        &FactWords::animals, &FactWords::foods, &FactWords::materials, &FactWords::languages}) {
    const std::set<std::string_view> a((train.*list).begin(), (train.*list).end());
    const std::set<std::string_view> b((held_out.*list).begin(), (held_out.*list).end());
    EXPECT_GE(b.size(), 6u);
    EXPECT_EQ(a.size(), (train.*list).size());
    EXPECT_EQ(b.size(), (held_out.*list).size());
    EXPECT_TRUE(Common(a, b).empty()) << *Common(a, b).begin();
  }
  std::set<std::string_view> phrases[2];
  for (const FactSplit split : {FactSplit::kTrain, FactSplit::kHeldOut}) {
    const FactForms& forms = FactFormsOf(split);
    std::set<std::string_view>& own = phrases[static_cast<int>(split)];
    for (const FactAttribute& attribute : forms.attributes) EXPECT_TRUE(own.insert(attribute.phrase).second);
    own.insert(forms.sentences.begin(), forms.sentences.end());
    own.insert(forms.questions.begin(), forms.questions.end());
    own.insert(forms.person_questions.begin(), forms.person_questions.end());
  }
  EXPECT_TRUE(Common(phrases[0], phrases[1]).empty()) << *Common(phrases[0], phrases[1]).begin();
}

std::set<std::string> WordsOf(const std::string& text) {
  std::istringstream words(text);
  return {std::istream_iterator<std::string>(words), {}};
}

TEST(FactsTest, ComposedAttributesUseNoWordOfHeldOutAlone) {
  std::set<std::string> train, held_out;
  for (const FactAttribute& attribute : FactFormsOf(FactSplit::kTrain).attributes)
    train.merge(WordsOf(attribute.phrase));
  for (const FactAttribute& attribute : FactFormsOf(FactSplit::kHeldOut).attributes) {
    for (const std::string& word : WordsOf(attribute.phrase)) {
      if (train.count(word) == 0) held_out.insert(word);
    }
  }
  std::set<std::string> phrases;
  Random random(1, 1);
  for (int i = 0; i < kNumFacts; ++i) {
    const FactAttribute attribute = ComposeAttribute(random);
    phrases.insert(attribute.phrase);
    const auto common = Common(WordsOf(attribute.phrase), held_out);
    EXPECT_TRUE(common.empty()) << attribute.phrase;
  }
  EXPECT_GT(phrases.size(), kNumFacts * 6 / 10);
}

TEST(FactsTest, ComposedQuestionsAreManyAndNoneIsHeldOut) {
  const FactForms& forms = FactFormsOf(FactSplit::kHeldOut);
  std::set<std::string> held_out(forms.questions.begin(), forms.questions.end());
  held_out.insert(forms.person_questions.begin(), forms.person_questions.end());
  std::set<std::string> wordings;
  Random random(2, 1);
  for (int i = 0; i < kNumFacts; ++i) {
    const std::string wording = ComposeQuestion(random);
    EXPECT_NE(wording.find("{q}"), std::string::npos) << wording;
    EXPECT_EQ(held_out.count(wording), 0u) << wording;
    EXPECT_TRUE(wording.back() == '.' || wording.back() == '?') << wording;
    wordings.insert(wording);
  }
  EXPECT_GT(wordings.size(), kNumFacts / 3);
}

TEST(FactsTest, HeldOutUsesItsOwnAttributesForAboutHalf) {
  std::set<std::string_view> own;
  for (const FactAttribute& attribute : FactFormsOf(FactSplit::kHeldOut).attributes)
    own.insert(attribute.phrase);
  int count = 0;
  for (const Fact& fact : Facts(7, FactSplit::kHeldOut, 2000))
    count += own.count(fact.attribute) != 0 ? 1 : 0;
  EXPECT_GT(count, 800);
  EXPECT_LT(count, 1200);
}

TEST(FactsTest, GroupsDistractFromEachOther) {
  for (const FactSplit split : {FactSplit::kTrain, FactSplit::kHeldOut}) {
    FactGenerator generator(8, split);
    for (int round = 0; round < 3000; ++round) {
      const int n = 1 + round % 12;
      const auto facts = generator.NextGroup(n);
      ASSERT_EQ(static_cast<int>(facts.size()), n);
      std::set<std::string> answers, questions, subjects, attributes;
      for (const Fact& fact : facts) {
        ExpectWellFormed(fact);
        answers.insert(fact.answer);
        questions.insert(fact.question);
        subjects.insert(fact.subject);
        attributes.insert(fact.attribute);
      }
      EXPECT_EQ(static_cast<int>(answers.size()), n);
      EXPECT_EQ(static_cast<int>(questions.size()), n);
      EXPECT_TRUE((subjects.size() == 1 && static_cast<int>(attributes.size()) == n) ||
                  (attributes.size() == 1 && static_cast<int>(subjects.size()) == n));
    }
  }
}

}  // namespace
}  // namespace sluice
