// POSIX files: every failure names the file and carries the system's own reason; no descriptor leaks
// on any path, and an interrupted call (EINTR) is repeated.
#include "base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace sluice {
namespace {

// Closes a descriptor at the end of a scope.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string Reason() {
  return std::strerror(errno);
}

// Opens a regular file for reading and reports its size.
int OpenRegular(const std::filesystem::path& path, size_t* size) {
  int fd;
  do fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) throw InputError("{}: no such file", path.string());
    if (errno == EACCES) throw InputError("{}: no permission to read this file", path.string());
    throw SystemError("{}: cannot open for reading: {}", path.string(), Reason());
  }
  struct stat status;
  if (::fstat(fd, &status) != 0) {
    const std::string reason = Reason();
    ::close(fd);
    throw SystemError("{}: cannot read the file's size: {}", path.string(), reason);
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(fd);
    throw InputError("{}: is not a regular file{}", path.string(),
                     S_ISDIR(status.st_mode) ? " but a folder" : "");
  }
  *size = static_cast<size_t>(status.st_size);
  return fd;
}

}  // namespace

std::string ReadFile(const std::filesystem::path& path) {
  size_t size = 0;
  const Descriptor file(OpenRegular(path, &size));
  std::string text(size, '\0');
  size_t done = 0;
  while (true) {
    if (done == text.size()) text.resize(text.size() + 4096);  // The file may have grown meanwhile.
    const ssize_t n = ::read(file.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw SystemError("{}: cannot read: {}", path.string(), Reason());
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return text;
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const Descriptor file(OpenRegular(path, &size_));
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) throw SystemError("{}: cannot map into memory: {}", path.string(), Reason());
  data_ = static_cast<const std::byte*>(address);
}

void MappedFile::Forget(size_t begin, size_t end) const {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  begin = (begin + page - 1) / page * page;
  end = std::min(end, size_) / page * page;
  if (begin >= end) return;
  ::madvise(const_cast<std::byte*>(data_) + begin, end - begin,
            MADV_DONTNEED);  // A hint: no matter if it fails.
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)), temporary_(path_) {
  temporary_ += ".tmp";
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) throw SystemError("{}: cannot create: {}", temporary_.string(), Reason());
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::Write(std::span<const std::byte> bytes) {
  SLUICE_CHECK(descriptor_ >= 0);  // Not after Commit().
  while (!bytes.empty()) {
    const ssize_t n = ::write(descriptor_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw SystemError("{}: cannot write: {}", path_.string(), Reason());
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void AtomicFile::Write(std::string_view text) {
  Write(std::as_bytes(std::span<const char>(text.data(), text.size())));
}

void AtomicFile::Commit() {
  SLUICE_CHECK(descriptor_ >= 0);
  if (::fsync(descriptor_) != 0) throw SystemError("{}: cannot sync to disk: {}", path_.string(), Reason());
  if (::rename(temporary_.c_str(), path_.c_str()) != 0)
    throw SystemError("{}: cannot put the new file in place: {}", path_.string(), Reason());
  ::close(std::exchange(descriptor_, -1));
  SyncDirectory(path_.parent_path());
}

void WriteFileAtomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.Write(text);
  file.Commit();
}

FolderLock::FolderLock(const std::filesystem::path& folder) {
  descriptor_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor_ < 0) throw SystemError("{}: cannot open the folder: {}", folder.string(), Reason());
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const bool held = errno == EWOULDBLOCK;
    const std::string reason = Reason();
    ::close(descriptor_);
    if (held)
      throw InputError("{}: another process is working in this folder; wait for it or stop it",
                       folder.string());
    throw SystemError("{}: cannot lock the folder: {}", folder.string(), reason);
  }
}

FolderLock::~FolderLock() {
  ::close(descriptor_);
}

void RequireWritable(const std::filesystem::path& folder) {
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    throw SystemError("{}: cannot write in this folder: {}", folder.string(), Reason());
}

void SyncDirectory(const std::filesystem::path& directory) {
  const std::filesystem::path name = directory.empty() ? "." : directory;
  const Descriptor folder(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) throw SystemError("{}: cannot open the folder: {}", name.string(), Reason());
  // Some file systems (network mounts) have no sync of folders and say EINVAL: nothing to be done.
  if (::fsync(folder.get()) != 0 && errno != EINVAL)
    throw SystemError("{}: cannot sync the folder: {}", name.string(), Reason());
}

}  // namespace sluice
