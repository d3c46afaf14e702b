// Byte-level byte-pair tokenizer, the kind that GPT-2, Llama 3 and Qwen use, in the file format of
// Hugging Face: tokenizer.json. Any byte string can be encoded, and Decode(Encode(x)) == x unless the
// file asks for a normalizer or a prefix space (ours does not).
// A Tokenizer is immutable and cheap to copy; any number of threads may use it at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct TokenizerParts;

class Tokenizer {
 public:
  // Throws InputError naming the file (`name`) and the field if it is missing, not valid, or uses a
  // feature that is not supported.
  static Tokenizer FromFile(const std::filesystem::path& path);
  static Tokenizer FromJson(std::string_view json, const std::string& name = "tokenizer.json");
  static Tokenizer FromParts(TokenizerParts parts);

  // tokenizer.json as Hugging Face's `tokenizers` reads it; ToJson(FromJson(x)) is stable.
  std::string ToJson() const;
  void Save(const std::filesystem::path& path) const;

  // Special tokens in the text ("<|endoftext|>") become their ids only with `allow_special`: leave it
  // false for text from outside. Added tokens that are not special are always recognised.
  std::vector<int32_t> Encode(std::string_view text, bool allow_special = false) const;

  // The exact bytes, special tokens as they are spelled. Throws InputError on an unknown id.
  std::string Decode(std::span<const int32_t> tokens) const;
  std::string_view TokenBytes(int32_t token) const;

  // Ids are [0, vocab_size), all of them in use.
  int vocab_size() const;
  // The id of a special token by its spelling.
  std::optional<int32_t> SpecialToken(std::string_view text) const;
  bool IsSpecial(int32_t token) const;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace sluice
