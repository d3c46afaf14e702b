// A folder that appears when it is whole.
#pragma once

#include <filesystem>
#include <system_error>

#include "base/error.h"
#include "base/file.h"

namespace sluice {

// A folder under a temporary name beside `path`; it goes away again unless it is committed. Throws InputError
// if `path` exists, SystemError if the system refuses.
class PendingFolder {
 public:
  explicit PendingFolder(const std::filesystem::path& path) : path_(path), temporary_(path) {
    if (std::filesystem::exists(path_)) {
      throw InputError("{}: exists already; name a folder that does not, or remove it", path_.string());
    }
    temporary_ += ".tmp";
    std::error_code error;
    std::filesystem::remove_all(temporary_, error);  // Of a run that was killed.
    std::filesystem::create_directories(temporary_, error);
    if (error) throw SystemError("{}: cannot make the folder: {}", temporary_.string(), error.message());
  }
  ~PendingFolder() {
    std::error_code ignored;
    if (!committed_) std::filesystem::remove_all(temporary_, ignored);
  }
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;

  const std::filesystem::path& temporary() const { return temporary_; }
  void Commit() {
    std::error_code error;
    std::filesystem::rename(temporary_, path_, error);
    if (error)
      throw SystemError("{}: cannot rename the finished folder to it: {}", path_.string(), error.message());
    committed_ = true;
    SyncDirectory(std::filesystem::absolute(path_).parent_path());
  }

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  bool committed_ = false;
};

}  // namespace sluice
