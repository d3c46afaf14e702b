// sluice: the binary. Exit codes: 0 done, 2 wrong input or flags, 3 the system refused, 4 a mistake in
// this program, 130 interrupted.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <new>

#include "base/error.h"
#include "base/interrupt.h"
#include "cli/commands.h"

namespace {

constexpr int kInputExit = 2;
constexpr int kSystemExit = 3;
constexpr int kBugExit = 4;
constexpr int kInterruptedExit = 130;

int Fail(const char* kind, const char* message, int exit_code) {
  std::fflush(stdout);
  fmt::print(stderr, "{}: {}\n", kind, message);
  return exit_code;
}

int Run(int argc, char** argv) {
  CLI::App app(
      "Sluice: long-context language models with learned sparse attention and routed experts.\n"
      "Train one, ask it about a long document, measure it. Everything runs on the CPU.");
  app.footer(
      "Examples:\n"
      "  sluice ask --document book.txt --question \"Who is the owner of the ship?\"\n"
      "  sluice generate --prompt \"The harbour was\" --max-tokens 64\n"
      "  sluice eval needle --haystack data/eval/longdocs --lengths 4096,16384\n"
      "  sluice train --config configs/nano.json --data data/train --output build/nano\n\n"
      "`sluice COMMAND --help` explains a command. Exit codes: 0 done, 2 wrong input, 3 system error,\n"
      "4 a mistake in the program, 130 interrupted.");
  app.name("sluice");
  app.set_version_flag("--version", "sluice " SLUICE_VERSION);
  app.require_subcommand(1);
  sluice::AddAskCommand(app);
  sluice::AddGenerateCommand(app);
  sluice::AddInfoCommand(app);
  sluice::AddEvalCommand(app);
  sluice::AddBenchCommand(app);
  sluice::AddCalibrateCommand(app);
  sluice::AddFitCodebooksCommand(app);
  sluice::AddAverageCommand(app);
  sluice::AddQuantizeCommand(app);
  sluice::AddTokenizerCommand(app);
  sluice::AddTrainCommand(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kInputExit;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    sluice::InstallInterruptHandler();
    return Run(argc, argv);
  } catch (const sluice::InputError& error) {
    return Fail("error", error.what(), kInputExit);
  } catch (const sluice::Interrupted& error) {
    return Fail("stopped", error.what(), kInterruptedExit);
  } catch (const sluice::SystemError& error) {
    return Fail("error", error.what(), kSystemExit);
  } catch (const sluice::Bug& error) {
    return Fail("internal error, please report", error.what(), kBugExit);
  } catch (const std::bad_alloc&) {
    return Fail("error", "out of memory; try a shorter document or context", kSystemExit);
  } catch (const std::filesystem::filesystem_error& error) {
    return Fail("error", error.what(), kSystemExit);
  } catch (const std::exception& error) {
    return Fail("internal error, please report", error.what(), kBugExit);
  }
}
