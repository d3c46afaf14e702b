// The small parts of base: checks and their messages, the interrupt flag, trace totals, progress and
// the formats it shares.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/trace.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

TEST(CheckTest, PassesSilently) {
  EXPECT_NO_THROW(SLUICE_CHECK(true));
  EXPECT_NO_THROW(SLUICE_CHECK_EQ(2, 2));
  EXPECT_NO_THROW(SLUICE_CHECK_LT(1, 2));
}

TEST(CheckTest, MessageHasPlaceAndBothValues) {
  try {
    SLUICE_CHECK_EQ(1 + 1, 3);
    FAIL();
  } catch (const Bug& bug) {
    EXPECT_THAT(bug.what(), HasSubstr("src/base/base_test.cc:"));
    EXPECT_THAT(bug.what(), HasSubstr("1 + 1 == 3 (left is 2, right is 3)"));
  }
  EXPECT_THROW(SLUICE_CHECK(false), Bug);
  EXPECT_THROW(SLUICE_CHECK_NE(1, 1), Bug);
  EXPECT_THROW(SLUICE_CHECK_GE(1, 2), Bug);
}

TEST(CheckTest, EvaluatesItsArgumentsOnce) {
  int calls = 0;
  const auto next = [&] { return ++calls; };
  SLUICE_CHECK_EQ(next(), 1);
  EXPECT_EQ(calls, 1);
}

TEST(ErrorTest, KindsShareOneBase) {
  EXPECT_THROW(throw InputError("{} is {}", "--k", 0), Error);
  EXPECT_THROW(throw SystemError("disk {}", 1), Error);
  EXPECT_STREQ(InputError("{} is {}", "--k", 0).what(), "--k is 0");
}

TEST(InterruptDeathTest, FirstSignalSetsTheFlagOneMuchLaterEndsTheProcess) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        InstallInterruptHandler();
        if (InterruptRequested()) ::_exit(1);
        ::raise(SIGINT);
        if (!InterruptRequested()) ::_exit(2);
        ::raise(SIGINT);  // the same request again
        std::this_thread::sleep_for(std::chrono::milliseconds(600));
        ::raise(SIGTERM);
        ::_exit(3);
      },
      ::testing::ExitedWithCode(128 + SIGTERM), "");
  EXPECT_FALSE(InterruptRequested());
}

void Spin(std::chrono::microseconds duration) {
  const auto end = std::chrono::steady_clock::now() + duration;
  while (std::chrono::steady_clock::now() < end) {
  }
}

TEST(TraceTest, OffRecordsNothing) {
  ResetTrace();
  EnableTracing(false);
  { const TraceSpan span("test.off"); }
  EXPECT_TRUE(TraceTotals().empty());
}

TEST(TraceTest, TotalsByNameLargestFirst) {
  ResetTrace();
  EnableTracing(true);
  for (int i = 0; i < 3; ++i) const TraceSpan span("test.short");
  {
    const TraceSpan span("test.long");
    Spin(std::chrono::milliseconds(2));
  }
  EnableTracing(false);
  const auto totals = TraceTotals();
  ASSERT_EQ(totals.size(), 2u);
  EXPECT_EQ(totals[0].name, "test.long");
  EXPECT_EQ(totals[0].calls, 1);
  EXPECT_GE(totals[0].seconds, 0.002);
  EXPECT_EQ(totals[1].name, "test.short");
  EXPECT_EQ(totals[1].calls, 3);
  ResetTrace();
  EXPECT_TRUE(TraceTotals().empty());
}

TEST(ProgressTest, ShortWorkPrintsNothing) {
  ::testing::internal::CaptureStderr();
  {
    ProgressBar bar("load", 100, "rows");
    for (int i = 0; i <= 100; ++i) bar.Update(i);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(ProgressTest, LongWorkPrintsALinePerTenth) {
  ::testing::internal::CaptureStderr();
  {
    ProgressBar bar("train", 1000, "tokens");
    bar.Update(500);  // A resumed run.
    std::this_thread::sleep_for(std::chrono::milliseconds(2050));
    for (int i = 600; i <= 1000; i += 20) bar.Update(i, "loss 3.214");
  }
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5) << text;
  EXPECT_THAT(text, HasSubstr("train [##############..........]  60%  600/1000 tokens"));
  EXPECT_THAT(text, HasSubstr("100%  1000/1000 tokens"));
  EXPECT_THAT(text, HasSubstr("loss 3.214"));
  EXPECT_THAT(text, HasSubstr("left"));
}

TEST(FormatTest, Durations) {
  EXPECT_EQ(FormatDuration(0), "0.0 s");
  EXPECT_EQ(FormatDuration(12.34), "12.3 s");
  EXPECT_EQ(FormatDuration(59.97), "1m 00s");
  EXPECT_EQ(FormatDuration(185), "3m 05s");
  EXPECT_EQ(FormatDuration(3599.6), "1h 00m");
  EXPECT_EQ(FormatDuration(3720), "1h 02m");
  EXPECT_EQ(FormatDuration(-1), "?");
}

TEST(FormatTest, Bytes) {
  EXPECT_EQ(FormatBytes(512), "512 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(24.0 * (1 << 20)), "24.0 MiB");
  EXPECT_EQ(FormatBytes(1.5 * (1 << 30)), "1.50 GiB");
}

}  // namespace
}  // namespace sluice
