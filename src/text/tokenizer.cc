// Encoding is: cut at added tokens, normalise, cut into pieces, merge each piece. Most pieces of a
// text are words seen before, so each thread keeps a small table from piece to tokens.
#include "text/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <unordered_map>

#include "base/error.h"
#include "base/file.h"
#include "text/bpe.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_json.h"
#include "text/unicode.h"

namespace sluice {
namespace {

// Piece -> tokens, direct-mapped: a newcomer replaces what was there, so the size is fixed. One table
// per thread; it belongs to the tokenizer that used it last.
class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 15;
  static constexpr size_t kMaxTokens = 11;
  struct Slot {
    uint64_t low = 0;   // The piece's first 8 bytes,
    uint64_t high = 0;  // then 7 more, zero-padded, and its length; 0 is an empty slot.
    int32_t count = 0;
    int32_t tokens[kMaxTokens] = {};
  };
  static_assert(sizeof(Slot) == 64);

  // REQUIRES: 0 < piece.size() <= kMaxBytes. `readable` bytes may be read from its beginning.
  // Fills low and high, and returns the slot where such a piece belongs.
  Slot& Locate(std::string_view piece, size_t readable, uint64_t* low, uint64_t* high) {
    uint64_t words[2] = {};
    if (readable >= 16) [[likely]] {
      std::memcpy(words, piece.data(), 16);
      if (piece.size() < 8) {
        words[0] &= (uint64_t{1} << (8 * piece.size())) - 1;
        words[1] = 0;
      } else {
        words[1] &= (uint64_t{1} << (8 * (piece.size() - 8))) - 1;
      }
    } else {
      std::memcpy(words, piece.data(), piece.size());
    }
    *low = words[0];
    *high = words[1] | uint64_t{piece.size()} << 56;
    const uint64_t hash = (*low * 0x9E3779B97F4A7C15u) ^ (*high * 0xC2B2AE3D27D4EB4Fu);
    return slots_[(hash ^ hash >> 32) * 0x9E3779B97F4A7C15u >> (64 - kLogSlots)];
  }

  // The calling thread's table, empty unless `owner` used it last.
  static PieceCache& ForThread(uint64_t owner) {
    thread_local PieceCache cache;
    if (cache.owner_ != owner) {
      cache.slots_.assign(size_t{1} << kLogSlots, Slot());
      cache.owner_ = owner;
    }
    return cache;
  }

 private:
  static constexpr int kLogSlots = 14;  // 1 MiB.
  std::vector<Slot> slots_;
  uint64_t owner_ = 0;
};

// Output with room ahead, so that writing a piece's tokens is a copy without a check per token.
class TokenSink {
 public:
  explicit TokenSink(size_t expected) { tokens_.resize(expected + 64); }
  int32_t* Reserve(size_t count) {
    if (size_ + count > tokens_.size()) tokens_.resize(2 * tokens_.size() + count);
    return tokens_.data() + size_;
  }
  void Advance(size_t count) { size_ += count; }
  std::vector<int32_t> Take() {
    tokens_.resize(size_);
    return std::move(tokens_);
  }

 private:
  std::vector<int32_t> tokens_;
  size_t size_ = 0;
};

std::atomic<uint64_t> next_owner = 1;

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(TokenizerParts p);

  // The added token at the beginning of `text`, the longest one; nullptr if there is none.
  const AddedToken* MatchAdded(std::string_view text, bool allow_special) const;
  void EncodePlain(std::string_view text, PieceCache* cache, TokenSink* sink) const;
  void EncodePiece(std::string_view piece, size_t readable, PieceCache* cache, TokenSink* sink) const;
  size_t MergePiece(std::string_view piece, int32_t* out) const;

  TokenizerParts parts;
  PreTokenizer pre_tokenizer;
  BpeMerger merger;
  uint64_t owner = next_owner++;
  std::vector<bool> is_special;                             // By id.
  std::vector<const AddedToken*> added_by_first_byte[256];  // Longest first.
  std::unordered_map<std::string_view, int32_t> special_ids;
  std::unordered_map<std::string_view, int32_t> whole_pieces;  // Only with ignore_merges.
};

Tokenizer::Impl::Impl(TokenizerParts p) : parts(std::move(p)), pre_tokenizer(parts.split_steps) {
  is_special.resize(parts.token_bytes.size());
  for (const AddedToken& token : parts.added_tokens) {
    added_by_first_byte[static_cast<uint8_t>(token.content[0])].push_back(&token);
    if (!token.special) continue;
    is_special[static_cast<size_t>(token.id)] = true;
    special_ids.emplace(token.content, token.id);
  }
  for (auto& candidates : added_by_first_byte) {
    std::stable_sort(candidates.begin(), candidates.end(), [](const AddedToken* a, const AddedToken* b) {
      return a->content.size() > b->content.size();
    });
  }
  merger = BpeMerger(parts.merges, parts.byte_ids);
  if (!parts.ignore_merges) return;
  for (size_t id = 0; id < parts.token_bytes.size(); ++id) {
    if (parts.vocab_keys[id] != VocabKey::kByteLevel) continue;
    whole_pieces.emplace(parts.token_bytes[id], static_cast<int32_t>(id));
  }
}

const AddedToken* Tokenizer::Impl::MatchAdded(std::string_view text, bool allow_special) const {
  for (const AddedToken* token : added_by_first_byte[static_cast<uint8_t>(text[0])]) {
    if ((allow_special || !token->special) && text.starts_with(token->content)) return token;
  }
  return nullptr;
}

size_t Tokenizer::Impl::MergePiece(std::string_view piece, int32_t* out) const {
  if (parts.ignore_merges) {
    if (const auto it = whole_pieces.find(piece); it != whole_pieces.end()) {
      out[0] = it->second;
      return 1;
    }
  }
  return merger.Encode(piece, out);
}

void Tokenizer::Impl::EncodePiece(std::string_view piece, size_t readable, PieceCache* cache,
                                  TokenSink* sink) const {
  if (piece.size() > PieceCache::kMaxBytes) {
    sink->Advance(MergePiece(piece, sink->Reserve(piece.size())));
    return;
  }
  int32_t* out = sink->Reserve(PieceCache::kMaxBytes);
  uint64_t low, high;
  PieceCache::Slot& slot = cache->Locate(piece, readable, &low, &high);
  if (slot.low == low && slot.high == high) {
    std::memcpy(out, slot.tokens, sizeof(slot.tokens));
    sink->Advance(static_cast<size_t>(slot.count));
    return;
  }
  const size_t count = MergePiece(piece, out);
  sink->Advance(count);
  if (count > PieceCache::kMaxTokens) return;
  slot.low = low;
  slot.high = high;
  slot.count = static_cast<int32_t>(count);
  std::copy(out, out + count, slot.tokens);
}

void Tokenizer::Impl::EncodePlain(std::string_view text, PieceCache* cache, TokenSink* sink) const {
  if (text.empty()) return;
  std::string changed;
  if (parts.nfc) {
    changed = NormalizeNfc(text);
    text = changed;
  }
  if (parts.add_prefix_space && text[0] != ' ') {
    changed = " " + std::string(text);
    text = changed;
  }
  const char* end = text.data() + text.size();
  pre_tokenizer.ForEachPiece(text, [&](std::string_view piece) {
    EncodePiece(piece, static_cast<size_t>(end - piece.data()), cache, sink);
  });
}

Tokenizer Tokenizer::FromFile(const std::filesystem::path& path) {
  return FromJson(ReadFile(path), path.string());
}

Tokenizer Tokenizer::FromJson(std::string_view json, const std::string& name) {
  return FromParts(ParseTokenizerJson(json, name));
}

Tokenizer Tokenizer::FromParts(TokenizerParts parts) {
  return Tokenizer(std::make_shared<const Impl>(std::move(parts)));
}

std::string Tokenizer::ToJson() const {
  return WriteTokenizerJson(impl_->parts);
}

void Tokenizer::Save(const std::filesystem::path& path) const {
  WriteFileAtomically(path, ToJson());
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, bool allow_special) const {
  TokenSink sink(text.size() / 3);
  PieceCache& cache = PieceCache::ForThread(impl_->owner);
  size_t plain_begin = 0;
  size_t pos = impl_->parts.added_tokens.empty() ? text.size() : 0;
  while (pos < text.size()) {
    const AddedToken* token = impl_->MatchAdded(text.substr(pos), allow_special);
    if (token == nullptr) {
      ++pos;
      continue;
    }
    impl_->EncodePlain(text.substr(plain_begin, pos - plain_begin), &cache, &sink);
    *sink.Reserve(1) = token->id;
    sink.Advance(1);
    pos += token->content.size();
    plain_begin = pos;
  }
  impl_->EncodePlain(text.substr(plain_begin), &cache, &sink);
  return sink.Take();
}

std::string Tokenizer::Decode(std::span<const int32_t> tokens) const {
  std::string text;
  for (const int32_t token : tokens) text += TokenBytes(token);
  return text;
}

std::string_view Tokenizer::TokenBytes(int32_t token) const {
  if (token < 0 || token >= vocab_size()) {
    throw InputError("token {} is not in the tokenizer's vocabulary of {}", token, vocab_size());
  }
  return impl_->parts.token_bytes[static_cast<size_t>(token)];
}

int Tokenizer::vocab_size() const {
  return static_cast<int>(impl_->parts.token_bytes.size());
}

std::optional<int32_t> Tokenizer::SpecialToken(std::string_view text) const {
  const auto it = impl_->special_ids.find(text);
  if (it == impl_->special_ids.end()) return std::nullopt;
  return it->second;
}

bool Tokenizer::IsSpecial(int32_t token) const {
  return token >= 0 && token < vocab_size() && impl_->is_special[static_cast<size_t>(token)];
}

}  // namespace sluice
