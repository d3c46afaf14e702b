#include "train/metrics.h"

#include <charconv>
#include <sstream>

#include "base/error.h"
#include "base/file.h"

namespace sluice {

namespace {

constexpr const char* kHeader =
    "step,stage,tokens,loss,lm_loss,text_loss,answer_loss,repeat_loss,gate_loss,balance_loss,gradient_norm,"
    "lr_factor,"
    "tokens_per_second\n";

// The lines of the first `steps_done` steps; the third column of the last one.
std::string KeepLines(const std::string& text, int64_t steps_done, double* tokens) {
  std::string kept = kHeader;
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    int64_t step = 0;
    std::from_chars(line.data(), line.data() + line.size(), step);
    const size_t stage_end = line.find(',', line.find(',') + 1);
    if (step <= 0 || step > steps_done || stage_end == std::string::npos) continue;
    std::from_chars(line.data() + stage_end + 1, line.data() + line.size(), *tokens);
    kept += line + "\n";
  }
  return kept;
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& file, int64_t steps_done) : file_(file) {
  std::string kept = kHeader;
  if (steps_done > 0 && std::filesystem::exists(file)) kept = KeepLines(ReadFile(file), steps_done, &tokens_);
  WriteFileAtomically(file, kept);
  out_.open(file, std::ios::app);
}

void MetricsLog::Write(const StepMetrics& m) {
  tokens_ = m.tokens;
  // Losses with all their digits: a resumed run is compared with an uninterrupted one bit by bit.
  out_ << fmt::format("{},{},{},{},{},{},{},{},{},{},{},{:.6g},{:.6g}\n", m.step, m.stage, m.tokens, m.loss,
                      m.lm_loss, m.text_loss, m.answer_loss, m.repeat_loss, m.gate_loss, m.balance_loss,
                      m.gradient_norm, m.lr_factor, m.tokens_per_second)
       << std::flush;
  if (!out_) throw SystemError("{}: cannot write the training log (is the disk full?)", file_.string());
}

}  // namespace sluice
