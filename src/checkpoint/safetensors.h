// Weight files in the safetensors format: 8 bytes of header length (little endian), a JSON header
// {name: {dtype, shape, data_offsets}}, then the tensors' bytes without holes.
//
// Reading maps the file and checks the header completely (length, JSON, types, shapes, offsets in
// bounds, sizes, no overlap, no hole), so that no later access can leave the file. Writing goes
// through AtomicFile, starts the data at a multiple of 64 bytes, and records in the metadata, under
// "sluice.xxh3", 16 hexadecimal digits: XXH3-64 of every byte after the first 8, with these digits
// taken as zeros. Verify() recomputes it: a single flipped bit anywhere is found.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace sluice {

// Where a tensor lies in a file. `begin` and `end` are bytes from the start of the data section.
struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// A read-only, memory-mapped file. Every error is an InputError that names the file, what is wrong
// and what to do; a missing file is one too.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  // In the order of their bytes in the file.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }
  bool Has(std::string_view name) const { return index_.find(name) != index_.end(); }
  // Throws InputError if there is no such tensor.
  const StoredTensor& Find(std::string_view name) const;

  // The tensor's bytes in place: read-only pages, valid while this object lives. kBF16 and kF16 are
  // reached through raw(), as uint16_t. Throws InputError if the file holds it at an address its type
  // cannot be read from (possible in files of other programs; ReadInto works there too).
  TensorView View(std::string_view name) const;

  // A tensor's bytes need not stay in memory: its pages are read again where they are used again.
  void Forget(std::string_view name) const;

  // Copies a tensor of type F32, BF16, F16 or F64 into `destination`, rounding F64 to nearest.
  // REQUIRES: destination is kF32. Throws InputError if shapes differ or the stored type is an integer.
  void ReadInto(std::string_view name, const TensorView& destination) const;

  // Reads all bytes and compares them with the checksum in the metadata. True if they agree, false if
  // the file carries no checksum; throws InputError if they differ.
  bool Verify() const;
  // 16 digits that tell this file from others: the recorded checksum or, in a file of another program,
  // XXH3-64 of every byte after the first 8.
  std::string Checksum() const;

 private:
  void ParseHeader(std::string_view header, uint64_t data_bytes);
  void CheckCoverage(uint64_t data_bytes);
  const std::byte* data_begin() const { return file_.bytes().data() + data_offset_; }

  MappedFile file_;
  uint64_t data_offset_ = 0;  // From the start of the file.
  std::vector<StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, size_t, std::less<>> index_;
};

// One tensor to be written. `stored` is either the type of `values`, or kBF16 or kF16 where `values` is
// kF32 (rounded to nearest even).
struct TensorToStore {
  std::string name;
  TensorView values;
  DType stored = DType::kF32;
};

// Writes `path` as a whole or not at all. Tensors whose size is a multiple of 64 bytes come first (so
// that each is 64-byte aligned), the others by falling element size; within these groups in the given
// order. "sluice.xxh3" is added to `metadata`. Throws InputError for a duplicate name or text that is
// not UTF-8, SystemError if the disk refuses.
void WriteSafetensors(const std::filesystem::path& path, const std::vector<TensorToStore>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace sluice
