// The text a model is trained on, as tokens: sources (a file or a folder each, with a weight) split
// into documents, tokenised once, and kept in a cache file that is mapped from then on.
//
// Read are *.txt and *.md (documents end at lines that are exactly "<|endoftext|>", or with the file)
// and *.jsonl (every line a document: its fields "text", "question" and "answer", as far as present,
// joined by line breaks). Bytes that are not UTF-8 are fine. Between two documents of a source the
// token stream holds an empty line ("\n\n"), which belongs to neither.
//
// The cache file's name is a hash of the tokenizer and of all files' names, sizes and times of change:
// whatever changes, the next Open() tokenises again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "base/random.h"
#include "text/tokenizer.h"

namespace sluice {

struct TextSource {
  std::filesystem::path path;  // A folder is read with all its subfolders.
  double weight = 1;           // Share of what is sampled, relative to the other sources.
};

struct CorpusOptions {
  std::vector<TextSource> sources;
  std::filesystem::path cache_folder;  // Created if missing; empty: nothing is kept on disk.
};

class Corpus {
 public:
  // Throws InputError if a source is missing or holds no text, a .jsonl line is not valid, the weights
  // make no sense, or the vocabulary has more than 65,536 tokens.
  static Corpus Open(const CorpusOptions& options, const Tokenizer& tokenizer);

  int num_sources() const;
  double weight(int source) const;
  int64_t num_documents(int source) const;
  int64_t num_tokens(int source) const;  // Empty lines between documents included.
  int64_t num_tokens() const;            // Of all sources.
  std::span<const uint16_t> Document(int source, int64_t document) const;

  // A source by weight, then one of its documents with probability proportional to its length.
  std::span<const uint16_t> SampleDocument(Random& random) const;

  // `length` tokens: a source by weight, then a place in it. Where the document at that place is long
  // enough, the span lies within it; otherwise it starts with that document and runs on into the next
  // ones. Shorter only if the whole source is. REQUIRES: length >= 0.
  std::span<const uint16_t> SampleSpan(Random& random, int64_t length) const;

 private:
  struct Data;
  explicit Corpus(std::shared_ptr<const Data> data) : data_(std::move(data)) {}
  int SampleSource(Random& random) const;
  int64_t SampleDocumentIndex(Random& random, int source) const;

  std::shared_ptr<const Data> data_;
};

}  // namespace sluice
