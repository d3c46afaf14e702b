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

// Many verbs, so that a model learns the rule (the words after the subject stand in the text, in another
// order than in the question) and not a list.
std::vector<FactAttribute> TrainPassives() {
  using enum ValueKind;
  return {
      {"{s} was promoted on", kDate, kPeople, "When was {s} promoted?"},
      {"{s} was appointed on", kDate, kPeople, "When was {s} appointed?"},
      {"{s} was elected on", kDate, kPeople, "When was {s} elected?"},
      {"{s} was baptised on", kDate, kPeople, "When was {s} baptised?"},
      {"{s} was released on", kDate, kPeople, "When was {s} released?"},
      {"{s} was renewed on", kDate, kContracts, "When was {s} renewed?"},
      {"{s} was cancelled on", kDate, kContracts | kProjects, "When was {s} cancelled?"},
      {"{s} was drafted on", kDate, kContracts | kWorks, "When was {s} drafted?"},
      {"{s} was restored on", kDate, kWorks | kBuildings, "When was {s} restored?"},
      {"{s} was delivered on", kDate, kMachines | kWorks, "When was {s} delivered?"},
      {"{s} was tested on", kDate, kMachines | kShips, "When was {s} tested?"},
      {"{s} was renamed on", kDate, kShips | kBuildings | kCompanies, "When was {s} renamed?"},
      {"{s} was announced on", kDate, kProjects | kWorks, "When was {s} announced?"},
      {"{s} was opened on", kDate, kBuildings | kAccounts | kRooms, "When was {s} opened?"},
      {"{s} was launched on", kDate, kShips | kProjects, "When was {s} launched?"},
      {"{s} was published on", kDate, kWorks, "When was {s} published?"},
      {"{s} was cleaned on", kDate, kRooms | kMachines, "When was {s} cleaned?"},
      {"{s} was rebuilt on", kDate, kBuildings | kShips, "When was {s} rebuilt?"},
      {"{s} was found in", kPlace, kPeople | kWorks | kShips, "Where was {s} found?"},
      {"{s} was trained in", kPlace, kPeople, "Where was {s} trained?"},
      {"{s} was educated in", kPlace, kPeople, "Where was {s} educated?"},
      {"{s} was exhibited in", kPlace, kWorks | kMachines, "Where was {s} exhibited?"},
      {"{s} was hidden in", kPlace, kWorks, "Where was {s} hidden?"},
      {"{s} was printed in", kPlace, kWorks | kContracts, "Where was {s} printed?"},
      {"{s} was discovered in", kPlace, kWorks | kPlaces, "Where was {s} discovered?"},
      {"{s} was photographed in", kPlace, kPeople | kShips | kBuildings, "Where was {s} photographed?"},
      {"{s} was married in", kPlace, kPeople, "Where was {s} married?"},
      {"{s} was restored by", kPerson, kWorks | kBuildings, "Who was {s} restored by?"},
      {"{s} was translated by", kPerson, kWorks | kContracts, "Who was {s} translated by?"},
      {"{s} was rescued by", kPerson, kPeople | kShips, "Who was {s} rescued by?"},
      {"{s} was invented by", kPerson, kMachines, "Who was {s} invented by?"},
      {"{s} was inspected by", kPerson, kMachines | kBuildings | kRooms, "Who was {s} inspected by?"},
      {"{s} was taught by", kPerson, kPeople, "Who was {s} taught by?"},
      {"{s} was succeeded by", kPerson, kPeople, "Who was {s} succeeded by?"},
      {"{s} was praised by", kPerson, kWorks | kPeople, "Who was {s} praised by?"},
      {"{s} was repaired by", kPerson, kMachines | kShips, "Who repaired {s}?"},
      {"{s} was chosen by", kPerson, kProjects | kWorks, "Who chose {s}?"},
      {"{s} was signed by", kPerson, kContracts, "Who signed {s}?"},
      {"{s} was painted by", kPerson, kBuildings | kRooms, "Who painted {s}?"},
      {"{s} was discovered by", kPerson, kWorks | kPlaces, "Who discovered {s}?"},
      {"{s} was witnessed by", kPerson, kContracts, "Who witnessed {s}?"},
      {"{s} was built by", kCompany, kShips | kBuildings | kMachines, "Which company was {s} built by?"},
      {"{s} was financed by", kCompany, kProjects | kBuildings, "Which company was {s} financed by?"},
      {"{s} was tested by", kCompany, kMachines, "Which company was {s} tested by?"},
      {"{s} was published by", kCompany, kWorks, "Which company was {s} published by?"},
      {"{s} was leased by", kCompany, kBuildings | kRooms | kShips, "Which company leased {s}?"},
      {"{s} was audited by", kCompany, kAccounts | kCompanies, "Which company audited {s}?"},
      {"{s} was hired by", kCompany, kPeople, "Which company hired {s}?"},
      {"{s} was rented for", kMoney, kRooms | kBuildings | kMachines, "How much was {s} rented for?"},
      {"{s} was auctioned for", kMoney, kWorks | kShips, "How much was {s} auctioned for?"},
      {"{s} was repaired for", kMoney, kMachines | kShips, "How much was {s} repaired for?"},
      {"{s} was renovated for", kMoney, kBuildings | kRooms, "How much was {s} renovated for?"},
      {"{s} was sent to", kPlace, kPeople | kWorks | kMachines, "Where was {s} sent?"},
      {"{s} was repainted", kColour, kThings | kRooms, "Which colour was {s} repainted?"},
      {"{s} was written in", kLanguage, kWorks | kContracts, "Which language was {s} written in?"},
      {"{s} was built of", kMaterial, kBuildings | kShips, "What was {s} built of?"},
      {"{s} was assigned the number", kDigits, kPeople | kServices | kAccounts,
       "Which number was {s} assigned?"},
      {"{s} was closed for", kDuration, kBuildings | kRooms, "How long was {s} closed for?"},
  };
}

std::vector<FactAttribute> TrainActives() {
  using enum ValueKind;
  return {
      {"{s} is valued at", kMoney, kThings | kWorks, "How much is {s} valued at?"},
      {"{s} owes", kMoney, kPeople | kCompanies, "How much does {s} owe?"},
      {"{s} donated", kMoney, kPeople | kCompanies, "How much did {s} donate?"},
      {"{s} holds", kMoney, kAccounts, "How much does {s} hold?"},
      {"{s} starts at", kTime, kProjects | kServices, "When does {s} start?"},
      {"{s} ends at", kTime, kServices | kWorks, "When does {s} end?"},
      {"{s} lands at", kTime, kServices, "When does {s} land?"},
      {"{s} wakes up at", kTime, kPeople, "At what time does {s} wake up?"},
      {"{s} stops at", kTime, kMachines | kServices, "When does {s} stop?"},
      {"{s} has lunch at", kTime, kPeople, "When does {s} have lunch?"},
      {"{s} lies in", kPlace, kBuildings | kPlaces, "Where does {s} lie?"},
      {"{s} comes from", kPlace, kPeople, "Where does {s} come from?"},
      {"{s} studies in", kPlace, kPeople, "Where does {s} study?"},
      {"{s} is kept in", kPlace, kWorks | kMachines | kContracts, "Where is {s} kept?"},
      {"{s} is anchored in", kPlace, kShips, "Where is {s} anchored?"},
      {"{s} moved to", kPlace, kPeople | kCompanies, "Where did {s} move to?"},
      {"{s} stands in", kPlace, kBuildings, "Where does {s} stand?"},
      {"{s} travels to", kPlace, kPeople | kServices, "Where does {s} travel to?"},
      {"{s} always wears", kColour, kPeople, "Which colour does {s} always wear?"},
      {"{s} teaches the", kInstrument, kPeople, "Which instrument does {s} teach?"},
      {"{s} owns a", kInstrument, kPeople, "Which instrument does {s} own?"},
      {"{s} is afraid of the", kAnimal, kPeople, "Which animal is {s} afraid of?"},
      {"{s} feeds the", kAnimal, kPeople, "Which animal does {s} feed?"},
      {"{s} always eats", kFood, kPeople, "What does {s} always eat?"},
      {"{s} sells", kFood, kCompanies, "What does {s} sell?"},
      {"{s} is learning", kLanguage, kPeople, "Which language is {s} learning?"},
      {"{s} stores", kMaterial, kRooms | kCompanies, "What does {s} store?"},
      {"{s} is locked with the code", kCode, kRooms | kBuildings | kMachines,
       "Which code is {s} locked with?"},
      {"{s} is stored under number", kCode, kWorks | kContracts, "Which number is {s} stored under?"},
      {"{s} is labelled", kCode, kMachines | kWorks | kRooms, "How is {s} labelled?"},
      {"{s} is listed as", kCode, kShips | kCompanies | kAccounts, "What is {s} listed as?"},
      {"{s} can be reached under", kDigits, kPeople | kCompanies, "Under which number can {s} be reached?"},
      {"{s} is also called", kName, kPeople | kProjects | kShips, "What is {s} also called?"},
      {"{s} is known as", kName, kPlaces | kProjects, "What is {s} known as?"},
      {"{s} used to be called", kName, kShips | kCompanies, "What did {s} use to be called?"},
      {"{s} took", kDuration, kProjects, "How long did {s} take?"},
      {"{s} waited for", kDuration, kPeople, "How long did {s} wait for?"},
      {"{s} carries", kWeight, kShips | kServices, "How much does {s} carry?"},
      {"{s} can lift", kWeight, kMachines | kPeople, "How much can {s} lift?"},
      {"{s} is as high as", kLength, kBuildings, "How high is {s}?"},
      {"{s} measures", kLength, kShips | kWorks, "How much does {s} measure?"},
      {"{s} covers", kArea, kBuildings | kRooms | kPlaces, "Which area does {s} cover?"},
      {"{s} is heated to", kTemperature, kMachines | kRooms, "To what temperature is {s} heated?"},
      {"{s} pays", kPercent, kAccounts | kContracts, "How much interest does {s} pay?"},
      {"{s} employs", kCount, kCompanies, "How many people does {s} employ?"},
      {"{s} seats", kCount, kBuildings | kRooms, "How many people does {s} seat?"},
      {"{s} works with", kPerson, kPeople, "Who does {s} work with?"},
      {"{s} trusts", kPerson, kPeople, "Who does {s} trust?"},
      {"{s} lives with", kPerson, kPeople, "Who does {s} live with?"},
      {"{s} belongs to", kPerson, kMachines | kWorks | kRooms | kAccounts, "Who does {s} belong to?"},
      {"{s} is managed by", kPerson, kAccounts | kProjects | kBuildings, "Who is {s} managed by?"},
      {"{s} is operated by", kPerson, kMachines, "Who operates {s}?"},
      {"{s} is named after", kPerson, kShips | kBuildings | kPlaces, "Who is {s} named after?"},
      {"{s} is supplied by", kCompany, kCompanies | kProjects, "Who is {s} supplied by?"},
      {"{s} competes with", kCompany, kCompanies, "Who does {s} compete with?"},
      {"{s} is maintained by", kCompany, kMachines | kBuildings | kShips, "Which company maintains {s}?"},
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
      "{C}. The matter was closed.",
      "{C}. There is no doubt about it.",
      "{C}. The witnesses agreed on this.",
      "{C}. See also the appendix.",
      "A footnote adds that {c}.",
      "My brother told me that {c}.",
      "It so happens that {c}.",
      "From the minutes: {c}.",
      "He said it again: {c}.",
      "Few people knew that {c}.",
      "At the end of the list it said: {c}.",
      "The report is clear: {c}.",
      "We have since learned that {c}.",
      "On the back of the card was written: {c}.",
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
      "Which is {q}?",
      "Quote {q}.",
      "Write down {q}.",
      "Check {q} for me.",
      "Recall {q}.",
      "We are looking for {q}. What does it say?",
      "There is a line about {q}. What does it say?",
      "The text mentions {q}. What is it?",
      "I forgot {q}. What is it?",
      "Regarding {q}: what is it?",
      "Earlier we read about {q}. State it.",
      "In the document, what is {q}?",
      "Be so kind as to tell me {q}.",
      "Does the text give {q}?",
      "What do you know of {q}?",
      "Would you find {q}?",
      "Based on the text, name {q}.",
      "One question: what is {q}?",
      "Report {q}.",
      "How is {q} given in the text?",
      "My question is about {q}. What is it?",
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
  for (const auto& part : {TrainCodes(), TrainNouns(), TrainVerbs(), TrainPassives(), TrainActives()}) {
    forms.attributes.insert(forms.attributes.end(), part.begin(), part.end());
  }
  forms.sentences = TrainSentences();
  forms.questions = TrainQuestions();
  forms.person_questions = {"Who is {q}?",
                            "Who is {q}?",
                            "Who is {q} according to the text?",
                            "Name {q}.",
                            "Tell me who {q} is.",
                            "Does the text say who {q} is?",
                            "I forgot who {q} is. Who is it?",
                            "The text names {q}. Who is it?",
                            "Do you know who {q} is?",
                            "Find out who {q} is."};
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
