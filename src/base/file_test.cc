// Files: what is written is what is read; a write that fails part way, as on a full disk, leaves the
// old file as it was and no temporary behind.
#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

// A folder of its own for each test, removed afterwards.
class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "sluice_file_test_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  size_t NumEntries() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  std::filesystem::path folder_;
};

// Files may not grow over `bytes` while this lives: the write past it fails, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_limit_);
    rlimit limit = old_limit_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_limit_);
    ::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_limit_ = {};
  void (*old_handler_)(int);
};

template <class Error, class Function>
std::string MessageOf(Function function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST_F(FileTest, ReadsBackWhatWasWritten) {
  const std::string text("zero \0 inside\nand a line", 24);
  WriteFileAtomically(folder_ / "a", text);
  EXPECT_EQ(ReadFile(folder_ / "a"), text);
  const MappedFile mapped(folder_ / "a");
  EXPECT_EQ(mapped.text(), text);
  EXPECT_EQ(mapped.path(), folder_ / "a");
  EXPECT_EQ(NumEntries(), 1u);
}

TEST_F(FileTest, LargeFileInPieces) {
  std::string text(3'000'001, 'x');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i % 23);
  AtomicFile file(folder_ / "large");
  for (size_t begin = 0; begin < text.size(); begin += 70'000)
    file.Write(std::string_view(text).substr(begin, 70'000));
  file.Commit();
  EXPECT_EQ(ReadFile(folder_ / "large"), text);
}

TEST_F(FileTest, EmptyFile) {
  WriteFileAtomically(folder_ / "empty", "");
  EXPECT_EQ(ReadFile(folder_ / "empty"), "");
  EXPECT_TRUE(MappedFile(folder_ / "empty").bytes().empty());
}

TEST_F(FileTest, MissingFileAndFolderAreInputErrors) {
  const auto missing = folder_ / "missing.json";
  EXPECT_THAT(MessageOf<InputError>([&] { ReadFile(missing); }), HasSubstr("missing.json: no such file"));
  EXPECT_THAT(MessageOf<InputError>([&] { MappedFile{missing}; }), HasSubstr("missing.json: no such file"));
  EXPECT_THAT(MessageOf<InputError>([&] { ReadFile(folder_); }), HasSubstr("folder"));
  EXPECT_THAT(MessageOf<InputError>([&] { MappedFile{folder_}; }), HasSubstr("folder"));
}

TEST_F(FileTest, WithoutCommitNothingChanges) {
  WriteFileAtomically(folder_ / "a", "old");
  {
    AtomicFile file(folder_ / "a");
    file.Write("new");
    EXPECT_EQ(ReadFile(folder_ / "a"), "old");
  }
  EXPECT_EQ(ReadFile(folder_ / "a"), "old");
  EXPECT_EQ(NumEntries(), 1u);
}

TEST_F(FileTest, CommitReplacesAWholeFile) {
  WriteFileAtomically(folder_ / "a", "a longer old text");
  WriteFileAtomically(folder_ / "a", "new");
  EXPECT_EQ(ReadFile(folder_ / "a"), "new");
}

TEST_F(FileTest, FailedWriteKeepsTheOldFile) {
  WriteFileAtomically(folder_ / "checkpoint", "old");
  std::string message;
  {
    const FileSizeLimit limit(4096);
    message = MessageOf<SystemError>(
        [&] { WriteFileAtomically(folder_ / "checkpoint", std::string(10'000, 'x')); });
  }
  EXPECT_THAT(message, HasSubstr("checkpoint: cannot write"));
  EXPECT_EQ(ReadFile(folder_ / "checkpoint"), "old");
  EXPECT_EQ(NumEntries(), 1u) << "the temporary was left behind";
}

TEST_F(FileTest, LeftoverOfAKilledWriterIsOverwritten) {
  WriteFileAtomically(folder_ / "a.tmp", std::string(1000, 'x'));
  WriteFileAtomically(folder_ / "a", "new");
  EXPECT_EQ(ReadFile(folder_ / "a"), "new");
  EXPECT_EQ(NumEntries(), 1u);
}

TEST_F(FileTest, FolderThatDoesNotExistIsASystemError) {
  EXPECT_THAT(MessageOf<SystemError>([&] { AtomicFile(folder_ / "none" / "a"); }), HasSubstr("No such file"));
  EXPECT_THROW(SyncDirectory(folder_ / "none"), SystemError);
}

TEST_F(FileTest, TargetThatIsAFolderIsASystemError) {
  std::filesystem::create_directory(folder_ / "a");
  EXPECT_THROW(WriteFileAtomically(folder_ / "a", "text"), SystemError);
  EXPECT_TRUE(std::filesystem::is_directory(folder_ / "a"));
  EXPECT_EQ(NumEntries(), 1u);
}

TEST_F(FileTest, WriteAfterCommitIsABug) {
  AtomicFile file(folder_ / "a");
  file.Commit();
  EXPECT_THROW(file.Write("late"), Bug);
  EXPECT_THROW(file.Commit(), Bug);
}

TEST(FolderLockTest, OneHolderAtATime) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "sluice_folder_lock";
  std::filesystem::create_directories(folder);
  {
    const FolderLock lock(folder);
    EXPECT_THROW(FolderLock{folder}, InputError);
  }
  EXPECT_NO_THROW(FolderLock{folder});
  EXPECT_THROW(FolderLock{folder / "missing"}, SystemError);
}

}  // namespace
}  // namespace sluice
