// Sluice in a C++ program: reads a document once and answers questions about it.
//   embed MODEL_FOLDER DOCUMENT QUESTION...
#include <sluice/sluice.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (text.empty()) throw std::runtime_error(path + ": cannot be read, or is empty");
  return text;
}

void PrintProgress(int64_t done, int64_t total) {
  std::fprintf(stderr, "\rread %lld of %lld tokens", static_cast<long long>(done),
               static_cast<long long>(total));
  if (done == total) std::fputc('\n', stderr);
}

void PrintText(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

constexpr int64_t kQuestionAndAnswer = 1024;  // Tokens, more than enough.

void AnswerQuestions(const char* model, const char* document_file,
                     const std::vector<std::string>& questions) {
  const sluice::Engine engine(model);
  const std::vector<int32_t> document = engine.Encode(ReadText(document_file));
  sluice::SessionOptions options;
  options.capacity = static_cast<int64_t>(document.size()) + kQuestionAndAnswer;
  sluice::SamplingOptions sampling = engine.sampling();
  sampling.max_tokens = 64;

  // The first Sync reads the document; the others reuse it and read their question alone.
  sluice::Session session(engine, options);
  for (const std::string& question : questions) {
    session.Sync(engine.AskPrompt(document, question), PrintProgress);
    session.Generate(sampling, PrintText);
    std::putchar('\n');
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s MODEL_FOLDER DOCUMENT QUESTION...\n", argv[0]);
    return 2;
  }
  try {
    AnswerQuestions(argv[1], argv[2], {argv + 3, argv + argc});
  } catch (const std::exception& error) {  // sluice::Error is one; its kind() says whose fault it was.
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
  return 0;
}
