// The scanners read the alternatives of their pattern in order; the first that matches wins. Two
// facts they rest on: every character has exactly one class, so greedy runs need no backtracking; and
// `\s+(?!\S)` followed by `\s+` means "all but the last white space of a run, unless the text ends".
#include "text/pre_tokenizer.h"

#include "text/unicode.h"
#include "text/utf8.h"

namespace sluice {
namespace {

// Stands in for an invalid byte where the text goes through Oniguruma; SUBSTITUTE, one byte long.
constexpr char kInvalidByteStandIn = '\x1A';

// Reads classes forward from a position.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text), classes_(BmpClasses()) {}

  bool AtEnd(size_t pos) const { return pos >= text_.size(); }
  char ByteAt(size_t pos) const { return AtEnd(pos) ? '\0' : text_[pos]; }

  // REQUIRES: !AtEnd(pos).
  ClassifiedChar At(size_t pos) const { return ClassifyFirst(classes_, text_.substr(pos)); }

  bool HasClass(size_t pos, CharClass wanted) const { return !AtEnd(pos) && At(pos).char_class == wanted; }

  // End of the run of characters of one class that begins at pos.
  size_t RunEnd(size_t pos, CharClass wanted) const {
    while (!AtEnd(pos)) {
      const ClassifiedChar c = At(pos);
      if (c.char_class != wanted) break;
      pos += c.length;
    }
    return pos;
  }

  struct SpaceRun {
    size_t end;           // Of the whole run.
    size_t last_begin;    // Where its last character begins.
    size_t newlines_end;  // After its last \r or \n; the run's beginning if there is none.
  };
  // REQUIRES: the character at pos is white space.
  SpaceRun ReadSpaces(size_t pos) const {
    SpaceRun run = {pos, pos, pos};
    while (!AtEnd(run.end)) {
      const ClassifiedChar c = At(run.end);
      if (c.char_class != CharClass::kSpace && c.char_class != CharClass::kNewline) break;
      run.last_begin = run.end;
      run.end += c.length;
      if (c.char_class == CharClass::kNewline) run.newlines_end = run.end;
    }
    return run;
  }

  // `\s+(?!\S)|\s+` over a run that begins at pos.
  size_t SpacePieceEnd(size_t pos, const SpaceRun& run) const {
    if (AtEnd(run.end)) return run.end;
    return run.last_begin > pos ? run.last_begin : run.end;
  }

 private:
  std::string_view text_;
  const CharClass* classes_;
};

// Length of 's 't 're 've 'm 'll 'd at an apostrophe; 0 if none is there.
size_t ContractionLength(const Scanner& scanner, size_t pos) {
  const char first = scanner.ByteAt(pos + 1);
  const char second = scanner.ByteAt(pos + 2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if ((first == 'r' || first == 'v') && second == 'e') return 3;
  if (first == 'l' && second == 'l') return 3;
  return 0;
}

// The same without regard to case. U+017F, the long s, folds to s.
size_t ContractionLengthAnyCase(const Scanner& scanner, size_t pos) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; };
  const char first = lower(scanner.ByteAt(pos + 1));
  const char second = lower(scanner.ByteAt(pos + 2));
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if ((first == 'r' || first == 'v') && second == 'e') return 3;
  if (first == 'l' && second == 'l') return 3;
  if (first == '\xC5' && second == '\xBF') return 3;
  return 0;
}

}  // namespace

size_t NextGpt2Piece(std::string_view text, size_t pos) {
  const Scanner scanner(text);
  if (text[pos] == '\'') {
    if (const size_t length = ContractionLength(scanner, pos)) return pos + length;
  }
  const size_t body = text[pos] == ' ' ? pos + 1 : pos;
  if (!scanner.AtEnd(body)) {
    const CharClass body_class = scanner.At(body).char_class;
    if (body_class != CharClass::kSpace && body_class != CharClass::kNewline) {
      return scanner.RunEnd(body, body_class);
    }
  }
  return scanner.SpacePieceEnd(pos, scanner.ReadSpaces(pos));
}

size_t NextDefaultPiece(std::string_view text, size_t pos) {
  const Scanner scanner(text);
  const ClassifiedChar first = scanner.At(pos);
  const size_t second = pos + first.length;
  if (first.char_class == CharClass::kLetter) return scanner.RunEnd(second, CharClass::kLetter);
  if (first.char_class == CharClass::kNumber) return second;
  if (text[pos] == '\'') {
    if (const size_t length = ContractionLengthAnyCase(scanner, pos)) return pos + length;
  }
  if (first.char_class != CharClass::kNewline && scanner.HasClass(second, CharClass::kLetter)) {
    return scanner.RunEnd(second, CharClass::kLetter);
  }
  const size_t body = text[pos] == ' ' ? second : pos;
  if (scanner.HasClass(body, CharClass::kOther)) {
    return scanner.RunEnd(scanner.RunEnd(body, CharClass::kOther), CharClass::kNewline);
  }
  const Scanner::SpaceRun run = scanner.ReadSpaces(pos);
  return run.newlines_end > pos ? run.newlines_end : scanner.SpacePieceEnd(pos, run);
}

PreTokenizer::PreTokenizer(const std::vector<Step>& steps, bool allow_scanners) {
  // Both scanned patterns match every text without gaps, so keep_gaps does not matter to them.
  if (allow_scanners && steps.size() == 1 && steps[0].pattern == kGpt2Pattern) {
    kind_ = Kind::kGpt2;
  } else if (allow_scanners && steps.size() == 1 && steps[0].pattern == kDefaultPattern) {
    kind_ = Kind::kDefault;
  } else {
    for (const Step& step : steps) steps_.push_back({Regex(step.pattern), step.keep_gaps});
  }
}

namespace {

struct Range {
  size_t begin;
  size_t end;
};

void SplitRange(const Regex& regex, bool keep_gaps, std::string_view text, Range range,
                std::vector<Range>* out) {
  const std::string_view piece = text.substr(range.begin, range.end - range.begin);
  const auto emit = [&](size_t begin, size_t end) {
    if (begin < end) out->push_back({range.begin + begin, range.begin + end});
  };
  size_t done = 0;
  size_t start = 0;
  while (start <= piece.size()) {
    const std::optional<RegexMatch> match = regex.Search(piece, start);
    if (!match) break;
    if (keep_gaps) emit(done, match->begin);
    emit(match->begin, match->end);
    done = match->end;
    start = match->end;
    if (match->begin == match->end) {  // An empty match: step over one character to go on.
      if (start == piece.size()) break;
      start += DecodeUtf8(piece.substr(start)).length;
    }
  }
  if (keep_gaps) emit(done, piece.size());
}

}  // namespace

void PreTokenizer::ForEachRegexPiece(std::string_view text,
                                     const std::function<void(std::string_view)>& visit) const {
  if (text.empty()) return;
  std::string repaired;
  std::string_view valid = text;
  if (std::optional<size_t> bad = ValidateUtf8(text)) {
    repaired = std::string(text);
    size_t pos = 0;
    while (bad) {
      pos += *bad;
      repaired[pos++] = kInvalidByteStandIn;
      bad = ValidateUtf8(std::string_view(repaired).substr(pos));
    }
    valid = repaired;
  }
  std::vector<Range> ranges = {{0, valid.size()}};
  for (const CompiledStep& step : steps_) {
    std::vector<Range> next;
    for (const Range& range : ranges) SplitRange(step.regex, step.keep_gaps, valid, range, &next);
    ranges = std::move(next);
  }
  for (const Range& range : ranges) visit(text.substr(range.begin, range.end - range.begin));
}

}  // namespace sluice
