// sluice eval routing: how evenly experts are used, and by which texts.
#include "base/progress.h"
#include "cli/common_flags.h"
#include "cli/eval_commands.h"
#include "eval/plot.h"
#include "eval/routing.h"

namespace sluice {

namespace {

struct RoutingFlags {
  CommonFlags common;
  SessionFlags session;
  ReportFlags report;
  std::vector<std::string> texts;
  RoutingOptions options;
};

void RunRoutingCommand(const RoutingFlags& flags) {
  const Engine engine = LoadEngine(flags.common);
  RoutingOptions options = flags.options;
  options.session = MakeSessionOptions(flags.session);
  ProgressCallback bar("routing", "tokens");
  const RoutingResult result = RunRouting(engine, ReadRoutingTexts(flags.texts), options, std::ref(bar));
  bar.Finish();
  fmt::print("{}", RoutingTable(result));
  WriteJsonReport(flags.report, RoutingJson(result));
  if (!flags.report.plot.empty()) WritePlot(RoutingPlot(result), flags.report.plot);
}

constexpr const char* kFooter =
    "Every TEXT, a file or a folder, is one kind of text, named by its stem; its first --tokens tokens are\n"
    "read in windows of --context, each on its own. Per layer:\n"
    "  utilisation   mean load / largest load: what an expert per machine would be busy; 100% is even\n"
    "  cv, gini      coefficient of variation and Gini coefficient of the loads; 0 is even\n"
    "  effective     exp(entropy of the loads) / experts: the share of experts that is really in use\n"
    "  min/mean      load of the least used expert; 0: one is never used\n"
    "  rerouted, unserved\n"
    "                choices that training's dynamic capacity would have sent to another expert, or to "
    "none.\n"
    "                Inference has no capacity and serves every choice; the router is only asked what it\n"
    "                would have done with a window as one sequence\n"
    "  entropy       how undecided the router is on a token: entropy of its probabilities / ln experts\n"
    "Several texts are compared with the first. 'overlap' is the share of expert load that two texts have "
    "in\n"
    "common, 100% if they use all experts alike; then each text's three most used experts and how much more\n"
    "than an even share they serve.\n"
    "JSON keys: tokens, context, capacity_factor, capacity_prior_tokens, capacity_gamma_max, num_experts,\n"
    "experts_per_token, seconds, texts[] (text, tokens, windows, nats_per_token, utilisation, cv, gini,\n"
    "effective_experts, min_to_mean, rerouted, unserved, entropy, worst_utilisation, worst_layer, layers[]\n"
    "(layer and the same figures), load[layers][experts], most_used[] (layer, expert, over_even), overlap,\n"
    "utilisation_change). --plot draws each expert's load against even, a row per text and layer.\n\n"
    "Examples:\n"
    "  sluice eval routing book.txt --plot routing.svg\n"
    "  sluice eval routing stories/ code.jsonl letters.md --tokens 131072 --json routing.json\n"
    "  sluice eval routing book.txt --capacity-factor 1 --capacity-gamma-max 1";

}  // namespace

void AddEvalRouting(CLI::App& eval) {
  auto flags = std::make_shared<RoutingFlags>();
  CLI::App* command = eval.add_subcommand("routing", "How evenly experts are used, and by which texts");
  command->footer(kFooter);
  command
      ->add_option("texts", flags->texts, "Text files or folders (.txt, .md, .jsonl), each one kind of text")
      ->required();
  command->add_option("--tokens", flags->options.tokens, "Tokens that are read of each text, at most")
      ->capture_default_str();
  command->add_option("--context", flags->options.context,
                      "Tokens per window; default: 4096, or the model's context if that is shorter");
  command
      ->add_option("--capacity-factor", flags->options.capacity_factor,
                   "Capacity over an even share, of the training that rerouted and unserved ask about")
      ->capture_default_str();
  command
      ->add_option("--capacity-prior-tokens", flags->options.capacity_prior_tokens,
                   "Evenly routed tokens that its demand starts from")
      ->capture_default_str();
  command
      ->add_option("--capacity-gamma-max", flags->options.capacity_gamma_max,
                   "Most that it gives to an expert in demand, in even shares")
      ->capture_default_str();
  AddReportFlags(*command, flags->report);
  AddPassFlags(*command, flags->session);
  AddCommonFlags(*command, flags->common);
  command->callback([flags] { RunRoutingCommand(*flags); });
}

}  // namespace sluice
