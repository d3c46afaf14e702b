// Timelines that share pages, that come from files and that are kept in fewer bits: the same bits as alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/threads.h"
#include "engine/session.h"
#include "engine/testing.h"

namespace sluice {
namespace {

using testing::FreshLogits;
using ::testing::HasSubstr;
using testing::LogitsOf;
using testing::RandomTokens;
using testing::TinyConfig;
using testing::TinyEngine;

constexpr DType kFormats[] = {DType::kF32, DType::kBF16, DType::kI8};

SessionOptions OptionsFor(DType format, int64_t capacity = 2000) {
  SessionOptions options;
  options.capacity = capacity;
  options.cache_format = format;
  return options;
}

template <class Body>
std::string ErrorOf(const Body& body) {
  try {
    body();
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

// A file of its own in the temporary folder, gone with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& name)
      : path_(std::filesystem::temp_directory_path() / fmt::format("sluice_{}_{}", ::getpid(), name)) {}
  ~TemporaryFile() { std::filesystem::remove(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

TEST(SessionCacheTest, EveryFormatIsTheSameForAllChunksAndThreads) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(700, 1);
  const int threads = NumThreads();
  for (const DType format : kFormats) {
    for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
      SessionOptions options = OptionsFor(format);
      options.attention = mode;
      const std::vector<float> whole = FreshLogits(*engine, tokens, options);
      for (const int64_t chunk : {1, 17, 64, 100}) {
        options.chunk_tokens = chunk;
        SetNumThreads(chunk == 17 ? 1 : 2);
        EXPECT_EQ(FreshLogits(*engine, tokens, options), whole) << NameOf(format) << ", chunk " << chunk;
      }
      SetNumThreads(threads);
    }
  }
}

TEST(SessionCacheTest, FormatsAreCloseToFloats) {
  const auto engine = TinyEngine();
  const std::vector<int32_t> tokens = RandomTokens(700, 2);
  SessionOptions options = OptionsFor(DType::kF32);
  options.attention = AttentionMode::kDense;  // A selection may change with the last bit of a key.
  const std::vector<float> exact = FreshLogits(*engine, tokens, options);
  for (const auto& [format, tolerance] : {std::pair{DType::kBF16, 0.01f}, {DType::kI8, 0.03f}}) {
    options.cache_format = format;
    const std::vector<float> logits = FreshLogits(*engine, tokens, options);
    EXPECT_NE(logits, exact);
    for (size_t i = 0; i < exact.size(); ++i) EXPECT_NEAR(logits[i], exact[i], tolerance) << NameOf(format);
  }
}

TEST(SessionCacheTest, ForksGoOnByThemselves) {
  const auto engine = TinyEngine();
  for (const DType format : kFormats) {
    for (const int64_t length : {64, 100, 300}) {
      SessionOptions options = OptionsFor(format, 600);
      options.pool_tokens = 1800;
      std::vector<int32_t> a = RandomTokens(length, 3);
      std::vector<int32_t> b = a;
      Session first(*engine, options);
      first.Sync(a);
      Session second = first.Fork();
      EXPECT_EQ(LogitsOf(second), LogitsOf(first));
      // Only the pages that both go on in are kept twice.
      const int64_t shared = first.cache().pool()->num_pages() - first.cache().pool()->num_free();
      EXPECT_EQ(shared, PagesFor(length));
      for (const int32_t token : RandomTokens(90, 4)) a.push_back(token), first.Append(token);
      for (const int32_t token : RandomTokens(70, 5)) b.push_back(token), second.Append(token);
      Session third = second.Fork();
      EXPECT_EQ(LogitsOf(first), FreshLogits(*engine, a, options));
      EXPECT_EQ(LogitsOf(second), FreshLogits(*engine, b, options));
      EXPECT_EQ(third.tokens(), b);
      EXPECT_EQ(LogitsOf(third), LogitsOf(second));
      first.cache().CheckIntegrity();
      second.cache().CheckIntegrity();
      // Back into the common part and on another way.
      b.resize(static_cast<size_t>(length));
      b[static_cast<size_t>(length) - 10] = 7;
      third.Sync(b);
      EXPECT_EQ(LogitsOf(third), FreshLogits(*engine, b, options));
      EXPECT_EQ(LogitsOf(first), FreshLogits(*engine, a, options));
    }
  }
}

TEST(SessionCacheTest, AForkWithoutRoomSaysSoAndStaysAsItIs) {
  const auto engine = TinyEngine();
  Session first(*engine, OptionsFor(DType::kF32, 256));
  first.Sync(RandomTokens(200, 6));
  Session second = first.Fork();
  // The last page would have to be there twice.
  const std::vector<float> logits = LogitsOf(second);
  EXPECT_THAT(ErrorOf([&] { second.Append(3); }), HasSubstr("pages"));
  EXPECT_EQ(second.num_tokens(), 200);
  EXPECT_EQ(LogitsOf(second), logits);
  first.Clear();
  second.Append(3);
  EXPECT_EQ(second.num_tokens(), 201);
}

TEST(SessionCacheTest, TruncateReturnsToWholePages) {
  const auto engine = TinyEngine();
  std::vector<int32_t> tokens = RandomTokens(300, 8);
  Session session(*engine, OptionsFor(DType::kBF16));
  session.Sync(tokens);
  EXPECT_EQ(session.Truncate(300), 300);
  EXPECT_TRUE(session.has_logits());
  EXPECT_EQ(session.Truncate(200), 192);
  EXPECT_FALSE(session.has_logits());
  tokens.resize(192);
  EXPECT_EQ(session.tokens(), tokens);
  for (const int32_t token : RandomTokens(30, 9)) tokens.push_back(token);
  session.Sync(tokens);
  EXPECT_EQ(LogitsOf(session), FreshLogits(*engine, tokens, OptionsFor(DType::kBF16)));
}

TEST(SessionCacheTest, FilesGiveBackTheSameBits) {
  const auto engine = TinyEngine();
  for (const DType format : kFormats) {
    for (const int64_t length : {1, 64, 333}) {
      const TemporaryFile file("timeline");
      const SessionOptions options = OptionsFor(format);
      std::vector<int32_t> tokens = RandomTokens(length, 10);
      Session saved(*engine, options);
      saved.Sync(tokens);
      saved.Save(file.path());
      Session loaded(*engine, options);
      loaded.Sync(RandomTokens(100, 11));
      loaded.Load(file.path());
      loaded.cache().CheckIntegrity();
      EXPECT_EQ(loaded.tokens(), tokens);
      EXPECT_EQ(LogitsOf(loaded), LogitsOf(saved));
      EXPECT_EQ(loaded.Sync(tokens).computed_tokens, 0);
      for (const int32_t token : RandomTokens(70, 12)) tokens.push_back(token), loaded.Append(token);
      EXPECT_EQ(LogitsOf(loaded), FreshLogits(*engine, tokens, options));
    }
  }
}

TEST(SessionCacheTest, TreesAreThereAgainAfterLoading) {
  const auto engine = TinyEngine();
  SessionOptions options = OptionsFor(DType::kI8);
  options.index = GateIndex::kTree;
  options.tree_group = 256;
  options.tree.beam = 8;
  std::vector<int32_t> tokens = RandomTokens(1500, 13);
  const TemporaryFile file("tree");
  Session session(*engine, options);
  session.Sync(tokens);
  session.Save(file.path());
  Session loaded(*engine, options);
  loaded.Load(file.path());
  loaded.cache().CheckIntegrity();
  Session fork = session.Fork();
  fork.cache().CheckIntegrity();
  for (const int32_t token : RandomTokens(30, 14)) {
    session.Append(token);
    loaded.Append(token);
    fork.Append(token);
  }
  EXPECT_EQ(LogitsOf(loaded), LogitsOf(session));
  EXPECT_EQ(LogitsOf(fork), LogitsOf(session));
}

TEST(SessionCacheTest, FilesThatDoNotFitAreRefused) {
  const auto engine = TinyEngine();
  const TemporaryFile file("refused");
  const SessionOptions options = OptionsFor(DType::kBF16);
  Session session(*engine, options);
  EXPECT_THAT(ErrorOf([&] { session.Save(file.path()); }), HasSubstr("nothing to save"));
  session.Sync(RandomTokens(200, 15));
  session.Save(file.path());
  const auto error_with = [&](const Engine& other, const SessionOptions& changed) {
    Session target(other, changed);
    const std::string error = ErrorOf([&] { target.Load(file.path()); });
    EXPECT_EQ(target.num_tokens(), error.empty() ? 200 : 0);
    target.cache().CheckIntegrity();
    return error;
  };
  EXPECT_EQ(error_with(*engine, options), "");
  EXPECT_THAT(error_with(*TinyEngine(TinyConfig(), 2), options), HasSubstr("model"));
  EXPECT_THAT(error_with(*engine, OptionsFor(DType::kI8)), HasSubstr("format"));
  EXPECT_THAT(error_with(*engine, OptionsFor(DType::kBF16, 199)), HasSubstr("room for 199"));
  SessionOptions changed = options;
  changed.top_k = 5;
  EXPECT_THAT(error_with(*engine, changed), HasSubstr("top_k 5"));
}

TEST(SessionCacheTest, DamagedFilesAreRefused) {
  const auto engine = TinyEngine();
  const TemporaryFile file("damaged");
  Session session(*engine, OptionsFor(DType::kI8));
  session.Sync(RandomTokens(130, 16));
  session.Save(file.path());
  std::string bytes;
  {
    std::ifstream in(file.path(), std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  const auto write = [&](const std::string& content) {
    std::ofstream(file.path(), std::ios::binary) << content;
  };
  Random random(17);
  for (int i = 0; i < 300; ++i) {
    std::string damaged = bytes;
    if (i % 3 == 0) {
      damaged.resize(random.Below(bytes.size()));
    } else {
      // Half of the flips in the header, which is short.
      const size_t at =
          i % 3 == 1 ? random.Below(bytes.size()) : random.Below(std::min<size_t>(4000, bytes.size()));
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << random.Below(8)));
    }
    write(damaged);
    Session target(*engine, OptionsFor(DType::kI8));
    EXPECT_NE(ErrorOf([&] { target.Load(file.path()); }), "") << i;
    EXPECT_EQ(target.num_tokens(), 0);
  }
  write(bytes);
  Session target(*engine, OptionsFor(DType::kI8));
  target.Load(file.path());
  EXPECT_EQ(LogitsOf(target), LogitsOf(session));
}

TEST(SessionCacheTest, SessionsShareKnownPrefixes) {
  const auto engine = TinyEngine();
  SessionOptions options = OptionsFor(DType::kBF16, 1000);
  const int64_t page = 64, bytes_per_page = [&] {
    KvCacheShape shape = SessionCacheShape(*engine, options);
    return shape.BytesPerPage();
  }();
  options.prefixes = MakePrefixTree(*engine, options, 40 * bytes_per_page);
  const std::vector<int32_t> document = RandomTokens(600, 18);
  std::vector<int32_t> tokens = document;
  for (const int32_t token : RandomTokens(50, 19)) tokens.push_back(token);
  {
    Session first(*engine, options);
    EXPECT_EQ(first.Sync(document).reused_tokens, 0);
  }
  Session second(*engine, options);
  EXPECT_EQ(second.Sync(tokens).reused_tokens, 600 / page * page);
  second.cache().CheckIntegrity();
  SessionOptions alone = options;
  alone.prefixes = nullptr;
  EXPECT_EQ(LogitsOf(second), FreshLogits(*engine, tokens, alone));
  // Under other options nothing is known.
  SessionOptions other = options;
  other.top_k = 3;
  Session third(*engine, other);
  EXPECT_EQ(third.Sync(document).reused_tokens, 0);
  // Documents that do not fit together push out the oldest.
  for (uint64_t seed = 20; seed < 25; ++seed) {
    Session session(*engine, options);
    const std::vector<int32_t> next = RandomTokens(900, seed);
    session.Sync(next);
    EXPECT_EQ(LogitsOf(session), FreshLogits(*engine, next, alone));
  }
  options.prefixes->CheckIntegrity();
  EXPECT_EQ(LogitsOf(second), FreshLogits(*engine, tokens, alone));
  Session late(*engine, options);
  EXPECT_EQ(late.Sync(RandomTokens(900, 24)).reused_tokens, 896);
}

TEST(SessionCacheTest, BudgetsAndFormatsThatDoNotFit) {
  const auto engine = TinyEngine();
  SessionOptions options = OptionsFor(DType::kBF16, 1000);
  EXPECT_THAT(ErrorOf([&] { MakePrefixTree(*engine, options, 1000); }),
              HasSubstr("one session of 1000 tokens needs"));
  options.prefixes = MakePrefixTree(*engine, options, 10'000'000);
  options.cache_format = DType::kI8;
  EXPECT_THAT(ErrorOf([&] { Session(*engine, options); }), HasSubstr("cache format"));
  options.prefixes = nullptr;
  options.pool_tokens = 999;
  EXPECT_THAT(ErrorOf([&] { Session(*engine, options); }), HasSubstr("999"));
  options.pool_tokens = 0;
  options.cache_format = DType::kI32;
  EXPECT_THAT(ErrorOf([&] { Session(*engine, options); }), HasSubstr("i32"));
}

TEST(SessionCacheTest, MemoryIsWhatWasPredicted) {
  const auto engine = TinyEngine();
  for (const DType format : kFormats) {
    SessionOptions options = OptionsFor(format, 3000);
    options.index = GateIndex::kTree;
    options.tree_group = 256;
    const KvCacheShape shape = SessionCacheShape(*engine, options);
    Session session(*engine, options);
    for (const int64_t tokens : {1, 64, 65, 2000}) {
      session.Sync(RandomTokens(tokens, 26));
      EXPECT_EQ(session.cache().bytes(), shape.BytesFor(tokens, 3000)) << tokens;
      EXPECT_EQ(session.cache().pool()->bytes_in_use(), PagesFor(tokens) * shape.BytesPerPage());
    }
    // And what a page takes is what its rows take.
    int64_t bytes = 0;
    for (const PagePool::Kind& kind : session.cache().pool()->Kinds())
      bytes += kind.rows.dim(1) * static_cast<int64_t>(SizeOf(kind.rows.dtype()));
    EXPECT_EQ(bytes, shape.BytesPerPage());
  }
}

}  // namespace
}  // namespace sluice
