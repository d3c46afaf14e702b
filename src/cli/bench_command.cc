// sluice bench: what a model, or one of its parts, costs on this machine.
#include "backend/backend.h"
#include "backend/cpu/targets.h"
#include "base/progress.h"
#include "cli/bench_commands.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "eval/model_cost.h"
#include "eval/session_throughput.h"
#include "eval/shapes.h"
#include "model/model_folder.h"

namespace sluice {

namespace {

struct BenchFlags {
  CommonFlags common;
  ReportFlags report;
  SessionFlags session;
  std::string shape;
  std::string weights = NameOf(WeightFormat::kQ8);
  ModelCostOptions options;
  int64_t sessions = 0;
  std::string simd;
};

std::unique_ptr<Model> MakeModel(const BenchFlags& flags, Ops& ops) {
  if (flags.shape.empty()) return LoadModel(flags.common.model, ops);
  const WeightFormat format = ParseWeightFormat(flags.weights, "--weights");
  ProgressCallback bar("random weights", "weights");
  return RandomModel(ReadShape(flags.shape), format, flags.common.seed, ops, std::ref(bar));
}

// "q8 + float", the formats of the matrices, most common first in the enumeration.
std::string Formats(const Model& model) {
  std::string text;
  std::vector<WeightFormat> seen;
  for (const ParameterInfo& parameter : model.table().parameters()) {
    if (!parameter.is_matrix || std::count(seen.begin(), seen.end(), parameter.format) > 0) continue;
    seen.push_back(parameter.format);
    text += fmt::format("{}{}", text.empty() ? "" : " + ", NameOf(parameter.format));
  }
  return text;
}

// Several sessions in one pass against one alone: prints a line, and returns the same for JSON.
nlohmann::ordered_json BenchSessions(const Model& model, const ModelCostOptions& options, int64_t sessions) {
  SessionThroughputOptions throughput;
  throughput.num_sessions = sessions;
  throughput.pass.attention = options.attention;
  throughput.pass.top_k = options.top_k;
  throughput.cache_format = options.cache_format;
  throughput.seed = options.seed;
  ProgressCallback bar("sessions", "steps");
  const SessionThroughput measured = MeasureSessions(model, throughput, std::ref(bar));
  bar.Finish();
  const double all = static_cast<double>(sessions) / measured.all_seconds, one = 1 / measured.one_seconds;
  const double gain = measured.Gain(sessions);
  fmt::print("{} sessions in one pass at depth {}: {:.1f} tokens/s together, one alone {:.1f}: {:.2f}x\n",
             sessions, throughput.depth, all, one, gain);
  return {{"number", sessions},
          {"depth", throughput.depth},
          {"tokens_per_second", all},
          {"one_tokens_per_second", one},
          {"gain", gain}};
}

void RunBench(const BenchFlags& flags) {
  ApplyThreads(flags.common);
  UseCpuTarget(flags.simd);
  const SessionOptions session = MakeSessionOptions(flags.session);
  ModelCostReport report;
  report.options = flags.options;
  report.options.seed = flags.common.seed;
  report.options.attention = session.attention;
  report.options.index = session.index;
  report.options.cache_format = session.cache_format;
  const std::unique_ptr<Ops> ops = MakeOps("cpu");
  const std::unique_ptr<Model> model = MakeModel(flags, *ops);
  report.options.top_k = session.top_k > 0 ? session.top_k : model->config().top_k;
  report.model = flags.shape.empty() ? flags.common.model : "shape " + flags.shape;
  report.weights = Formats(*model);
  report.weight_bytes = model->WeightBytes();
  for (const ParameterInfo& parameter : model->table().parameters()) {
    report.parameters += parameter.shape.num_elements();
  }
  PeakMeter peaks;
  ProgressCallback bar("bench", "steps");
  report.rows = MeasureModel(*model, report.options, peaks, std::ref(bar));
  bar.Finish();
  report.peaks = peaks.peaks();
  fmt::print("{}", ModelCostTable(report));
  nlohmann::ordered_json json = ModelCostJson(report);
  if (flags.sessions != 0) json["sessions"] = BenchSessions(*model, report.options, flags.sessions);
  WriteJsonReport(flags.report, json);
  if (!flags.report.plot.empty()) WritePlot(ModelCostPlots(report), flags.report.plot);
}

void AddModelFlags(CLI::App& command, BenchFlags& flags) {
  AddPlainFlags(command, flags.common);
  CLI::Option* model = command.get_option("--model");
  CLI::Option* shape =
      command
          .add_option("--shape", flags.shape,
                      fmt::format("In place of --model: random weights of a built-in shape ({}) or of a file "
                                  "like a model's config.json",
                                  fmt::join(ShapeNames(), ", ")))
          ->excludes(model);
  command.add_option("--weights", flags.weights, "Format of the random weights: q8, q4, bf16 or float")
      ->needs(shape)
      ->capture_default_str();
  AddAttentionFlag(command, flags.session);
  AddSelectionFlags(command, flags.session);
}

void AddStepFlags(CLI::App& command, ModelCostOptions& options) {
  command
      .add_option("--depths", options.depths,
                  "Tokens in the cache, with commas between; 4K is 4,096, 1M 2^20")
      ->delimiter(',')
      ->transform(CLI::AsSizeValue(false))
      ->type_name("TOKENS")
      ->capture_default_str();
  command.add_option("--prefill-tokens", options.prefill_tokens, "Tokens of a prefill pass; 0: no prefill")
      ->capture_default_str();
  command.add_option("--decode-tokens", options.decode_tokens, "Tokens that are decoded; 0: none")
      ->capture_default_str();
  command.add_option("--repeats", options.repeats, "Prefill passes at each depth")->capture_default_str();
  command.add_option("--seconds", options.seconds, "A step that has taken so long is not repeated further")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

}  // namespace

void AddBenchCommand(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app.add_subcommand("bench", "Measure speed and work on this machine");
  command->footer(
      "Without a subcommand: prefill and decode of a whole model at growing depth, by the median pass,\n"
      "beside the machine's own peaks, which are measured in the same run by as many threads: reading\n"
      "memory in order, float32, bfloat16 and 8-bit multiply-adds in registers. Of each pass the bytes that "
      "it must\n"
      "read (weights that are used, keys, values, gate keys: each once) and the operations that it must\n"
      "do are counted; over the time they give GB/s and Gop/s, and the larger share of a peak says what\n"
      "limits it.\n"
      "\n"
      "Depths are reached at once: the cache is filled with random keys and values, as a pass's time\n"
      "depends on how many there are and not on what they say. --attention dense reads all keys, as a\n"
      "model without a gate would. --sessions N decodes N timelines of 1,024 tokens in one pass, in turns\n"
      "with one alone.\n"
      "\n"
      "Built-in shapes: m, 12 layers of width 768, 12 query and 4 key-value heads, 16 experts of width\n"
      "1,024, two for a token, vocabulary 32,000; m-g1, the same with one key-value head.\n"
      "\n"
      "JSON keys: threads, model, weights, attention, top_k, index, cache_format, parameters,\n"
      "weight_bytes, peaks {read_bytes_per_second, float_ops_per_second, bfloat16_ops_per_second,\n"
      "int8_ops_per_second}, rows[] {step, depth, tokens, seconds, tokens_per_second, weight_bytes,\n"
      "cache_bytes, float_ops, bfloat16_ops, int8_ops, share_of_read, share_of_compute}: per pass; with\n"
      "--sessions also sessions {number, depth, tokens_per_second, one_tokens_per_second, gain}. The plot\n"
      "is the roofline, and speed by depth.\n"
      "\n"
      "Examples:\n"
      "  sluice bench --depths 0,4K,32K\n"
      "  sluice bench --shape m --plot roofline.svg --json m.json\n"
      "  sluice bench --shape m-g1 --attention dense --depths 0,4K --threads 1\n"
      "  sluice bench --shape m --depths 0 --sessions 16\n"
      "  sluice bench --shape m --depths 0 --simd AVX2\n"
      "  sluice bench attention --quick");
  AddModelFlags(*command, *flags);
  AddStepFlags(*command, flags->options);
  command->add_option("--sessions", flags->sessions, "Sessions that decode in one pass; 0: leave this out")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--simd", flags->simd,
                      fmt::format("Instruction set of the kernels and peaks, for how fast a lesser machine "
                                  "would be; this machine has {}, best first; default: the best",
                                  fmt::join(CpuTargets(), ", ")));
  AddReportFlags(*command, flags->report);
  command->require_subcommand(0, 1);
  AddBenchAttention(*command);
  AddBenchLoad(*command);
  AddBenchRandomModel(*command);
  command->callback([command, flags] {
    if (command->get_subcommands().empty()) RunBench(*flags);
  });
}

}  // namespace sluice
