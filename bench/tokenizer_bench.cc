// Tokenizer speed on one core, MB/s of text: encode (fast scanner), encode through Oniguruma, decode,
// and training. The text is synthetic, with the word-frequency law of natural language (Zipf), so that
// the benchmark needs no files; natural English runs at about the same speed.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/random.h"
#include "text/bpe_trainer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace sluice {
namespace {

std::string MakeText(size_t size) {
  constexpr size_t kWords = 30000;
  Random random(1);
  std::vector<std::string> words;
  for (size_t i = 0; i < kWords; ++i) {
    std::string word;
    for (uint64_t n = 1 + random.Below(4); n > 0; --n) {
      word += "bcdfghlmnprstvw"[random.Below(15)];
      word += "aeiou"[random.Below(5)];
      if (random.Below(3) == 0) word += "nrst"[random.Below(4)];
    }
    words.push_back(word);
  }
  std::string text;
  while (text.size() < size) {
    const double rank = std::pow(static_cast<double>(kWords), random.Uniform());
    text += words[std::min(kWords - 1, static_cast<size_t>(rank))];
    const uint64_t mark = random.Below(40);
    text += mark == 0 ? ".\n" : mark == 1 ? ", " : mark == 2 ? " 1984 " : mark == 3 ? "'s " : " ";
  }
  return text;
}

const std::string& Text() {
  static const std::string text = MakeText(8 << 20);
  return text;
}

Tokenizer Train(const std::string& pattern) {
  BpeTrainerOptions options;
  options.pattern = pattern;
  options.show_progress = false;
  BpeTrainer trainer(options);
  trainer.AddDocument(Text());
  return trainer.Train();
}

void Encode(benchmark::State& state, const std::string& pattern) {
  const Tokenizer tokenizer = Train(pattern);
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.Encode(Text()));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * Text().size()));
}
BENCHMARK_CAPTURE(Encode, default_pattern, std::string(kDefaultPattern))->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Encode, gpt2_pattern, std::string(kGpt2Pattern))->Unit(benchmark::kMillisecond);
// A group around the pattern: the same pieces, but not the text that the scanner answers to.
BENCHMARK_CAPTURE(Encode, regex, "(?:" + std::string(kDefaultPattern) + ")")->Unit(benchmark::kMillisecond);

void EncodeLongPiece(benchmark::State& state) {
  const Tokenizer tokenizer = Train(std::string(kDefaultPattern));
  std::string text = Text().substr(0, 1 << 20);  // One word of a million letters.
  std::erase_if(text, [](char c) { return c < 'a' || c > 'z'; });
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.Encode(text));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
}
BENCHMARK(EncodeLongPiece)->Unit(benchmark::kMillisecond);

void Decode(benchmark::State& state) {
  const Tokenizer tokenizer = Train(std::string(kDefaultPattern));
  const std::vector<int32_t> tokens = tokenizer.Encode(Text());
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.Decode(tokens));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * Text().size()));
}
BENCHMARK(Decode)->Unit(benchmark::kMillisecond);

void TrainVocabulary(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(Train(std::string(kDefaultPattern)));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * Text().size()));
}
BENCHMARK(TrainVocabulary)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sluice
