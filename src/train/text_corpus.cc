// The token cache and sampling from it. A cache file is, in little-endian words of 64 bits,
//   "SLUICETK", XXH3-64 of all that follows, number of sources, number of documents, number of tokens,
//   per source: its number of documents and of tokens,
//   per document: first token and end, counted within its source,
// and then the tokens as 16-bit words. A file that does not check out is made again.
#include "train/text_corpus.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>
#include <string>

#include "base/check.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/threads.h"
#include "train/text_files.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMagic = 0x4b54454349554c53;  // "SLUICETK"
constexpr uint64_t kFormatVersion = 1;           // Part of the key: raise it when splitting changes.
constexpr size_t kHeaderWords = 5;

struct TokenSpan {
  uint64_t begin = 0;
  uint64_t end = 0;
};

// One source while it is being tokenised.
struct SourceText {
  std::vector<std::string_view> documents;  // Into `mapped` and `owned`.
  std::vector<std::unique_ptr<MappedFile>> mapped;
  std::vector<std::unique_ptr<std::vector<std::string>>> owned;
};

void CheckOptions(const CorpusOptions& options, const Tokenizer& tokenizer) {
  if (options.sources.empty()) throw InputError("no text source is given; name at least one file or folder");
  double sum = 0;
  for (const TextSource& source : options.sources) {
    if (!(source.weight >= 0) || !std::isfinite(source.weight)) {
      throw InputError("{}: its weight is {}; a weight is a number of 0 or more", source.path.string(),
                       source.weight);
    }
    sum += source.weight;
  }
  if (!(sum > 0)) throw InputError("all text sources have weight 0; give one of them more");
  if (tokenizer.vocab_size() > 65'536) {
    throw InputError("the tokenizer has {} tokens; a corpus takes at most 65,536", tokenizer.vocab_size());
  }
}

uint64_t KeyOf(const std::vector<std::vector<TextFile>>& files, const Tokenizer& tokenizer) {
  std::string description = fmt::format("{}\n{}\n", kFormatVersion, tokenizer.ToJson());
  for (const auto& source : files) {
    description += "source\n";
    for (const TextFile& file : source) {
      description += fmt::format("{}\n{} {}\n", file.path.string(), file.size, file.modified);
    }
  }
  return XXH3_64bits(description.data(), description.size());
}

SourceText ReadSource(const std::vector<TextFile>& files) {
  SourceText source;
  for (const TextFile& file : files) {
    auto mapped = std::make_unique<MappedFile>(file.path);
    if (file.path.extension() == ".jsonl") {
      auto documents = std::make_unique<std::vector<std::string>>(ReadJsonLines(file.path, mapped->text()));
      source.documents.insert(source.documents.end(), documents->begin(), documents->end());
      source.owned.push_back(std::move(documents));
    } else {
      const auto documents = SplitDocuments(mapped->text());
      source.documents.insert(source.documents.end(), documents.begin(), documents.end());
      source.mapped.push_back(std::move(mapped));
    }
  }
  return source;
}

std::vector<uint16_t> EncodeDocument(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> ids = tokenizer.Encode(text);
  return {ids.begin(), ids.end()};
}

void AppendWords(std::string& bytes, std::span<const uint64_t> words) {
  bytes.append(reinterpret_cast<const char*>(words.data()), words.size_bytes());
}

// The whole cache file as bytes.
std::string Tokenise(const std::vector<std::vector<TextFile>>& files, const CorpusOptions& options,
                     const Tokenizer& tokenizer) {
  std::vector<SourceText> sources;
  std::vector<std::string_view> texts;  // Of all sources.
  int64_t num_bytes = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    sources.push_back(ReadSource(files[i]));
    if (sources.back().documents.empty()) {
      throw InputError("{}: holds no text, its files are empty", options.sources[i].path.string());
    }
    texts.insert(texts.end(), sources.back().documents.begin(), sources.back().documents.end());
  }
  for (const std::string_view text : texts) num_bytes += static_cast<int64_t>(text.size());

  std::vector<std::vector<uint16_t>> encoded(texts.size());
  ProgressBar progress("tokenising", num_bytes, "bytes");
  std::mutex mutex;
  int64_t done = 0;
  ParallelFor(static_cast<int64_t>(texts.size()), [&](int64_t i) {
    const auto document = static_cast<size_t>(i);
    encoded[document] = EncodeDocument(tokenizer, texts[document]);
    const std::lock_guard lock(mutex);
    progress.Update(done += static_cast<int64_t>(texts[document].size()));
  });
  progress.Finish();

  const std::vector<uint16_t> separator = EncodeDocument(tokenizer, "\n\n");
  std::vector<uint64_t> source_words;
  std::vector<uint64_t> document_words;
  std::vector<uint16_t> tokens;
  size_t document = 0;
  for (const SourceText& source : sources) {
    const size_t source_begin = tokens.size();
    for (size_t i = 0; i < source.documents.size(); ++i, ++document) {
      if (i > 0) tokens.insert(tokens.end(), separator.begin(), separator.end());
      document_words.push_back(tokens.size() - source_begin);
      tokens.insert(tokens.end(), encoded[document].begin(), encoded[document].end());
      document_words.push_back(tokens.size() - source_begin);
      encoded[document] = {};
    }
    source_words.push_back(source.documents.size());
    source_words.push_back(tokens.size() - source_begin);
  }
  std::string bytes;
  const uint64_t header[kHeaderWords] = {kMagic, 0, sources.size(), texts.size(), tokens.size()};
  AppendWords(bytes, header);
  AppendWords(bytes, source_words);
  AppendWords(bytes, document_words);
  bytes.append(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(uint16_t));
  const uint64_t checksum = XXH3_64bits(bytes.data() + 16, bytes.size() - 16);
  std::memcpy(bytes.data() + 8, &checksum, sizeof(checksum));
  return bytes;
}

}  // namespace

struct Corpus::Data {
  struct Source {
    double weight = 1;
    std::span<const TokenSpan> documents;
    std::span<const uint16_t> tokens;
  };

  // Fills `sources` from a cache file; false if it is damaged.
  bool Read(std::span<const std::byte> bytes, const CorpusOptions& options);

  std::unique_ptr<MappedFile> file;
  std::string memory;  // In place of the file where there is no cache folder.
  std::vector<Source> sources;
  double weight_sum = 0;
  int64_t num_tokens = 0;
};

bool Corpus::Data::Read(std::span<const std::byte> bytes, const CorpusOptions& options) {
  const auto* words = reinterpret_cast<const uint64_t*>(bytes.data());
  if (bytes.size() < kHeaderWords * 8 || words[0] != kMagic) return false;
  if (words[1] != XXH3_64bits(bytes.data() + 16, bytes.size() - 16)) return false;
  const uint64_t num_sources = words[2], num_documents = words[3];
  if (num_sources != options.sources.size()) return false;
  const uint64_t* source_words = words + kHeaderWords;
  const auto* documents = reinterpret_cast<const TokenSpan*>(source_words + 2 * num_sources);
  const auto* tokens = reinterpret_cast<const uint16_t*>(documents + num_documents);
  for (uint64_t i = 0; i < num_sources; ++i) {
    const uint64_t own_documents = source_words[2 * i], own_tokens = source_words[2 * i + 1];
    sources.push_back({options.sources[i].weight, {documents, own_documents}, {tokens, own_tokens}});
    weight_sum += options.sources[i].weight;
    documents += own_documents;
    tokens += own_tokens;
  }
  num_tokens = static_cast<int64_t>(words[4]);
  return reinterpret_cast<const std::byte*>(tokens) == bytes.data() + bytes.size();
}

Corpus Corpus::Open(const CorpusOptions& options, const Tokenizer& tokenizer) {
  CheckOptions(options, tokenizer);
  std::vector<std::vector<TextFile>> files;
  for (const TextSource& source : options.sources) files.push_back(ListTextFiles(source.path));
  auto data = std::make_shared<Data>();
  if (options.cache_folder.empty()) {
    data->memory = Tokenise(files, options, tokenizer);
    SLUICE_CHECK(data->Read(std::as_bytes(std::span(data->memory)), options));
    return Corpus(std::move(data));
  }
  std::error_code error;
  fs::create_directories(options.cache_folder, error);
  if (error) {
    throw SystemError("{}: the folder for tokens cannot be made ({})", options.cache_folder.string(),
                      error.message());
  }
  const fs::path path = options.cache_folder / fmt::format("{:016x}.tokens", KeyOf(files, tokenizer));
  if (fs::exists(path)) {
    data->file = std::make_unique<MappedFile>(path);
    if (data->Read(data->file->bytes(), options)) return Corpus(std::move(data));
    data = std::make_shared<Data>();
  }
  WriteFileAtomically(path, Tokenise(files, options, tokenizer));
  data->file = std::make_unique<MappedFile>(path);
  SLUICE_CHECK(data->Read(data->file->bytes(), options));
  return Corpus(std::move(data));
}

int Corpus::num_sources() const {
  return static_cast<int>(data_->sources.size());
}

double Corpus::weight(int source) const {
  return data_->sources.at(static_cast<size_t>(source)).weight;
}

int64_t Corpus::num_documents(int source) const {
  return static_cast<int64_t>(data_->sources.at(static_cast<size_t>(source)).documents.size());
}

int64_t Corpus::num_tokens(int source) const {
  return static_cast<int64_t>(data_->sources.at(static_cast<size_t>(source)).tokens.size());
}

int64_t Corpus::num_tokens() const {
  return data_->num_tokens;
}

std::span<const uint16_t> Corpus::Document(int source, int64_t document) const {
  const Data::Source& from = data_->sources.at(static_cast<size_t>(source));
  SLUICE_CHECK(document >= 0 && document < num_documents(source));
  const TokenSpan span = from.documents[static_cast<size_t>(document)];
  return from.tokens.subspan(span.begin, span.end - span.begin);
}

int Corpus::SampleSource(Random& random) const {
  double rest = random.Uniform() * data_->weight_sum;
  int last = 0;
  for (int i = 0; i < num_sources(); ++i) {
    if (weight(i) <= 0) continue;
    last = i;
    if (rest < weight(i)) return i;
    rest -= weight(i);
  }
  return last;  // Only by rounding.
}

// The document at a uniformly drawn token; an empty line counts to the document before it.
int64_t Corpus::SampleDocumentIndex(Random& random, int source) const {
  const auto documents = data_->sources[static_cast<size_t>(source)].documents;
  const uint64_t place = random.Below(static_cast<uint64_t>(num_tokens(source)));
  const auto next = std::upper_bound(documents.begin(), documents.end(), place,
                                     [](uint64_t at, const TokenSpan& span) { return at < span.begin; });
  return next - documents.begin() - 1;
}

std::span<const uint16_t> Corpus::SampleDocument(Random& random) const {
  const int source = SampleSource(random);
  return Document(source, SampleDocumentIndex(random, source));
}

std::span<const uint16_t> Corpus::SampleSpan(Random& random, int64_t length) const {
  SLUICE_CHECK_GE(length, 0);
  const int source = SampleSource(random);
  const Data::Source& from = data_->sources[static_cast<size_t>(source)];
  const TokenSpan document = from.documents[static_cast<size_t>(SampleDocumentIndex(random, source))];
  const uint64_t total = from.tokens.size();
  const uint64_t wanted = std::min(static_cast<uint64_t>(length), total);
  uint64_t begin = document.begin;
  if (document.end - document.begin >= wanted) {
    begin += random.Below(document.end - document.begin - wanted + 1);
  }
  return from.tokens.subspan(std::min(begin, total - wanted), wanted);
}

}  // namespace sluice
