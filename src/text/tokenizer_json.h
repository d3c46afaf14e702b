// What a tokenizer.json says, checked and resolved to ids, and its way back. Used by Tokenizer and
// by the trainer; nobody else needs it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/bpe.h"
#include "text/pre_tokenizer.h"

namespace sluice {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = true;
  bool normalized = false;
};

// How a token stands in the file's model.vocab.
enum class VocabKey : uint8_t {
  kAbsent,     // Only in added_tokens.
  kByteLevel,  // Every byte as one printable character (' ' is "Ġ").
  kVerbatim,   // As it is: an added token, or one that is not in the byte alphabet.
};

struct TokenizerParts {
  std::vector<std::string> token_bytes;  // By id.
  std::vector<VocabKey> vocab_keys;      // By id.
  std::vector<BpeMerge> merges;          // By rank. The bytes of left and right, joined, are the result's.
  std::array<int32_t, 256> byte_ids = {};
  std::vector<AddedToken> added_tokens;
  std::vector<PreTokenizer::Step> split_steps;
  bool ignore_merges = false;  // A piece that is a token is taken whole.
  bool add_prefix_space = false;
  bool nfc = false;
  // Fields that pass through unchanged, as JSON.
  std::string normalizer_json = "null";
  std::string pre_tokenizer_json;
  std::string post_processor_json = "null";
  std::string decoder_json;
  std::string unk_token_json = "null";
  bool fuse_unk = false;
};

// Sets split_steps and the JSON of the pre-tokenizer and decoder for one pattern, byte-level.
void SetByteLevelPattern(std::string_view pattern, TokenizerParts* parts);

// The byte alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and up.
std::string ToByteLevel(std::string_view bytes);

// Throws InputError naming `name` and the field. Never anything else for bad input.
TokenizerParts ParseTokenizerJson(std::string_view json, const std::string& name);
std::string WriteTokenizerJson(const TokenizerParts& parts);

}  // namespace sluice
