// Names, codes, dates and amounts. See fact_phrases.h.
#include "train/fact_phrases.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace sluice {
namespace {

constexpr uint64_t kHeldOutShare = 4;  // One string in four.

bool IsOnSide(const std::string& text, FactSplit split) {
  const bool held_out = XXH3_64bits(text.data(), text.size()) % kHeldOutShare == 0;
  return held_out == (split == FactSplit::kHeldOut);
}

// Calls make() until its result belongs to the split.
template <class Make>
std::string OnSide(FactSplit split, const Make& make) {
  std::string text = make();
  while (!IsOnSide(text, split)) text = make();
  return text;
}

std::string_view Pick(Random& random, const std::vector<std::string_view>& words) {
  return words[random.Below(words.size())];
}

template <size_t n>
const char* Pick(Random& random, const char* const (&words)[n]) {
  return words[random.Below(n)];
}

bool Chance(Random& random, int percent) {
  return static_cast<int>(random.Below(100)) < percent;
}

int Between(Random& random, int low, int high) {
  return low + static_cast<int>(random.Below(static_cast<uint64_t>(high - low + 1)));
}

char Letter(Random& random) {
  return static_cast<char>('A' + random.Below(26));
}

std::string Letters(Random& random, int n) {
  std::string text;
  for (int i = 0; i < n; ++i) text += Letter(random);
  return text;
}

std::string Digits(Random& random, int n) {
  std::string text;
  for (int i = 0; i < n; ++i) text += static_cast<char>('0' + random.Below(10));
  return text;
}

// Words of one split, and phrases made of them.
class Phrases {
 public:
  Phrases(Random& random, FactSplit split) : random_(random), split_(split), words_(FactWordsOf(split)) {}

  std::string Subject(SubjectKind kind);
  std::string Value(ValueKind kind);
  std::string FirstName() {
    return Chance(random_, 35) ? std::string(Pick(random_, words_.first_names)) : Invented();
  }
  std::string Surname() {
    return Chance(random_, 35) ? std::string(Pick(random_, words_.surnames)) : Invented();
  }

 private:
  // A capitalised word of two or three syllables. Most of kTrain's are put together from sounds, so that
  // names of any spelling are copied, not those of one list.
  std::string Invented() {
    const bool of_sounds = split_ == FactSplit::kTrain && Chance(random_, 65);
    return OnSide(split_, [&] {
      std::string word;
      for (int n = Between(random_, 2, 3); n > 0; --n) {
        word += of_sounds ? Sounds() : std::string(Pick(random_, words_.syllables));
      }
      return CapitalisedFirst(std::move(word));
    });
  }
  // A syllable that no list of kHeldOut has.
  std::string Sounds();
  std::string Noun() { return CapitalisedFirst(std::string(Pick(random_, words_.nouns))); }
  std::string Adjective() { return CapitalisedFirst(std::string(Pick(random_, words_.adjectives))); }
  std::string Pair() { return Adjective() + " " + Noun(); }
  std::string Person();
  std::string Place();
  std::string Company();
  std::string Ship();
  std::string Project();
  std::string Room();
  std::string Machine();
  std::string Contract();
  std::string Building();
  std::string Service();
  std::string Account();
  std::string Work();
  std::string Code();
  std::string Date();
  std::string Time();
  std::string Money();
  std::string Grouped(int64_t n);
  int64_t Amount();

  Random& random_;
  FactSplit split_;
  const FactWords& words_;
};

std::string Phrases::Sounds() {
  const char* const onsets[] = {"b",  "c",  "d",  "f",  "g",  "h",  "j",  "k",  "l",  "m",  "n",
                                "p",  "r",  "s",  "t",  "v",  "w",  "y",  "z",  "br", "cl", "dr",
                                "fl", "gr", "pl", "qu", "sh", "st", "th", "tr", "ch"};
  const char* const vowels[] = {"a", "e", "i", "o", "u", "ai", "ea", "ee", "ie", "oo", "ou", "y"};
  const char* const codas[] = {"",  "",   "",  "b", "ck", "d", "g", "l", "m",
                               "n", "nd", "p", "r", "rt", "s", "t", "x"};
  const std::vector<std::string_view>& held_out = FactWordsOf(FactSplit::kHeldOut).syllables;
  std::string syllable;
  do {
    syllable = fmt::format("{}{}{}", Pick(random_, onsets), Pick(random_, vowels), Pick(random_, codas));
  } while (std::find(held_out.begin(), held_out.end(), syllable) != held_out.end());
  return syllable;
}

std::string Phrases::Person() {
  const std::string name = FirstName() + " " + Surname();
  if (!Chance(random_, 12)) return name;
  const char* const titles[] = {"Dr", "Professor", "Captain", "Judge", "Sister", "Inspector"};
  return std::string(Pick(random_, titles)) + " " + name;
}

std::string Phrases::Place() {
  const std::string name = Invented();
  switch (random_.Below(12)) {
    case 0:
      return "Port " + name;
    case 1:
      return "New " + name;
    case 2:
      return name + " Falls";
    case 3:
      return "Lake " + name;
    case 4:
      return "Saint " + name;
    case 5:
      return name + " Bay";
    default:
      return name;
  }
}

std::string Phrases::Company() {
  const char* const tails[] = {"Industries", "Logistics",  "Brothers", "and Sons", "Trading",
                               "Systems",    "Mining",     "Foods",    "Energy",   "Insurance",
                               "Chemicals",  "Consulting", "Press",    "Motors"};
  const std::string name = Chance(random_, 60) ? Invented() : Chance(random_, 50) ? Noun() : Surname();
  if (Chance(random_, 15)) return name + " and " + Surname();
  return name + " " + Pick(random_, tails);
}

std::string Phrases::Ship() {
  switch (random_.Below(4)) {
    case 0:
      return "the ship " + Invented();
    case 1:
      return "the MV " + Invented();
    case 2:
      return "the steamer " + Pair();
    default:
      return "the " + Pair();
  }
}

std::string Phrases::Project() {
  switch (random_.Below(4)) {
    case 0:
      return "Project " + Invented();
    case 1:
      return "Operation " + Pair();
    case 2:
      return "the " + Invented() + " project";
    default:
      return "the " + Noun() + " " + Invented() + " programme";
  }
}

std::string Phrases::Room() {
  switch (random_.Below(5)) {
    case 0:
      return "Room " + Digits(random_, 3);
    case 1:
      return fmt::format("Room {}{}", Letter(random_), Between(random_, 1, 99));
    case 2:
      return "the " + Invented() + " Room";
    case 3:
      return fmt::format("laboratory {}-{}", Letter(random_), Digits(random_, 3));
    default:
      return "the " + Pair() + " Suite";
  }
}

std::string Phrases::Machine() {
  const char* const kinds[] = {"pump", "press",   "turbine", "generator", "crane", "engine",
                               "oven", "scanner", "printer", "drill",     "lathe", "compressor"};
  const char* kind = Pick(random_, kinds);
  switch (random_.Below(3)) {
    case 0:
      return fmt::format("{} {}-{}", kind, Letters(random_, Between(random_, 1, 2)),
                         Between(random_, 10, 9999));
    case 1:
      return fmt::format("the {}{} {}", Letters(random_, 2), Between(random_, 100, 999), kind);
    default:
      return fmt::format("the {} {}", Invented(), kind);
  }
}

std::string Phrases::Contract() {
  const char* const kinds[] = {"contract", "lease",  "agreement", "loan",
                               "patent",   "treaty", "licence",   "bond"};
  const char* kind = Pick(random_, kinds);
  switch (random_.Below(3)) {
    case 0:
      return fmt::format("{} {}-{}", kind, Letters(random_, 2), Digits(random_, 4));
    case 1:
      return fmt::format("the {} {} {}", Noun(), Invented(), kind);
    default:
      return fmt::format("the {} {}", Invented(), kind);
  }
}

std::string Phrases::Building() {
  const char* const kinds[] = {"Library", "Tower", "House",   "Bridge", "Hall",   "Museum",
                               "Station", "Hotel", "Theatre", "Mill",   "School", "Hospital"};
  const std::string name = Chance(random_, 70) ? Invented() : Pair();
  return "the " + name + " " + Pick(random_, kinds);
}

std::string Phrases::Service() {
  switch (random_.Below(3)) {
    case 0:
      return fmt::format("flight {} {}", Letters(random_, 2), Between(random_, 100, 9999));
    case 1:
      return fmt::format("train {}{}", Letters(random_, 1), Between(random_, 100, 9999));
    default:
      return "the " + Invented() + " express";
  }
}

std::string Phrases::Account() {
  switch (random_.Below(3)) {
    case 0:
      return "account " + Digits(random_, 5);
    case 1:
      return fmt::format("fund {}-{}", Letters(random_, 2), Between(random_, 10, 999));
    default:
      return "the " + Invented() + " account";
  }
}

std::string Phrases::Work() {
  const char* const kinds[] = {"novel", "painting", "statue", "play", "symphony", "poem", "film"};
  const std::string title = Chance(random_, 50)   ? Pair()
                            : Chance(random_, 50) ? Invented()
                                                  : Noun() + " of " + Invented();
  return fmt::format("the {} {}", Pick(random_, kinds), title);
}

std::string Phrases::Code() {
  switch (random_.Below(10)) {
    case 0:
    case 1:
    case 2:
    case 3:
      return Digits(random_, Between(random_, 4, 7));
    case 4:
      return Letters(random_, 2) + "-" + Digits(random_, Between(random_, 3, 5));
    case 5:
      return Letters(random_, 1) + Digits(random_, Between(random_, 3, 5));
    case 6:
      return Letters(random_, 3) + " " + Digits(random_, 3);
    case 7:
      return fmt::format("{}{}-{}{}", Digits(random_, 1), Letters(random_, 1), Letters(random_, 1),
                         Digits(random_, 2));
    case 8:
      return fmt::format("{}-{}-{}", Digits(random_, 3), Digits(random_, 2), Digits(random_, 4));
    default:
      return fmt::format("{}-{}-{}", Pick(random_, words_.adjectives), Pick(random_, words_.nouns),
                         Digits(random_, 2));
  }
}

std::string Phrases::Date() {
  const char* const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                "July",    "August",   "September", "October", "November", "December"};
  const int day = Between(random_, 1, 28), month = Between(random_, 1, 12),
            year = Between(random_, 1850, 2049);
  const char* name = months[month - 1];
  switch (random_.Below(10)) {
    case 0:
      return fmt::format("{}-{:02}-{:02}", year, month, day);
    case 1:
      return fmt::format("{} {}", day, name);
    case 2:
    case 3:
    case 4:
      return fmt::format("{} {}, {}", name, day, year);
    default:
      return fmt::format("{} {} {}", day, name, year);
  }
}

std::string Phrases::Time() {
  const int hour = Between(random_, 0, 23), minute = Between(random_, 0, 59);
  if (Chance(random_, 70)) return fmt::format("{:02}:{:02}", hour, minute);
  return fmt::format("{}:{:02} {}", hour % 12 == 0 ? 12 : hour % 12, minute, hour < 12 ? "am" : "pm");
}

// "1,234,567".
std::string Phrases::Grouped(int64_t n) {
  std::string text;
  const std::string digits = std::to_string(n);
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

// 2 to 6 digits, each length as likely.
int64_t Phrases::Amount() {
  int64_t low = 10;
  for (int n = Between(random_, 0, 4); n > 0; --n) low *= 10;
  return low + static_cast<int64_t>(random_.Below(static_cast<uint64_t>(9 * low)));
}

std::string Phrases::Money() {
  const char* const signs[] = {"$", "$", "$", "£", "€"};
  const char* const units[] = {"dollars", "pounds", "euros", "francs", "crowns"};
  const std::string amount = Grouped(Amount());
  return Chance(random_, 70) ? Pick(random_, signs) + amount : amount + " " + Pick(random_, units);
}

std::string Phrases::Subject(SubjectKind kind) {
  switch (kind) {
    case SubjectKind::kPerson:
      return Person();
    case SubjectKind::kPlace:
      return Place();
    case SubjectKind::kShip:
      return Ship();
    case SubjectKind::kProject:
      return Project();
    case SubjectKind::kCompany:
      return Company();
    case SubjectKind::kRoom:
      return Room();
    case SubjectKind::kMachine:
      return Machine();
    case SubjectKind::kContract:
      return Contract();
    case SubjectKind::kBuilding:
      return Building();
    case SubjectKind::kService:
      return Service();
    case SubjectKind::kAccount:
      return Account();
    case SubjectKind::kWork:
      return Work();
  }
  return {};
}

std::string Phrases::Value(ValueKind kind) {
  const char* const weights[] = {"kilograms", "tonnes", "pounds", "tons"};
  const char* const lengths[] = {"metres", "feet", "yards"};
  const char* const areas[] = {"square metres", "square feet"};
  const char* const durations[] = {"days", "weeks", "months", "hours", "years"};
  switch (kind) {
    case ValueKind::kCode:
      return Code();
    case ValueKind::kDigits:
      return Digits(random_, Between(random_, 4, 7));
    case ValueKind::kPerson:
      return Person();
    case ValueKind::kCompany:
      return Company();
    case ValueKind::kPlace:
      return Place();
    case ValueKind::kDate:
      return Date();
    case ValueKind::kTime:
      return Time();
    case ValueKind::kMoney:
      return Money();
    case ValueKind::kWeight:
      return Grouped(Amount()) + " " + Pick(random_, weights);
    case ValueKind::kLength:
      return fmt::format("{} {}", Between(random_, 2, 999), Pick(random_, lengths));
    case ValueKind::kArea:
      return fmt::format("{} {}", Grouped(Between(random_, 6, 2500)), Pick(random_, areas));
    case ValueKind::kDuration:
      return fmt::format("{} {}", Between(random_, 2, 99), Pick(random_, durations));
    case ValueKind::kTemperature:
      return fmt::format("{} degrees", Between(random_, -80, 1200));
    case ValueKind::kPercent:
      return fmt::format("{}.{} percent", Between(random_, 0, 29), Between(random_, 0, 99));
    case ValueKind::kCount:
      return Grouped(Amount());
    case ValueKind::kName:
      return Chance(random_, 50) ? Invented() : Pair();
    default:
      SLUICE_CHECK(false && "a value from a list");
      return {};
  }
}

// The list a kind of value comes from, or null where values are open.
const std::vector<std::string_view>* ListOf(const FactWords& words, ValueKind kind) {
  switch (kind) {
    case ValueKind::kColour:
      return &words.colours;
    case ValueKind::kInstrument:
      return &words.instruments;
    case ValueKind::kAnimal:
      return &words.animals;
    case ValueKind::kFood:
      return &words.foods;
    case ValueKind::kMaterial:
      return &words.materials;
    case ValueKind::kLanguage:
      return &words.languages;
    default:
      return nullptr;
  }
}

}  // namespace

std::string MakeFactSubject(Random& random, FactSplit split, SubjectKind kind) {
  Phrases phrases(random, split);
  return OnSide(split, [&] { return phrases.Subject(kind); });
}

std::string MakeFactValue(Random& random, FactSplit split, ValueKind kind) {
  if (const auto* list = ListOf(FactWordsOf(split), kind)) return std::string(Pick(random, *list));
  Phrases phrases(random, split);
  return OnSide(split, [&] { return phrases.Value(kind); });
}

std::string MakeSimilarPerson(Random& random, FactSplit split, const std::string& subject) {
  Phrases phrases(random, split);
  return OnSide(split, [&] {
    const size_t last = subject.rfind(' ');
    return Chance(random, 50) ? subject.substr(0, last + 1) + phrases.Surname()
                              : phrases.FirstName() + subject.substr(last);
  });
}

std::string CapitalisedFirst(const std::string& text) {
  if (text.empty() || text.front() < 'a' || text.front() > 'z') return text;
  return static_cast<char>(text.front() - 'a' + 'A') + text.substr(1);
}

}  // namespace sluice
