// Files: whole reads, read-only memory maps, and atomic writes (temporary name, fsync, rename), so
// that a reader never sees half a file and a full disk or a kill loses nothing that was there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace sluice {

// The whole file. Throws InputError if it does not exist or is not a regular file, SystemError on a
// read failure.
std::string ReadFile(const std::filesystem::path& path);

// A read-only mapping of a whole file; an empty file maps to an empty span. Throws as ReadFile does.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }
  // Bytes [begin, end) need not stay in this process's memory: they are read from the file again where they
  // are used again.
  void Forget(size_t begin, size_t end) const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Writes `path` as a whole or not at all: bytes go to "<path>.tmp", Commit() syncs and renames.
// Destroyed without Commit(), it removes the temporary and leaves `path` as it was. Throws
// SystemError (naming the file and the reason, for example no space left) from any call.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void Write(std::span<const std::byte> bytes);
  void Write(std::string_view text);
  void Commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

// AtomicFile in one call.
void WriteFileAtomically(const std::filesystem::path& path, std::string_view text);

// Holds a folder for this process: the lock goes with the object, and with the process however it ends.
class FolderLock {
 public:
  // Throws InputError naming the folder if another process holds it.
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_ = -1;
};

// Throws SystemError naming the folder and the reason if this process may not write in it.
void RequireWritable(const std::filesystem::path& folder);

// Syncs a directory's entries, after a rename in it.
void SyncDirectory(const std::filesystem::path& directory);

}  // namespace sluice
