// A timeline's cache in a file, so that a document read once is not read again: safetensors
// (checkpoint/safetensors.h) with a checksum over every byte, docs/formats/cache.md. The file is mapped and
// its rows are copied into pages.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cache/kv_cache.h"

namespace sluice {

// What the rows depend on beside the tokens; a file is refused where it differs.
struct CacheFileKey {
  std::string model;    // Of all weights and the config.
  std::string options;  // Of the passes.
};

// Writes a timeline as a whole or not at all, with the logits behind it ([vocab]; absent: none). Throws
// SystemError if the disk refuses.
void SaveCache(const std::filesystem::path& path, const KvCache& cache, const CacheFileKey& key,
               const TensorView& logits);

// Reads it into an empty cache; returns the tokens, and the logits, [vocab] or empty. Throws InputError
// naming the file if it is damaged, of another version, model, options or number format, or longer than the
// cache's capacity or its pool has room for; the cache then is empty.
struct LoadedCache {
  std::vector<int32_t> tokens;
  std::vector<float> logits;
};
LoadedCache LoadCache(const std::filesystem::path& path, const CacheFileKey& key, KvCache& cache);

}  // namespace sluice
