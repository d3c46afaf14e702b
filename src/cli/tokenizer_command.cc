// sluice tokenizer train: learn a byte-level BPE vocabulary.
#include <fmt/format.h>

#include "base/error.h"
#include "cli/commands.h"
#include "eval/table.h"
#include "text/bpe_trainer.h"
#include "text/prompt.h"
#include "train/text_files.h"

namespace sluice {

namespace {

struct TokenizerFlags {
  std::vector<std::string> inputs;
  std::string output;
  int vocab_size = 4096;
  std::vector<double> fractions = {1};
};

void RunTokenizerTrain(const TokenizerFlags& flags) {
  for (const double fraction : flags.fractions) {
    if (!(fraction > 0 && fraction <= 1)) throw InputError("--fraction must be above 0 and at most 1");
  }
  if (flags.fractions.size() != 1 && flags.fractions.size() != flags.inputs.size()) {
    throw InputError(
        "there are {} inputs and {} fractions; give one --fraction for all, or one for each --input",
        flags.inputs.size(), flags.fractions.size());
  }
  BpeTrainerOptions options;
  options.vocab_size = flags.vocab_size;
  options.special_tokens.assign(kSpecialTokens.begin(), kSpecialTokens.end());
  BpeTrainer trainer(options);
  uint64_t bytes = 0;
  for (size_t i = 0; i < flags.inputs.size(); ++i) {
    const double fraction = flags.fractions.size() == 1 ? flags.fractions[0] : flags.fractions[i];
    for (const TextFile& file : ListTextFiles(flags.inputs[i]))
      bytes += trainer.AddFile(file.path, {fraction, 0, 1});
  }
  const Tokenizer tokenizer = trainer.Train();
  tokenizer.Save(flags.output);
  fmt::print("{}: {} tokens learned from {} bytes\n", flags.output, tokenizer.vocab_size(),
             FormatCount(static_cast<int64_t>(bytes)));
}

}  // namespace

void AddTokenizerCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tokenizer", "Make a tokenizer");
  command->require_subcommand(1);
  auto flags = std::make_shared<TokenizerFlags>();
  CLI::App* train = command->add_subcommand("train", "Learn a byte-level BPE vocabulary from text");
  train->footer(
      "Writes a Hugging Face tokenizer.json with the special tokens that Sluice's models use. The same\n"
      "input gives the same file.\n\n"
      "Example:\n  sluice tokenizer train --input data/train/books --vocab-size 4096 --output "
      "tokenizer.json");
  train
      ->add_option("--input", flags->inputs,
                   "Text file or folder (.txt, .md, .jsonl); may be given several times")
      ->required()
      ->allow_extra_args(false);
  train->add_option("--output", flags->output, "File to write")->required();
  train->add_option("--vocab-size", flags->vocab_size, "Tokens, the 256 bytes and special tokens included")
      ->capture_default_str();
  train
      ->add_option("--fraction", flags->fractions,
                   "Share of each file to learn from: one for all inputs, or one for each --input, in order")
      ->allow_extra_args(false)
      ->capture_default_str();
  train->callback([flags] { RunTokenizerTrain(*flags); });
}

}  // namespace sluice
