// The words and patterns that facts are made of, one set per split; the sets are disjoint.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

enum class FactSplit { kTrain, kHeldOut };

// What facts are about. Attributes name the kinds they fit as a set of bits.
enum class SubjectKind : uint16_t {
  kPerson = 1 << 0,
  kPlace = 1 << 1,
  kShip = 1 << 2,
  kProject = 1 << 3,
  kCompany = 1 << 4,
  kRoom = 1 << 5,
  kMachine = 1 << 6,
  kContract = 1 << 7,
  kBuilding = 1 << 8,
  kService = 1 << 9,  // A flight, a train.
  kAccount = 1 << 10,
  kWork = 1 << 11,  // A book, a painting.
};
inline constexpr int kNumSubjectKinds = 12;

enum class ValueKind {
  kCode,    // Digits, or letters and digits.
  kDigits,  // 4 to 7 digits.
  kPerson,
  kCompany,
  kPlace,
  kDate,
  kTime,
  kMoney,
  kWeight,
  kLength,
  kArea,
  kDuration,
  kTemperature,
  kPercent,
  kCount,
  kName,  // One or two invented or chosen words.
  kColour,
  kInstrument,
  kAnimal,
  kFood,
  kMaterial,
  kLanguage,
};

// Either a noun ("access code": `question` is empty), or a verb: "{s} was signed on" with its question
// "When was {s} signed?". The value always follows.
struct FactAttribute {
  std::string phrase;
  ValueKind value;
  uint16_t subjects;  // SubjectKind bits.
  std::string question = {};

  bool is_verb() const { return !question.empty(); }
};

// Patterns. {c} is the clause, {C} the same capitalised; {q} is the noun with its subject ("the access
// code of Marlow Finch").
struct FactForms {
  std::vector<FactAttribute> attributes;
  std::vector<std::string_view> sentences;
  std::vector<std::string_view> questions;
  std::vector<std::string_view> person_questions;  // "Who is {q}?"
};

struct FactWords {
  std::vector<std::string_view> syllables;
  std::vector<std::string_view> first_names;
  std::vector<std::string_view> surnames;
  std::vector<std::string_view> cities;
  std::vector<std::string_view> adjectives;
  std::vector<std::string_view> nouns;
  std::vector<std::string_view> colours;
  std::vector<std::string_view> instruments;
  std::vector<std::string_view> animals;
  std::vector<std::string_view> foods;
  std::vector<std::string_view> materials;
  std::vector<std::string_view> languages;
};

const FactForms& FactFormsOf(FactSplit split);
const FactWords& FactWordsOf(FactSplit split);

}  // namespace sluice
