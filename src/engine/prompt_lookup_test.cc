#include "engine/prompt_lookup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Tokens = std::vector<int32_t>;

TEST(PromptLookupTest, TakesWhatFollowedTheNewestTokens) {
  EXPECT_THAT(PromptLookup(Tokens{1, 2, 3, 4, 5, 6, 9, 2, 3, 4}, 2), ElementsAre(5, 6));
}

TEST(PromptLookupTest, FewerRecurringTokensGiveNothing) {
  EXPECT_THAT(PromptLookup(Tokens{1, 2, 3, 4, 9, 8, 2, 3}, 2), IsEmpty());
  EXPECT_THAT(PromptLookup(Tokens{}, 2), IsEmpty());
  EXPECT_THAT(PromptLookup(Tokens{1}, 2), IsEmpty());
  EXPECT_THAT(PromptLookup(Tokens{1, 2, 3, 9, 1, 2, 3}, 0), IsEmpty());
}

TEST(PromptLookupTest, PrefersALongerRecurrenceThenTheLatest) {
  EXPECT_THAT(PromptLookup(Tokens{1, 2, 3, 4, 7, 0, 2, 3, 4, 8, 1, 2, 3, 4}, 1), ElementsAre(7));
  EXPECT_THAT(PromptLookup(Tokens{2, 3, 4, 7, 0, 2, 3, 4, 8, 1, 2, 3, 4}, 1), ElementsAre(8));
}

TEST(PromptLookupTest, FollowsALoop) {
  EXPECT_THAT(PromptLookup(Tokens{9, 1, 2, 3, 1, 2, 3, 1}, 5), ElementsAre(2, 3, 1, 2, 3));
}

// The same by trying every place and length.
Tokens SlowLookup(const Tokens& tokens, int64_t count) {
  const int64_t size = std::ssize(tokens);
  for (int64_t length = std::min(kMaxLookupMatch, size - 1); length >= kMinLookupMatch; --length) {
    for (int64_t end = size - 1; end >= length; --end) {
      if (!std::equal(tokens.end() - length, tokens.end(), tokens.begin() + end - length)) continue;
      Tokens text = tokens;
      for (int64_t i = 0; i < count; ++i) text.push_back(text[static_cast<size_t>(end + i)]);
      return {text.end() - count, text.end()};
    }
  }
  return {};
}

TEST(PromptLookupTest, AgreesWithTryingEveryPlace) {
  const bool holds = rc::check("the longest recurrence, then the latest", [] {
    const auto tokens = *rc::gen::container<Tokens>(rc::gen::inRange<int32_t>(0, 3));
    const auto count = *rc::gen::inRange<int64_t>(0, 12);
    RC_ASSERT(PromptLookup(tokens, count) == SlowLookup(tokens, count));
  });
  EXPECT_TRUE(holds);
}

}  // namespace
}  // namespace sluice
