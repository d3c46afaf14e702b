#include "cache/cache_file.h"

#include <charconv>
#include <cstring>

#include "checkpoint/safetensors.h"

namespace sluice {

namespace {

constexpr const char* kVersion = "2";
constexpr const char* kLogits = "logits";

std::string HistoryName(int64_t gate) {
  return fmt::format("gates.{}.conv_history", gate);
}

// One kind of row of the timeline's pages, in their order: in place where they lie side by side, else
// gathered.
TensorView PagesOf(const PagePool::Kind& kind, std::span<const int32_t> pages,
                   std::vector<Buffer>& gathered) {
  const auto count = std::ssize(pages);
  const int64_t elements = kind.rows.dim(1);
  bool side_by_side = true;
  for (size_t i = 1; i < pages.size(); ++i) side_by_side &= pages[i] == pages[i - 1] + 1;
  if (side_by_side && count > 0) return kind.rows.Rows(pages[0], pages[0] + count);
  const TensorView rows = gathered.emplace_back(kind.rows.dtype(), Shape{count, elements}).view();
  const size_t bytes = static_cast<size_t>(elements) * SizeOf(kind.rows.dtype());
  for (size_t i = 0; i < pages.size(); ++i) {
    std::memcpy(static_cast<std::byte*>(rows.raw()) + i * bytes,
                static_cast<const std::byte*>(kind.rows.raw()) + static_cast<size_t>(pages[i]) * bytes,
                bytes);
  }
  return rows;
}

const std::string& Entry(const SafetensorsFile& file, const std::string& name) {
  const auto found = file.metadata().find(name);
  if (found == file.metadata().end()) {
    throw InputError("{} is not a saved cache: its metadata has no \"{}\"", file.path().string(), name);
  }
  return found->second;
}

void CheckEntry(const SafetensorsFile& file, const std::string& name, const std::string& expected,
                const char* remedy) {
  const std::string& value = Entry(file, name);
  if (value == expected) return;
  throw InputError("{}: this cache was made with another {}: {}, here it is {}; {}", file.path().string(),
                   name.substr(name.find('.') + 1), value, expected, remedy);
}

int64_t NumTokens(const SafetensorsFile& file) {
  const std::string& text = Entry(file, "cache.tokens");
  int64_t tokens = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), tokens);
  if (error != std::errc() || end != text.data() + text.size() || tokens < 1) {
    throw InputError("{} says that it holds \"{}\" tokens; a saved cache holds at least one",
                     file.path().string(), text);
  }
  return tokens;
}

// A stored tensor of the type and shape that this cache needs.
TensorView FindRows(const SafetensorsFile& file, const std::string& name, DType dtype, const Shape& shape) {
  const StoredTensor& stored = file.Find(name);
  if (stored.dtype != dtype || stored.shape != shape) {
    throw InputError("{}: {} is {} {}, but this model needs {} {}", file.path().string(), name,
                     NameOf(stored.dtype), stored.shape.ToString(), NameOf(dtype), shape.ToString());
  }
  return file.View(name);
}

}  // namespace

void SaveCache(const std::filesystem::path& path, const KvCache& cache, const CacheFileKey& key,
               const TensorView& logits) {
  const auto pages = std::span(cache.pages()).first(static_cast<size_t>(PagesFor(cache.num_tokens())));
  std::vector<Buffer> gathered;
  std::vector<TensorToStore> tensors;
  const auto store = [&](const std::string& name, const TensorView& rows) {
    if (rows.num_elements() > 0) tensors.push_back({name, rows, rows.dtype()});
  };
  for (const PagePool::Kind& kind : cache.pool()->Kinds()) store(kind.name, PagesOf(kind, pages, gathered));
  for (int64_t gate = 0; gate < cache.shape().num_gates; ++gate)
    store(HistoryName(gate), cache.ConvHistory(gate));
  if (logits.present()) store(kLogits, logits);
  WriteSafetensors(path, tensors,
                   {{"cache.version", kVersion},
                    {"cache.model", key.model},
                    {"cache.options", key.options},
                    {"cache.format", std::string(NameOf(cache.shape().format))},
                    {"cache.tokens", fmt::format("{}", cache.num_tokens())}});
}

LoadedCache LoadCache(const std::filesystem::path& path, const CacheFileKey& key, KvCache& cache) {
  SLUICE_CHECK_EQ(cache.num_tokens(), 0);
  const SafetensorsFile file(path);
  CheckEntry(file, "cache.version", kVersion, "delete the file, and have the document read again");
  CheckEntry(file, "cache.model", key.model,
             "it fits only the weights that made it; delete the file, and have the document read again");
  CheckEntry(file, "cache.options", key.options,
             "give the same ones, or delete the file and have the document read again");
  CheckEntry(file, "cache.format", std::string(NameOf(cache.shape().format)),
             "give the same one, or delete the file and have the document read again");
  if (!file.Verify()) throw InputError("{} carries no checksum: it is not a saved cache", path.string());
  const int64_t num_tokens = NumTokens(file);
  if (num_tokens > cache.capacity()) {
    throw InputError("{} holds {} tokens, but there is room for {}", path.string(), num_tokens,
                     cache.capacity());
  }
  const int64_t num_pages = PagesFor(num_tokens);
  const auto rows_of = [&](const PagePool::Kind& kind) {
    return FindRows(file, kind.name, kind.rows.dtype(), {num_pages, kind.rows.dim(1)});
  };
  // Everything is checked before anything is changed.
  const std::vector<PagePool::Kind> kinds = cache.pool()->Kinds();
  for (const PagePool::Kind& kind : kinds)
    if (kind.rows.dim(1) > 0) rows_of(kind);
  std::vector<TensorView> history;
  for (int64_t gate = 0; gate < cache.shape().num_gates; ++gate) {
    const TensorView own = cache.ConvHistory(gate);
    history.push_back(own.num_elements() > 0 ? FindRows(file, HistoryName(gate), DType::kF32, own.shape())
                                             : own);
  }
  if (!cache.Reserve(num_tokens)) {
    throw InputError("{} holds {} tokens, but the cache's pool has only {} free pages of {}", path.string(),
                     num_tokens, cache.pool()->num_free(), kPageRows);
  }
  for (const PagePool::Kind& kind : kinds) {
    const size_t bytes = static_cast<size_t>(kind.rows.dim(1)) * SizeOf(kind.rows.dtype());
    if (bytes == 0) continue;
    const auto* from = static_cast<const std::byte*>(rows_of(kind).raw());
    for (int64_t i = 0; i < num_pages; ++i) {
      const auto page = static_cast<size_t>(cache.pages()[static_cast<size_t>(i)]);
      std::memcpy(static_cast<std::byte*>(kind.rows.raw()) + page * bytes,
                  from + static_cast<size_t>(i) * bytes, bytes);
    }
  }
  cache.RestoreTail(num_tokens, history);
  LoadedCache loaded;
  loaded.tokens.resize(static_cast<size_t>(num_tokens));
  cache.CopyTokens(0, num_tokens, loaded.tokens.data());
  if (file.Has(kLogits)) {
    const StoredTensor& stored = file.Find(kLogits);
    const TensorView logits = FindRows(file, kLogits, DType::kF32, stored.shape);
    loaded.logits.assign(logits.data<float>(), logits.data<float>() + logits.num_elements());
  }
  return loaded;
}

}  // namespace sluice
