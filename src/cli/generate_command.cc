// sluice generate: continue a prompt.
#include <cstdio>

#include "base/progress.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "cli/expert_load_flag.h"
#include "cli/logprobs_report.h"
#include "cli/sampling_flags.h"
#include "engine/generate.h"
#include "engine/guarantee_figures.h"

namespace sluice {

namespace {

struct GenerateFlags {
  CommonFlags common;
  SessionFlags session;
  SamplingFlags sampling;
  std::string prompt;
  std::string prompt_file;
  bool echo = false;
  std::string json;
  std::string expert_load;
};

double Rate(int64_t count, double seconds) {
  return static_cast<double>(count) / std::max(seconds, 1e-9);
}

nlohmann::ordered_json GenerationJson(const Engine& engine, const SyncStats& read,
                                      const Generation& generation, bool speculates,
                                      const GuaranteeFigures* guarantee) {
  nlohmann::ordered_json json;
  json["text"] = generation.text;
  json["tokens"] = generation.tokens.size();
  json["stop"] = NameOf(generation.stop);
  if (!generation.logprobs.empty()) json["logprobs"] = LogprobsJson(engine.tokenizer(), generation.logprobs);
  json["prompt_tokens"] = read.computed_tokens;
  json["prefill_tokens_per_second"] = Rate(read.computed_tokens, read.seconds);
  json["decode_tokens_per_second"] = Rate(std::ssize(generation.tokens), generation.seconds);
  if (speculates) {
    json["drafted_tokens"] = generation.drafted;
    json["accepted_tokens"] = generation.accepted;
  }
  if (guarantee != nullptr) json["guarantee"] = guarantee->Json();
  return json;
}

void RunGenerate(const GenerateFlags& flags) {
  const std::string prompt = flags.prompt_file.empty() ? flags.prompt : ReadTextInput(flags.prompt_file);
  if (prompt.empty()) throw InputError("give a prompt with --prompt TEXT or --prompt-file FILE");
  const Engine engine = LoadEngine(flags.common);
  const SamplingOptions sampling = MakeSamplingOptions(flags.sampling, flags.common, engine);
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
  const Generation generation = Generate(session, sampling, [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  });
  fmt::print("\n");
  fmt::print(stderr, "[{} tokens read at {:.0f}/s, {} written at {:.0f}/s; ended by {}]\n", size,
             Rate(size, read.seconds), generation.tokens.size(),
             Rate(std::ssize(generation.tokens), generation.seconds), NameOf(generation.stop));
  if (sampling.max_draft > 0) {
    fmt::print(stderr, "[{} tokens drafted ahead, {} of them right]\n", generation.drafted,
               generation.accepted);
  }
  if (sampling.logprobs) fmt::print(stderr, "{}", LogprobsTable(engine.tokenizer(), generation.logprobs));
  const GuaranteeFigures* proved = options.guarantee > 0 ? &guarantee : nullptr;
  if (proved != nullptr) fmt::print(stderr, "{}", proved->Line());
  WriteJsonReport({flags.json, ""}, GenerationJson(engine, read, generation, sampling.max_draft > 0, proved));
  ReportExpertLoad(flags.expert_load, session.expert_load());
}

}  // namespace

void AddGenerateCommand(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text");
  command->footer(
      std::string(
          "Writes the continuation to standard output as it comes, and figures to standard error. The same\n"
          "flags and seed give the same text, whatever --threads and --chunk are.\n\n") +
      kSamplingHelp +
      "\n"
      "--json FILE has text, tokens, stop, prompt_tokens, prefill_tokens_per_second, "
      "decode_tokens_per_second,\n"
      "drafted_tokens, accepted_tokens, logprobs[] (token, id, logprob, top_logprobs[]) and guarantee, the "
      "last\nfour where asked for.\n" +
      kExpertLoadHelp +
      "\n"
      "Examples:\n"
      "  sluice generate --prompt \"The harbour was\" --max-tokens 64\n"
      "  sluice generate --prompt-file - --temperature 0.8 --top-p 0.95 --seed 7 < start.txt\n"
      "  sluice generate --prompt \"The harbour was\" --temperature 1 --min-p 0.05 --frequency-penalty 0.5\n"
      "  sluice generate --prompt \"The harbour was\" --max-tokens 8 --logprobs 3 --logit-bias 17=-inf\n"
      "  sluice generate --prompt \"The harbour was\" --expert-load -");
  command->add_option("--prompt", flags->prompt, "Text to continue");
  command->add_option("--prompt-file", flags->prompt_file,
                      "File with the text to continue; -: standard input");
  command->add_flag("--echo", flags->echo, "Print the prompt too");
  command->add_option("--json", flags->json, "Write text and figures to this file, as JSON");
  AddExpertLoadFlag(*command, flags->expert_load);
  AddSamplingFlags(*command, flags->sampling);
  AddSessionFlags(*command, flags->session);
  AddCommonFlags(*command, flags->common);
  command->callback([flags] { RunGenerate(*flags); });
}

}  // namespace sluice
