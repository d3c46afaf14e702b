// gnuplot reads a script (data inline) from its standard input and prints the SVG on its standard output.
#include "eval/plot.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/file.h"

extern char** environ;

namespace sluice {

namespace {

// Inside gnuplot's double quotes.
std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + "\"";
}

// A tic's name: gnuplot takes it for a format.
std::string QuotedTic(const std::string& text) {
  std::string escaped;
  for (const char c : text) escaped += c == '%' ? std::string("%%") : std::string(1, c);
  return Quoted(escaped);
}

// A temporary file that is gone when the object is.
class ScratchFile {
 public:
  ScratchFile() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sluice-plot-XXXXXX").string();
    descriptor_ = ::mkstemp(pattern.data());
    if (descriptor_ < 0) throw SystemError("{}: cannot be made: {}", pattern, std::strerror(errno));
    path_ = pattern;
  }
  ~ScratchFile() {
    ::close(descriptor_);
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

// Runs gnuplot on a script file and returns what it printed.
std::string RunGnuplot(const std::string& script) {
  const ScratchFile script_file;
  const ScratchFile svg_file;
  const ScratchFile log_file;
  WriteFileAtomically(script_file.path(), script);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, svg_file.descriptor(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, log_file.descriptor(), STDERR_FILENO);
  std::string program = "gnuplot";
  std::string argument = script_file.path().string();
  const std::array<char*, 3> arguments = {program.data(), argument.data(), nullptr};
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, program.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error == ENOENT) throw InputError("--plot needs gnuplot: install the Debian package gnuplot-nox");
  if (error != 0) throw SystemError("gnuplot cannot be started: {}", std::strerror(error));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) throw SystemError("waiting for gnuplot: {}", std::strerror(errno));
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) == 127) {
    throw InputError("--plot needs gnuplot: install the Debian package gnuplot-nox");
  }
  if (WEXITSTATUS(status) != 0) throw SystemError("gnuplot failed: {}", ReadFile(log_file.path()));
  return ReadFile(svg_file.path());
}

// A picture of `panels` plots, one below the other.
std::string Terminal(size_t panels) {
  return fmt::format(
      "set encoding utf8\nset terminal svg size 900,{} dynamic enhanced font 'DejaVu Sans,14' background "
      "rgb 'white'\n"
      "set termoption noenhanced\n",
      540 * panels);
}

std::string Labels(const std::string& title, const std::string& x_label, const std::string& y_label) {
  return fmt::format("set title {}\nset xlabel {}\nset ylabel {}\n", Quoted(title), Quoted(x_label),
                     Quoted(y_label));
}

std::string Script(const LinePlot& plot) {
  std::string script = Labels(plot.title, plot.x_label, plot.y_label);
  script += plot.log_x ? "set logscale x\n" : "unset logscale x\n";
  script += plot.log_y ? "set logscale y\n" : "unset logscale y\n";
  script += plot.key_at_bottom ? "set key bottom right\n" : "set key top right\n";
  std::string commands;
  for (size_t i = 0; i < plot.series.size(); ++i) {
    const PlotSeries& series = plot.series[i];
    SLUICE_CHECK_EQ(series.x.size(), series.y.size());
    script += fmt::format("$data{} << END_OF_DATA\n", i);
    for (size_t j = 0; j < series.x.size(); ++j) {
      const bool finite = std::isfinite(series.x[j]) && std::isfinite(series.y[j]);
      script += finite ? fmt::format("{:.9g} {:.9g}\n", series.x[j], series.y[j]) : std::string("\n");
    }
    script += "END_OF_DATA\n";
    commands += fmt::format("{}$data{} using 1:2 with {} linewidth 2 title {}", i == 0 ? "plot " : ", ", i,
                            series.points ? "linespoints pointtype 7" : "lines", Quoted(series.name));
  }
  return script + commands + "\n";
}

}  // namespace

void WritePlot(const LinePlot& plot, const std::filesystem::path& file) {
  WritePlot(std::vector<LinePlot>{plot}, file);
}

void WritePlot(const std::vector<LinePlot>& panels, const std::filesystem::path& file) {
  SLUICE_CHECK(!panels.empty());
  std::string script = Terminal(panels.size());
  script += "set grid\n";
  if (panels.size() > 1) script += fmt::format("set multiplot layout {},1\n", panels.size());
  for (const LinePlot& plot : panels) script += Script(plot);
  WriteFileAtomically(file, RunGnuplot(script));
}

void WritePlot(const HeatMap& plot, const std::filesystem::path& file) {
  SLUICE_CHECK_EQ(plot.values.size(), plot.y_names.size());
  std::string script = Terminal(1) + Labels(plot.title, plot.x_label, plot.y_label);
  script += fmt::format("set cbrange [{}:{}]\n", plot.low, plot.high);
  script += "set palette defined (0 '#d73027', 0.5 '#fee08b', 1 '#1a9850')\nunset key\n";
  script += fmt::format("set xrange [-0.5:{}.5]\nset yrange [{}.5:-0.5]\n", plot.x_names.size() - 1,
                        plot.y_names.size() - 1);
  const auto add_tics = [&](const char* axis, const std::vector<std::string>& names) {
    script += fmt::format("set {}tics (", axis);
    for (size_t i = 0; i < names.size(); ++i)
      script += fmt::format("{}{} {}", i == 0 ? "" : ", ", QuotedTic(names[i]), i);
    script += ")\n";
  };
  add_tics("x", plot.x_names);
  add_tics("y", plot.y_names);
  script += "$data << END_OF_DATA\n";
  for (size_t y = 0; y < plot.values.size(); ++y) {
    SLUICE_CHECK_EQ(plot.values[y].size(), plot.x_names.size());
    for (size_t x = 0; x < plot.values[y].size(); ++x) {
      script += fmt::format("{} {} {:.6g}\n", x, y, plot.values[y][x]);
    }
  }
  script += "END_OF_DATA\nplot $data using 1:2:3 with image pixels, ";
  script += "$data using 1:2:(sprintf('%.4g', $3)) with labels\n";
  WriteFileAtomically(file, RunGnuplot(script));
}

}  // namespace sluice
