// Attributes, sentences and questions of synthetic facts. kTrain and kHeldOut share no line.
#include "train/fact_lists.h"

namespace sluice {
namespace {

constexpr uint16_t kPeople = static_cast<uint16_t>(SubjectKind::kPerson);
constexpr uint16_t kPlaces = static_cast<uint16_t>(SubjectKind::kPlace);
constexpr uint16_t kShips = static_cast<uint16_t>(SubjectKind::kShip);
constexpr uint16_t kProjects = static_cast<uint16_t>(SubjectKind::kProject);
constexpr uint16_t kCompanies = static_cast<uint16_t>(SubjectKind::kCompany);
constexpr uint16_t kRooms = static_cast<uint16_t>(SubjectKind::kRoom);
constexpr uint16_t kMachines = static_cast<uint16_t>(SubjectKind::kMachine);
constexpr uint16_t kContracts = static_cast<uint16_t>(SubjectKind::kContract);
constexpr uint16_t kBuildings = static_cast<uint16_t>(SubjectKind::kBuilding);
constexpr uint16_t kServices = static_cast<uint16_t>(SubjectKind::kService);
constexpr uint16_t kAccounts = static_cast<uint16_t>(SubjectKind::kAccount);
constexpr uint16_t kWorks = static_cast<uint16_t>(SubjectKind::kWork);
constexpr uint16_t kThings = kShips | kMachines | kBuildings;

std::vector<FactAttribute> TrainCodes() {
  using enum ValueKind;
  return {
      {"access code", kCode, kPeople | kRooms | kBuildings | kAccounts | kMachines},
      {"badge number", kCode, kPeople},
      {"locker number", kCode, kPeople},
      {"employee number", kDigits, kPeople},
      {"membership number", kCode, kPeople | kCompanies},
      {"passport number", kCode, kPeople},
      {"phone number", kDigits, kPeople | kCompanies | kRooms},
      {"password", kCode, kPeople | kAccounts | kMachines | kProjects},
      {"door code", kCode, kRooms | kBuildings},
      {"key number", kCode, kRooms | kMachines},
      {"alarm code", kDigits, kBuildings | kRooms | kCompanies},
      {"serial number", kCode, kMachines | kShips | kWorks},
      {"reference number", kCode, kProjects | kContracts | kAccounts | kWorks},
      {"file number", kCode, kContracts | kPeople | kProjects},
      {"tax number", kCode, kCompanies | kPeople},
      {"customer number", kDigits, kCompanies | kPeople},
      {"call sign", kCode, kShips | kServices},
      {"gate number", kCode, kServices},
      {"registration number", kCode, kShips | kMachines | kCompanies},
      {"secret number", kDigits, kPeople | kPlaces | kProjects | kAccounts},
      {"post code", kCode, kPlaces},
      {"pin code", kDigits, kAccounts | kMachines},
  };
}

std::vector<FactAttribute> TrainNouns() {
  using enum ValueKind;
  return {
      {"favourite instrument", kInstrument, kPeople},
      {"favourite colour", kColour, kPeople},
      {"favourite food", kFood, kPeople},
      {"favourite animal", kAnimal, kPeople},
      {"native language", kLanguage, kPeople},
      {"birthplace", kPlace, kPeople},
      {"home town", kPlace, kPeople},
      {"home port", kPlace, kShips},
      {"headquarters", kPlace, kCompanies},
      {"destination", kPlace, kServices | kShips},
      {"meeting place", kPlace, kProjects | kCompanies},
      {"birthday", kDate, kPeople},
      {"meeting date", kDate, kProjects | kCompanies | kContracts},
      {"start date", kDate, kProjects | kContracts | kPeople},
      {"launch date", kDate, kShips | kProjects},
      {"expiry date", kDate, kContracts | kAccounts},
      {"inspection date", kDate, kMachines | kBuildings | kShips},
      {"opening date", kDate, kBuildings | kAccounts},
      {"deadline", kDate, kProjects | kWorks},
      {"departure time", kTime, kServices | kShips},
      {"arrival time", kTime, kServices | kShips},
      {"opening time", kTime, kBuildings | kRooms},
      {"supervisor", kPerson, kPeople | kProjects},
      {"chief engineer", kPerson, kProjects | kShips | kCompanies | kMachines},
      {"captain", kPerson, kShips | kServices},
      {"founder", kPerson, kCompanies | kPlaces},
      {"architect", kPerson, kBuildings},
      {"caretaker", kPerson, kRooms | kBuildings},
      {"operator", kPerson, kMachines},
      {"lawyer", kPerson, kPeople | kCompanies | kContracts},
      {"account holder", kPerson, kAccounts},
      {"mayor", kPerson, kPlaces},
      {"author", kPerson, kWorks},
      {"main supplier", kCompany, kCompanies | kMachines | kProjects},
      {"manufacturer", kCompany, kMachines | kShips},
      {"sponsor", kCompany, kProjects | kWorks},
      {"guarantor", kCompany, kContracts | kAccounts},
      {"purchase price", kMoney, kMachines | kShips | kBuildings | kWorks},
      {"budget", kMoney, kProjects | kPlaces | kCompanies},
      {"total value", kMoney, kContracts | kAccounts | kCompanies},
      {"monthly salary", kMoney, kPeople},
      {"balance", kMoney, kAccounts},
      {"annual revenue", kMoney, kCompanies},
      {"weight", kWeight, kMachines | kShips},
      {"cargo weight", kWeight, kShips | kServices},
      {"height", kLength, kBuildings | kMachines},
      {"length", kLength, kShips | kBuildings},
      {"floor area", kArea, kRooms | kBuildings},
      {"notice period", kDuration, kContracts},
      {"warranty period", kDuration, kMachines | kContracts},
      {"working temperature", kTemperature, kMachines | kRooms},
      {"interest rate", kPercent, kAccounts | kContracts},
      {"population", kCount, kPlaces},
      {"code name", kName, kProjects | kPeople | kShips},
      {"wall colour", kColour, kRooms | kBuildings},
      {"hull colour", kColour, kShips},
      {"main material", kMaterial, kBuildings | kMachines | kWorks},
  };
}

std::vector<FactAttribute> TrainVerbs() {
  using enum ValueKind;
  return {
      {"{s} was signed on", kDate, kContracts, "When was {s} signed?"},
      {"{s} was founded on", kDate, kCompanies | kPlaces, "When was {s} founded?"},
      {"{s} was born on", kDate, kPeople, "When was {s} born?"},
      {"{s} was finished on", kDate, kProjects | kBuildings | kWorks, "When was {s} finished?"},
      {"{s} was repaired on", kDate, kMachines | kShips, "When was {s} repaired?"},
      {"{s} was born in", kPlace, kPeople, "Where was {s} born?"},
      {"{s} lives in", kPlace, kPeople, "Where does {s} live?"},
      {"{s} was built in", kPlace, kShips | kMachines, "Where was {s} built?"},
      {"{s} sails to", kPlace, kShips, "Where does {s} sail to?"},
      {"{s} leaves at", kTime, kServices | kShips, "When does {s} leave?"},
      {"{s} arrives at", kTime, kServices | kShips, "When does {s} arrive?"},
      {"{s} opens at", kTime, kBuildings | kRooms, "When does {s} open?"},
      {"{s} cost", kMoney, kThings | kWorks, "How much did {s} cost?"},
      {"{s} was sold for", kMoney, kThings | kWorks | kCompanies, "How much was {s} sold for?"},
      {"{s} earns", kMoney, kPeople, "How much does {s} earn?"},
      {"{s} weighs", kWeight, kMachines | kShips, "How much does {s} weigh?"},
      {"{s} works for", kCompany, kPeople, "Who does {s} work for?"},
      {"{s} is owned by", kCompany, kThings | kCompanies, "Who is {s} owned by?"},
      {"{s} is led by", kPerson, kProjects | kCompanies, "Who is {s} led by?"},
      {"{s} was designed by", kPerson, kThings, "Who was {s} designed by?"},
      {"{s} was written by", kPerson, kWorks | kContracts, "Who was {s} written by?"},
      {"{s} reports to", kPerson, kPeople, "Who does {s} report to?"},
      {"{s} is married to", kPerson, kPeople, "Who is {s} married to?"},
      {"{s} plays the", kInstrument, kPeople, "Which instrument does {s} play?"},
      {"{s} is painted", kColour, kThings | kRooms, "What colour is {s} painted?"},
      {"{s} is made of", kMaterial, kMachines | kWorks, "What is {s} made of?"},
      {"{s} speaks", kLanguage, kPeople, "Which language does {s} speak?"},
      {"{s} lasts", kDuration, kProjects | kContracts | kServices, "How long does {s} last?"},
      {"{s} is opened with the code", kCode, kRooms | kBuildings | kMachines, "Which code opens {s}?"},
      {"{s} is filed under", kCode, kContracts | kAccounts | kProjects, "What is {s} filed under?"},
  };
}

std::vector<FactAttribute> HeldOutNouns() {
  using enum ValueKind;
  return {
      {"vault combination", kCode, kPeople | kRooms | kBuildings | kCompanies},
      {"licence number", kCode, kPeople | kCompanies | kMachines},
      {"clearance code", kCode, kPeople | kProjects | kServices},
      {"ticket number", kDigits, kPeople | kServices | kWorks},
      {"voucher code", kCode, kPeople | kAccounts | kContracts},
      {"parcel number", kCode, kPeople | kCompanies | kWorks},
      {"magic word", kName, kPeople | kPlaces | kRooms},
      {"dentist", kPerson, kPeople},
      {"landlord", kPerson, kPeople | kRooms | kBuildings},
      {"first officer", kPerson, kShips | kServices},
      {"piano teacher", kPerson, kPeople},
      {"holiday resort", kPlace, kPeople | kCompanies},
      {"place of storage", kPlace, kMachines | kWorks | kContracts},
      {"insurer", kCompany, kShips | kMachines | kBuildings | kContracts},
      {"renewal date", kDate, kContracts | kAccounts},
      {"shipping date", kDate, kMachines | kWorks},
      {"wedding day", kDate, kPeople},
      {"feeding time", kTime, kPlaces | kBuildings},
      {"insured value", kMoney, kShips | kBuildings | kWorks},
      {"repair cost", kMoney, kShips | kMachines | kRooms},
      {"security deposit", kMoney, kContracts | kRooms},
      {"fuel load", kWeight, kServices | kMachines},
      {"roof colour", kColour, kBuildings},
      {"lucky animal", kAnimal, kPeople | kProjects},
      {"ceiling height", kLength, kRooms},
  };
}

std::vector<FactAttribute> HeldOutVerbs() {
  using enum ValueKind;
  return {
      {"{s} was stolen on", kDate, kWorks | kMachines, "When was {s} stolen?"},
      {"{s} was approved on", kDate, kProjects | kContracts, "When was {s} approved?"},
      {"{s} was last seen in", kPlace, kPeople | kShips | kWorks, "Where was {s} last seen?"},
      {"{s} closes at", kTime, kBuildings | kRooms, "When does {s} close?"},
      {"{s} was insured for", kMoney, kThings | kWorks, "How much was {s} insured for?"},
      {"{s} is guarded by", kPerson, kBuildings | kRooms | kPlaces, "Who is {s} guarded by?"},
      {"{s} was bought by", kCompany, kCompanies | kWorks | kShips, "Who was {s} bought by?"},
      {"{s} is registered as number", kCode, kThings | kAccounts, "What number is {s} registered as?"},
      {"{s} always carries a key numbered", kCode, kPeople, "Which key does {s} always carry?"},
  };
}

std::vector<std::string_view> TrainSentences() {
  return {
      "{C}.",
      "{C}.",
      "{C}.",
      "{C}.",
      "{C}.",
      "{C}.",
      "{C}.",
      "{C}.",
      "For the record, {c}.",
      "Note that {c}.",
      "Remember that {c}.",
      "As agreed, {c}.",
      "According to the register, {c}.",
      "It was confirmed that {c}.",
      "The file says that {c}.",
      "Please remember this: {c}.",
      "One more thing: {c}.",
      "In short, {c}.",
      "By the way, {c}.",
      "It is worth knowing that {c}.",
      "We were told that {c}.",
      "The letter explained that {c}.",
      "An entry in the log reads: {c}.",
      "Here is a fact to keep in mind: {c}.",
      "As everybody there knew, {c}.",
      "Nobody had forgotten that {c}.",
      "To be exact, {c}.",
      "The clerk wrote down that {c}.",
      "{C}. This has been checked twice.",
      "{C}. Keep this in mind.",
      "{C}. Nothing else is known about it.",
      "{C}. That much is certain.",
      "Important: {c}.",
      "Among the papers was a note that {c}.",
      "On the first page it says that {c}.",
      "Since last year {c}.",
      "After some discussion it was settled: {c}.",
      "The old list still shows that {c}.",
      "Reminder: {c}.",
      "Let it be known that {c}.",
  };
}

std::vector<std::string_view> HeldOutSentences() {
  return {
      "Memo: {c}.",
      "For what it is worth, {c}.",
      "The inspector reported that {c}.",
      "Do not forget that {c}.",
      "Somebody had pencilled in the margin that {c}.",
      "In case you need it, {c}.",
      "{C}. The committee took note of it.",
      "Under the seal it was written that {c}.",
      "As stated above, {c}.",
      "{C}. It was later entered in the archive.",
      "The telegram said only this: {c}.",
      "Officially, {c}.",
  };
}

std::vector<std::string_view> TrainQuestions() {
  return {
      "What is {q}?",
      "What is {q}?",
      "What is {q}?",
      "What is {q}?",
      "State {q}.",
      "Give {q}.",
      "Tell me {q}.",
      "Please give me {q}.",
      "Name {q}.",
      "According to the text, what is {q}?",
      "What is {q} according to the document?",
      "Find {q} in the text.",
      "I need {q}. What is it?",
      "Do you remember {q}?",
      "Can you tell me {q}?",
      "What does the text say about {q}?",
      "Look up {q}.",
      "What was {q} again?",
  };
}

std::vector<std::string_view> HeldOutQuestions() {
  return {
      "Could you look for {q}?",
      "Which value is given for {q}?",
      "Repeat {q}.",
      "From the document above, report {q}.",
      "What have we learned about {q}?",
      "Somewhere above stands {q}. What is it?",
  };
}

FactForms TrainForms() {
  FactForms forms;
  for (const auto& part : {TrainCodes(), TrainNouns(), TrainVerbs()}) {
    forms.attributes.insert(forms.attributes.end(), part.begin(), part.end());
  }
  forms.sentences = TrainSentences();
  forms.questions = TrainQuestions();
  forms.person_questions = {"Who is {q}?", "Who is {q}?",         "Who is {q} according to the text?",
                            "Name {q}.",   "Tell me who {q} is.", "Does the text say who {q} is?"};
  return forms;
}

FactForms HeldOutForms() {
  FactForms forms;
  for (const auto& part : {HeldOutNouns(), HeldOutVerbs()}) {
    forms.attributes.insert(forms.attributes.end(), part.begin(), part.end());
  }
  forms.sentences = HeldOutSentences();
  forms.questions = HeldOutQuestions();
  forms.person_questions = {"Which person is {q}?", "Could you say who {q} is?"};
  return forms;
}

}  // namespace

const FactForms& FactFormsOf(FactSplit split) {
  static const FactForms train = TrainForms();
  static const FactForms held_out = HeldOutForms();
  return split == FactSplit::kTrain ? train : held_out;
}

}  // namespace sluice
