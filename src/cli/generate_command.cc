// sluice generate: continue a prompt.
#include <cstdio>

#include "base/progress.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "cli/expert_load_flag.h"
#include "eval/guarantee_figures.h"

namespace sluice {

namespace {

struct GenerateFlags {
  CommonFlags common;
  SessionFlags session;
  SamplingFlags sampling;
  std::string prompt;
  std::string prompt_file;
  bool echo = false;
  std::string expert_load;
};

void RunGenerate(const GenerateFlags& flags) {
  const std::string prompt = flags.prompt_file.empty() ? flags.prompt : ReadTextInput(flags.prompt_file);
  if (prompt.empty()) throw InputError("give a prompt with --prompt TEXT or --prompt-file FILE");
  const Engine engine = LoadEngine(flags.common);
  const std::vector<int32_t> tokens = engine.tokenizer().Encode(prompt);
  const auto size = static_cast<int64_t>(tokens.size());
  const int64_t context = engine.config().context_length;
  if (size >= context) {
    throw InputError("the prompt has {} tokens, but the model's context is {} tokens; shorten the prompt",
                     size, context);
  }
  SessionOptions options = MakeSessionOptions(flags.session);
  options.capacity = std::min(context, size + flags.sampling.max_tokens);
  Session session(engine, options);
  GuaranteeFigures guarantee;
  if (options.guarantee > 0) session.Observe(&guarantee);
  ProgressBar bar("reading", size, "tokens");
  const SyncStats read = session.Sync(tokens, [&](int64_t done, int64_t) { bar.Update(done); });
  bar.Finish();
  if (flags.echo) fmt::print("{}", prompt);
  const SamplingOptions sampling = MakeSamplingOptions(flags.sampling, flags.common, engine.generation());
  const Generation generation = Generate(session, sampling, [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  });
  fmt::print("\n");
  fmt::print(stderr, "[{} tokens read at {:.0f}/s, {} written at {:.0f}/s; ended by {}]\n", size,
             static_cast<double>(size) / std::max(read.seconds, 1e-9), generation.tokens.size(),
             static_cast<double>(generation.tokens.size()) / std::max(generation.seconds, 1e-9),
             NameOf(generation.stop));
  if (options.guarantee > 0) fmt::print(stderr, "{}", guarantee.Line());
  ReportExpertLoad(flags.expert_load, session.expert_load());
}

}  // namespace

void AddGenerateCommand(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text");
  command->footer(
      std::string(
          "Writes the continuation to standard output as it comes, and a line of figures to standard error.\n"
          "The same flags and seed give the same text, whatever --threads and --chunk are.\n") +
      kExpertLoadHelp +
      "\n"
      "Examples:\n"
      "  sluice generate --prompt \"The harbour was\" --max-tokens 64\n"
      "  sluice generate --prompt-file - --temperature 0.8 --top-p 0.95 --seed 7 < start.txt\n"
      "  sluice generate --prompt \"The harbour was\" --expert-load -");
  command->add_option("--prompt", flags->prompt, "Text to continue");
  command->add_option("--prompt-file", flags->prompt_file,
                      "File with the text to continue; -: standard input");
  command->add_flag("--echo", flags->echo, "Print the prompt too");
  AddExpertLoadFlag(*command, flags->expert_load);
  AddSamplingFlags(*command, flags->sampling);
  AddSessionFlags(*command, flags->session);
  AddCommonFlags(*command, flags->common);
  command->callback([flags] { RunGenerate(*flags); });
}

}  // namespace sluice
