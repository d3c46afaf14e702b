// Each distinct piece is a word: a list of token ids and a count. For every pair the trainer keeps
// its total count and the words where it has occurred; replacing a pair touches only those words.
// Heap entries are not updated when counts fall; an entry whose count is stale is pushed back.
#include "text/bpe_trainer.h"

#include <algorithm>
#include <queue>
#include <unordered_set>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace sluice {
namespace {

constexpr size_t kSampleBlockBytes = 64 << 10;

struct Pair {
  int32_t left;
  int32_t right;
  bool operator==(const Pair&) const = default;
};

struct PairHash {
  size_t operator()(const Pair& pair) const {
    const uint64_t key =
        static_cast<uint64_t>(static_cast<uint32_t>(pair.left)) << 32 | static_cast<uint32_t>(pair.right);
    return static_cast<size_t>((key ^ key >> 29) * 0x9E3779B97F4A7C15u >> 20);
  }
};

struct Word {
  std::vector<int32_t> tokens;
  int64_t count;
};

struct PairState {
  int64_t count = 0;
  std::vector<uint32_t> words;  // Ascending enough; may name a word twice or one that lost the pair.
};

struct HeapEntry {
  int64_t count;
  Pair pair;
  // The greatest is on top: highest count, then lowest ids.
  bool operator<(const HeapEntry& other) const {
    if (count != other.count) return count < other.count;
    if (pair.left != other.pair.left) return pair.left > other.pair.left;
    return pair.right > other.pair.right;
  }
};

class MergeLearner {
 public:
  explicit MergeLearner(std::vector<Word> words) : words_(std::move(words)) {
    for (uint32_t w = 0; w < words_.size(); ++w) {
      const std::vector<int32_t>& tokens = words_[w].tokens;
      for (size_t i = 0; i + 1 < tokens.size(); ++i) Count({tokens[i], tokens[i + 1]}, words_[w].count, w);
    }
    for (const auto& [pair, state] : pairs_) heap_.push({state.count, pair});
    touched_.clear();
  }

  // The most frequent pair, taken off the heap; count 0 if none is left.
  HeapEntry PopBest() {
    while (!heap_.empty()) {
      HeapEntry best = heap_.top();
      heap_.pop();
      const int64_t count = pairs_[best.pair].count;
      if (count == best.count) return best;
      best.count = count;
      if (count > 0) heap_.push(best);
    }
    return {0, {0, 0}};
  }

  // Replaces every occurrence of the pair.
  void Merge(const Pair& pair, int32_t result) {
    std::vector<uint32_t> where = std::move(pairs_[pair].words);
    std::sort(where.begin(), where.end());
    where.erase(std::unique(where.begin(), where.end()), where.end());
    touched_.clear();
    for (const uint32_t w : where) MergeInWord(w, pair, result);
    pairs_.erase(pair);
    for (const Pair& touched : touched_) {
      if (touched == pair) continue;
      heap_.push({pairs_[touched].count, touched});
    }
  }

 private:
  void Count(const Pair& pair, int64_t count, uint32_t word) {
    PairState& state = pairs_[pair];
    state.count += count;
    if (count > 0) {
      if (state.words.empty() || state.words.back() != word) state.words.push_back(word);
      touched_.insert(pair);
    }
  }

  // Recounts the whole word: words are short, and this is exact for runs such as "aaaa".
  void MergeInWord(uint32_t w, const Pair& pair, int32_t result) {
    std::vector<int32_t>& tokens = words_[w].tokens;
    const int64_t count = words_[w].count;
    merged_.clear();
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i + 1 < tokens.size() && tokens[i] == pair.left && tokens[i + 1] == pair.right) {
        merged_.push_back(result);
        ++i;
      } else {
        merged_.push_back(tokens[i]);
      }
    }
    if (merged_.size() == tokens.size()) return;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const Pair old = {tokens[i], tokens[i + 1]};
      pairs_[old].count -= count;
    }
    tokens = merged_;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const Pair now = {tokens[i], tokens[i + 1]};
      if (now.left == result || now.right == result) {
        Count(now, count, w);
      } else {
        pairs_[now].count += count;  // Was there before: the word is on its list already.
      }
    }
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, PairState, PairHash> pairs_;
  std::priority_queue<HeapEntry> heap_;
  std::unordered_set<Pair, PairHash> touched_;  // Pairs that the current merge has made more frequent.
  std::vector<int32_t> merged_;
};

// Specials and bytes, before any merge.
TokenizerParts MakeBaseVocabulary(const BpeTrainerOptions& options) {
  TokenizerParts parts;
  for (const std::string& special : options.special_tokens) {
    const auto id = static_cast<int32_t>(parts.token_bytes.size());
    parts.added_tokens.push_back({id, special, true, false});
    parts.token_bytes.push_back(special);
    parts.vocab_keys.push_back(VocabKey::kVerbatim);
  }
  for (size_t b = 0; b < 256; ++b) {
    parts.byte_ids[b] = static_cast<int32_t>(parts.token_bytes.size());
    parts.token_bytes.emplace_back(1, static_cast<char>(b));
    parts.vocab_keys.push_back(VocabKey::kByteLevel);
  }
  SetByteLevelPattern(options.pattern, &parts);
  return parts;
}

}  // namespace

BpeTrainer::BpeTrainer(BpeTrainerOptions options)
    : options_(std::move(options)), pre_tokenizer_({{options_.pattern, true}}) {
  const std::vector<std::string>& specials = options_.special_tokens;
  const size_t least = 256 + specials.size();
  if (options_.vocab_size < 0 || static_cast<size_t>(options_.vocab_size) < least) {
    throw InputError("a vocabulary of {} is too small: 256 bytes and {} special tokens need at least {}",
                     options_.vocab_size, specials.size(), least);
  }
  std::unordered_set<std::string> seen;
  for (const std::string& special : specials) {
    if (special.size() < 2 || ValidateUtf8(special)) {
      throw InputError("the special token \"{}\" is not UTF-8 text of two bytes or more",
                       SanitizeUtf8(special));
    }
    if (!seen.insert(special).second) throw InputError("the special token \"{}\" is listed twice", special);
  }
}

void BpeTrainer::AddDocument(std::string_view text, int64_t weight) {
  pre_tokenizer_.ForEachPiece(text, [&](std::string_view piece) {
    if (piece.size() > options_.max_piece_bytes) return;
    const auto it = piece_counts_.find(piece);
    if (it != piece_counts_.end()) {
      it->second += weight;
    } else {
      piece_counts_.emplace(piece, weight);
    }
  });
  if (piece_counts_.size() > options_.max_distinct_pieces) DropRarePieces();
}

void BpeTrainer::DropRarePieces() {
  // Down to three quarters, so that this is not run for every document.
  const size_t keep = options_.max_distinct_pieces / 4 * 3;
  std::vector<int64_t> counts;
  counts.reserve(piece_counts_.size());
  for (const auto& [piece, count] : piece_counts_) counts.push_back(count);
  std::nth_element(counts.begin(), counts.begin() + static_cast<ptrdiff_t>(keep), counts.end(),
                   std::greater<>());
  const int64_t threshold = counts[keep];
  std::erase_if(piece_counts_, [&](const auto& entry) { return entry.second <= threshold; });
}

uint64_t BpeTrainer::AddFile(const std::filesystem::path& path, const CorpusSample& sample) {
  if (!(sample.fraction > 0 && sample.fraction <= 1) || sample.weight < 1) {
    throw InputError("{}: a sample needs a fraction in (0, 1] and a weight of at least 1, not {} and {}",
                     path.string(), sample.fraction, sample.weight);
  }
  const MappedFile file(path);
  const std::string_view text = file.text();
  double fraction = sample.fraction;
  if (sample.max_bytes > 0 && !text.empty()) {
    fraction = std::min(fraction, static_cast<double>(sample.max_bytes) / static_cast<double>(text.size()));
  }
  // A document is cut where blocks are left out, at line ends.
  uint64_t learned = 0;
  size_t document_begin = 0;
  const auto end_document = [&](size_t end) {
    AddDocument(text.substr(document_begin, end - document_begin), sample.weight);
    learned += end - document_begin;
  };
  bool taking = true;
  size_t block_idx = 0, block_end = 0;
  for (size_t line = 0; line < text.size();) {
    if (line >= block_end) {
      const bool take = static_cast<uint64_t>(static_cast<double>(block_idx + 1) * fraction + 1e-9) >
                        static_cast<uint64_t>(static_cast<double>(block_idx) * fraction + 1e-9);
      if (taking && !take) end_document(line);
      if (!taking && take) document_begin = line;
      taking = take;
      block_idx += 1;
      block_end = block_idx * kSampleBlockBytes;
    }
    const size_t newline = text.find('\n', line);
    const size_t line_end = newline == std::string_view::npos ? text.size() : newline + 1;
    std::string_view content = text.substr(line, line_end - line);
    while (!content.empty() && (content.back() == '\n' || content.back() == '\r')) content.remove_suffix(1);
    if (taking && content == options_.document_separator) {
      end_document(line);
      document_begin = line_end;
    }
    line = line_end;
  }
  if (taking) end_document(text.size());
  return learned;
}

Tokenizer BpeTrainer::Train() const {
  TokenizerParts parts = MakeBaseVocabulary(options_);
  // Sorted, so that nothing depends on the order of a hash table.
  std::vector<std::pair<std::string_view, int64_t>> pieces(piece_counts_.begin(), piece_counts_.end());
  std::sort(pieces.begin(), pieces.end());
  std::vector<Word> words;
  for (const auto& [piece, count] : pieces) {
    if (piece.size() < 2) continue;
    Word word = {{}, count};
    for (const char c : piece) word.tokens.push_back(parts.byte_ids[static_cast<uint8_t>(c)]);
    words.push_back(std::move(word));
  }
  MergeLearner learner(std::move(words));
  std::unordered_map<std::string, int32_t> known;
  for (size_t id = options_.special_tokens.size(); id < parts.token_bytes.size(); ++id) {
    known.emplace(parts.token_bytes[id], static_cast<int32_t>(id));
  }
  const auto vocab_size = static_cast<size_t>(options_.vocab_size);
  std::optional<ProgressBar> progress;
  if (options_.show_progress) progress.emplace("Learning tokens", options_.vocab_size, "tokens");
  while (parts.token_bytes.size() < vocab_size) {
    const HeapEntry best = learner.PopBest();
    if (best.count < options_.min_pair_count) break;
    std::string bytes = parts.token_bytes[static_cast<size_t>(best.pair.left)] +
                        parts.token_bytes[static_cast<size_t>(best.pair.right)];
    if (bytes.size() > options_.max_token_bytes) continue;  // Off the heap: not looked at again.
    // Two pairs may spell the same bytes ("a"+"bc", "ab"+"c"): they share a token.
    const auto next_id = static_cast<int32_t>(parts.token_bytes.size());
    const auto [it, is_new] = known.emplace(bytes, next_id);
    parts.merges.push_back({best.pair.left, best.pair.right, it->second});
    learner.Merge(best.pair, it->second);
    if (!is_new) continue;
    parts.token_bytes.push_back(std::move(bytes));
    parts.vocab_keys.push_back(VocabKey::kByteLevel);
    if (progress) progress->Update(next_id + 1);
  }
  return Tokenizer::FromParts(std::move(parts));
}

}  // namespace sluice
