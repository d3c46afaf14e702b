#include "train/composed_questions.h"

#include <fmt/format.h>

#include "train/fact_phrases.h"

namespace sluice {
namespace {

template <size_t n>
const char* Pick(Random& random, const char* const (&words)[n]) {
  return words[random.Below(n)];
}

constexpr const char* kOpenings[] = {
    "please ",
    "kindly ",
    "now ",
    "next, ",
    "first, ",
    "again, ",
    "if you can, ",
    "for the record, ",
    "for my notes, ",
    "from the text, ",
    "in one sentence, ",
    "from what you have read, ",
    "without a comment, ",
    "as it is written, ",
    "from the pages before you, ",
    "for those who come late, ",
};

constexpr const char* kRequests[] = {
    "list",       "note",     "indicate",    "spell out",    "read out",  "copy",       "provide",
    "supply",     "recite",   "identify",    "cite",         "mention",   "retrieve",   "extract",
    "show",       "print",    "return",      "specify",      "confirm",   "point out",  "bring up",
    "type",       "pick out", "determine",   "announce",     "write out", "track down", "tell us",
    "search for", "explain",  "let me have", "remind me of",
};

constexpr const char* kEndings[] = {
    "as it stands in the text",
    "from the document",
    "word for word",
    "exactly",
    "for the file",
    "in a sentence",
    "once more",
    "if it is there",
    "from what was read",
    "for us",
};

constexpr const char* kAskings[] = {
    "can you",          "will you",          "would you kindly",     "are you able to",
    "may I ask you to", "is it possible to", "would it be right to", "do you want to",
};

constexpr const char* kRemarks[] = {
    "Let us see.",           "One more thing.",         "A short question.", "I have lost my notes.",
    "Think back.",           "This matters to me.",     "We have read it.",  "Now to another point.",
    "It was said before.",   "I am not sure any more.", "Take your time.",   "The reader wants to know.",
    "Here is the next one.",
};

constexpr const char* kPlainQuestions[] = {
    "What is {q}?", "What was {q}?", "Which is {q}?", "How does {q} read?", "And {q}?",
};

bool OneIn(Random& random, uint64_t n) {
  return random.Below(n) == 0;
}

}  // namespace

std::string ComposeQuestion(Random& random) {
  if (OneIn(random, 4)) return fmt::format("{} {}", Pick(random, kRemarks), Pick(random, kPlainQuestions));
  const bool asks = OneIn(random, 3);
  std::string text;
  if (!OneIn(random, 3)) text = Pick(random, kOpenings);
  if (asks) text += fmt::format("{} ", Pick(random, kAskings));
  text += fmt::format("{} {{q}}", Pick(random, kRequests));
  if (OneIn(random, 2)) text += fmt::format(" {}", Pick(random, kEndings));
  return CapitalisedFirst(text) + (asks ? "?" : ".");
}

}  // namespace sluice
