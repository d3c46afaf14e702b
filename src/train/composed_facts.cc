#include "train/composed_facts.h"

#include <fmt/format.h>

namespace sluice {
namespace {

constexpr uint16_t kAnySubject = (1 << kNumSubjectKinds) - 1;

template <class T, size_t n>
const T& Pick(Random& random, const T (&items)[n]) {
  return items[random.Below(n)];
}

struct Head {
  const char* noun;
  ValueKind value;
};

constexpr const char* kModifiers[] = {
    "annual", "backup",   "badge",   "board",   "border",    "cabin",    "cargo",    "chief",   "city",
    "claim",  "client",   "council", "cover",   "crew",      "customs",  "daily",    "desk",    "dock",
    "draft",  "duty",     "engine",  "entry",   "evening",   "export",   "factory",  "family",  "field",
    "final",  "fleet",    "flag",    "floor",   "freight",   "garden",   "guest",    "harbour", "hotel",
    "import", "internal", "junior",  "kitchen", "land",      "legal",    "library",  "lower",   "main",
    "market", "medical",  "member",  "monthly", "morning",   "motor",    "night",    "north",   "office",
    "old",    "order",    "outer",   "park",    "payment",   "personal", "port",     "press",   "private",
    "public", "quarter",  "rail",    "reserve", "river",     "road",     "safety",   "sales",   "school",
    "second", "senior",   "service", "site",    "south",     "spare",    "special",  "staff",   "stage",
    "state",  "street",   "summer",  "supply",  "support",   "survey",   "table",    "team",    "temporary",
    "test",   "third",    "track",   "trade",   "training",  "transit",  "travel",   "upper",   "village",
    "water",  "weekly",   "west",    "winter",  "emergency", "delivery", "official", "yard",    "standard",
};

constexpr Head kHeads[] = {
    {"code", ValueKind::kCode},
    {"number", ValueKind::kCode},
    {"key", ValueKind::kCode},
    {"mark", ValueKind::kCode},
    {"token", ValueKind::kCode},
    {"reference", ValueKind::kCode},
    {"label", ValueKind::kCode},
    {"extension", ValueKind::kDigits},
    {"index", ValueKind::kDigits},
    {"frequency", ValueKind::kDigits},
    {"manager", ValueKind::kPerson},
    {"keeper", ValueKind::kPerson},
    {"doctor", ValueKind::kPerson},
    {"guardian", ValueKind::kPerson},
    {"assistant", ValueKind::kPerson},
    {"partner", ValueKind::kPerson},
    {"neighbour", ValueKind::kPerson},
    {"secretary", ValueKind::kPerson},
    {"guide", ValueKind::kPerson},
    {"agent", ValueKind::kPerson},
    {"owner", ValueKind::kPerson},
    {"director", ValueKind::kPerson},
    {"tutor", ValueKind::kPerson},
    {"driver", ValueKind::kPerson},
    {"town", ValueKind::kPlace},
    {"village", ValueKind::kPlace},
    {"port", ValueKind::kPlace},
    {"base", ValueKind::kPlace},
    {"station", ValueKind::kPlace},
    {"shelter", ValueKind::kPlace},
    {"market", ValueKind::kPlace},
    {"depot", ValueKind::kPlace},
    {"address", ValueKind::kPlace},
    {"date", ValueKind::kDate},
    {"eve", ValueKind::kDate},
    {"anniversary", ValueKind::kDate},
    {"hour", ValueKind::kTime},
    {"time", ValueKind::kTime},
    {"fee", ValueKind::kMoney},
    {"cost", ValueKind::kMoney},
    {"fine", ValueKind::kMoney},
    {"bonus", ValueKind::kMoney},
    {"tax", ValueKind::kMoney},
    {"grant", ValueKind::kMoney},
    {"debt", ValueKind::kMoney},
    {"price", ValueKind::kMoney},
    {"bank", ValueKind::kCompany},
    {"publisher", ValueKind::kCompany},
    {"carrier", ValueKind::kCompany},
    {"contractor", ValueKind::kCompany},
    {"distributor", ValueKind::kCompany},
    {"limit", ValueKind::kWeight},
    {"depth", ValueKind::kLength},
    {"width", ValueKind::kLength},
    {"distance", ValueKind::kLength},
    {"area", ValueKind::kArea},
    {"period", ValueKind::kDuration},
    {"term", ValueKind::kDuration},
    {"break", ValueKind::kDuration},
    {"nickname", ValueKind::kName},
    {"motto", ValueKind::kName},
    {"title", ValueKind::kName},
    {"symbol", ValueKind::kName},
    {"quota", ValueKind::kCount},
    {"stock", ValueKind::kCount},
    {"rate", ValueKind::kPercent},
    {"share", ValueKind::kPercent},
    {"discount", ValueKind::kPercent},
    {"colour", ValueKind::kColour},
    {"animal", ValueKind::kAnimal},
    {"material", ValueKind::kMaterial},
    {"coating", ValueKind::kMaterial},
    {"language", ValueKind::kLanguage},
    {"dish", ValueKind::kFood},
    {"instrument", ValueKind::kInstrument},
    {"temperature", ValueKind::kTemperature},
};

constexpr const char* kParticiples[] = {
    "admired",   "adopted",     "advertised", "altered",    "arrested",  "assembled",  "attacked",
    "awarded",   "banned",      "blamed",     "blocked",    "borrowed",  "broken",     "buried",
    "carved",    "caught",      "celebrated", "challenged", "charged",   "christened", "collected",
    "completed", "concealed",   "condemned",  "copied",     "counted",   "crowned",    "damaged",
    "decorated", "defended",    "delayed",    "described",  "destroyed", "dismissed",  "displayed",
    "divided",   "drawn",       "driven",     "dug",        "edited",    "employed",   "engraved",
    "examined",  "exchanged",   "expelled",   "exported",   "fed",       "filmed",     "flooded",
    "followed",  "forged",      "forgotten",  "found",      "freed",     "frozen",     "gathered",
    "given",     "greeted",     "handled",    "heard",      "honoured",  "hung",       "imported",
    "improved",  "injured",     "installed",  "introduced", "invited",   "judged",     "kept",
    "knighted",  "knitted",     "lent",       "lifted",     "lit",       "loaded",     "located",
    "lost",      "mailed",      "marked",     "measured",   "melted",    "mended",     "mentioned",
    "missed",    "modified",    "moved",      "named",      "needed",    "nominated",  "noticed",
    "observed",  "ordered",     "packed",     "paid",       "paved",     "planned",    "planted",
    "polished",  "praised",     "prepared",   "presented",  "prevented", "punished",   "questioned",
    "raised",    "recalled",    "recorded",   "recovered",  "refused",   "remembered", "removed",
    "reported",  "requested",   "reserved",   "returned",   "reviewed",  "rewarded",   "ruined",
    "sealed",    "searched",    "selected",   "sent",       "served",    "shaken",     "shipped",
    "shown",     "shut",        "sketched",   "spoiled",    "spotted",   "started",    "stopped",
    "studied",   "suspended",   "taken",      "taxed",      "thrown",    "touched",    "towed",
    "traded",    "transported", "trapped",    "treated",    "uncovered", "unloaded",   "used",
    "visited",   "warned",      "washed",     "weighed",    "welcomed",
};

constexpr const char* kAdverbs[] = {"soon",       "later",    "secretly", "finally",  "twice",   "recently",
                                    "originally", "once",     "nearly",   "quickly",  "openly",  "rarely",
                                    "quietly",    "formally", "wrongly",  "publicly", "briefly", "again"};

// {a} is an adverb and a space, or nothing; {v} the verb, a participle or a stem.
struct Frame {
  const char* phrase;
  ValueKind value;
  const char* question;
};

constexpr Frame kPassiveFrames[] = {
    {"{s} was {a}{v} on", ValueKind::kDate, "When was {s} {a}{v}?"},
    {"{s} was {a}{v} on", ValueKind::kDate, "On which day was {s} {a}{v}?"},
    {"{s} was {a}{v} at", ValueKind::kTime, "At what time was {s} {a}{v}?"},
    {"{s} was {a}{v} in", ValueKind::kPlace, "Where was {s} {a}{v}?"},
    {"{s} was {a}{v} near", ValueKind::kPlace, "Near which place was {s} {a}{v}?"},
    {"{s} was {a}{v} by", ValueKind::kPerson, "Who was {s} {a}{v} by?"},
    {"{s} is {a}{v} by", ValueKind::kPerson, "Who is {s} {a}{v} by?"},
    {"{s} was {a}{v} by", ValueKind::kPerson, "By whom was {s} {a}{v}?"},
    {"{s} was {a}{v} by", ValueKind::kCompany, "Who was {s} {a}{v} by?"},
    {"{s} was {a}{v} by", ValueKind::kCompany, "Which company was {s} {a}{v} by?"},
    {"{s} was {a}{v} for", ValueKind::kMoney, "How much was {s} {a}{v} for?"},
    {"{s} was {a}{v} for", ValueKind::kDuration, "How long was {s} {a}{v} for?"},
    {"{s} is {a}{v} under number", ValueKind::kCode, "Which number is {s} {a}{v} under?"},
    {"{s} is {a}{v} with the code", ValueKind::kCode, "Which code is {s} {a}{v} with?"},
    {"{s} was {a}{v} as", ValueKind::kName, "What was {s} {a}{v} as?"},
    {"{s} was {a}{v} with", ValueKind::kPerson, "Who was {s} {a}{v} with?"},
};

constexpr const char* kVerbs[] = {
    "admire",   "answer", "arrive",  "avoid",  "begin",    "borrow",  "call",    "choose", "collect",
    "cook",     "count",  "deliver", "depart", "describe", "draw",    "drink",   "drive",  "end",
    "enter",    "escape", "export",  "fear",   "fight",    "find",    "follow",  "forget", "greet",
    "help",     "hide",   "import",  "invite", "judge",    "keep",    "know",    "land",   "leave",
    "lend",     "lift",   "like",    "love",   "meet",     "mention", "need",    "notice", "offer",
    "open",     "order",  "paint",   "praise", "prefer",   "produce", "protect", "read",   "recommend",
    "remember", "rent",   "report",  "return", "ride",     "ring",    "search",  "sell",   "send",
    "serve",    "sing",   "sleep",   "start",  "stay",     "stop",    "test",    "trade",  "train",
    "turn",     "use",    "visit",   "wait",   "wake",     "want",    "warn",    "work",
};

constexpr Frame kActiveFrames[] = {
    {"{s} {a}{v}s at", ValueKind::kTime, "When does {s} {a}{v}?"},
    {"{s} {a}{v}s at", ValueKind::kTime, "At what time does {s} {a}{v}?"},
    {"{s} {a}{v}s in", ValueKind::kPlace, "Where does {s} {a}{v}?"},
    {"{s} {a}{v}s", ValueKind::kPerson, "Who does {s} {a}{v}?"},
    {"{s} {a}{v}s", ValueKind::kPlace, "Which place does {s} {a}{v}?"},
    {"{s} {a}{v}s with", ValueKind::kPerson, "Who does {s} {a}{v} with?"},
    {"{s} {a}{v}s for", ValueKind::kCompany, "Who does {s} {a}{v} for?"},
    {"{s} {a}{v}s", ValueKind::kMoney, "How much does {s} {a}{v}?"},
    {"{s} {a}{v}s for", ValueKind::kDuration, "How long does {s} {a}{v} for?"},
    {"{s} {a}{v}s the", ValueKind::kAnimal, "Which animal does {s} {a}{v}?"},
    {"{s} {a}{v}s the", ValueKind::kInstrument, "Which instrument does {s} {a}{v}?"},
    {"{s} {a}{v}s", ValueKind::kFood, "What does {s} {a}{v}?"},
    {"{s} {a}{v}s a", ValueKind::kMaterial, "Which material does {s} {a}{v}?"},
    {"{s} {a}{v}s a box marked", ValueKind::kCode, "Which box does {s} {a}{v}?"},
    {"{s} {a}{v}s the number", ValueKind::kDigits, "Which number does {s} {a}{v}?"},
};

// "Ada Finch later lifts a barrel stamped": the question names the thing, and what stands between it and the
// value is for the text to say.
constexpr const char* kObjects[] = {
    "ball",   "barrel",  "basket", "bell",  "bench",  "blanket", "book",   "bottle", "bowl",   "brush",
    "bucket", "candle",  "carpet", "cart",  "chair",  "chest",   "clock",  "coat",   "coin",   "crate",
    "cup",    "curtain", "drum",   "fan",   "flag",   "flask",   "folder", "glove",  "hammer", "hat",
    "jar",    "jug",     "kettle", "knife", "ladder", "lamp",    "letter", "mask",   "mirror", "net",
    "note",   "purse",   "pen",    "pipe",  "plate",  "pot",     "ribbon", "rope",   "sack",   "saddle",
    "scarf",  "shelf",   "shield", "shirt", "sign",   "spoon",   "stool",  "sword",  "tent",   "tile",
    "tool",   "torch",   "towel",  "tray",  "trunk",  "wheel",
};

struct Marker {
  const char* words;
  ValueKind value;
};

constexpr Marker kMarkers[] = {
    {"marked", ValueKind::kCode},
    {"stamped", ValueKind::kCode},
    {"with the label", ValueKind::kCode},
    {"known as", ValueKind::kName},
    {"called", ValueKind::kName},
    {"made of", ValueKind::kMaterial},
    {"from", ValueKind::kPlace},
    {"sent from", ValueKind::kPlace},
    {"worth", ValueKind::kMoney},
    {"that belongs to", ValueKind::kPerson},
    {"lent by", ValueKind::kPerson},
    {"made by", ValueKind::kCompany},
    {"dated", ValueKind::kDate},
    {"painted", ValueKind::kColour},
    {"with the number", ValueKind::kDigits},
};

// {o} is the thing, {m} the marker.
struct ObjectFrame {
  const char* phrase;
  const char* question;
};

constexpr ObjectFrame kObjectFrames[] = {
    {"{s} {a}{v}s a {o} {m}", "Which {o} does {s} {a}{v}?"},
    {"{s} {a}{v}s the {o} {m}", "Which {o} does {s} {a}{v}?"},
    {"{s} {a}{v}s one {o} {m}", "What {o} does {s} {a}{v}?"},
    {"{s} {a}{v}s with a {o} {m}", "Which {o} does {s} {a}{v} with?"},
};

// `pattern` with its words filled in; {s} stays.
std::string Fill(const char* pattern, const std::string& adverb, const char* verb, const char* object = "",
                 const char* marker = "") {
  return fmt::format(fmt::runtime(pattern), fmt::arg("s", "{s}"), fmt::arg("a", adverb), fmt::arg("v", verb),
                     fmt::arg("o", object), fmt::arg("m", marker));
}

// An adverb and a space, or nothing.
std::string DrawAdverb(Random& random) {
  return random.Below(3) == 0 ? std::string(Pick(random, kAdverbs)) + " " : "";
}

template <size_t frames, size_t verbs>
FactAttribute ComposeVerb(Random& random, const Frame (&patterns)[frames],
                          const char* const (&words)[verbs]) {
  const Frame& frame = Pick(random, patterns);
  const char* verb = Pick(random, words);
  const std::string adverb = DrawAdverb(random);
  return {Fill(frame.phrase, adverb, verb), frame.value, kAnySubject, Fill(frame.question, adverb, verb)};
}

FactAttribute ComposeObject(Random& random) {
  const ObjectFrame& frame = Pick(random, kObjectFrames);
  const Marker& marker = Pick(random, kMarkers);
  const char* object = Pick(random, kObjects);
  const char* verb = Pick(random, kVerbs);
  const std::string adverb = DrawAdverb(random);
  return {Fill(frame.phrase, adverb, verb, object, marker.words), marker.value, kAnySubject,
          Fill(frame.question, adverb, verb, object)};
}

FactAttribute ComposeNoun(Random& random) {
  const Head& head = Pick(random, kHeads);
  return {fmt::format("{} {}", Pick(random, kModifiers), head.noun), head.value, kAnySubject, {}};
}

}  // namespace

FactAttribute ComposeAttribute(Random& random) {
  switch (random.Below(5)) {
    case 0:
      return ComposeVerb(random, kActiveFrames, kVerbs);
    case 1:
      return ComposeNoun(random);
    case 2:
      return ComposeObject(random);
    default:
      return ComposeVerb(random, kPassiveFrames, kParticiples);
  }
}

}  // namespace sluice
