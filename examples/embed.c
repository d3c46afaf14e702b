// Sluice in a C program: reads a document once and answers questions about it.
//   embed MODEL_FOLDER DOCUMENT QUESTION...
#include <sluice/sluice_c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUESTION_AND_ANSWER = 1024 };  // Tokens, more than enough.

// The whole file, or NULL. The caller frees it.
static char* read_text(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) return NULL;
  char* text = NULL;
  if (fseek(file, 0, SEEK_END) == 0) {
    const long end = ftell(file);
    rewind(file);
    text = end > 0 ? malloc((size_t)end) : NULL;
    *size = text != NULL ? fread(text, 1, (size_t)end, file) : 0;
  }
  fclose(file);
  return text;
}

static int print_progress(void* user_data, int64_t done, int64_t total) {
  (void)user_data;
  fprintf(stderr, "\rread %lld of %lld tokens%s", (long long)done, (long long)total,
          done == total ? "\n" : "");
  return 0;  // Go on.
}

static int print_text(void* user_data, const char* text, size_t size) {
  (void)user_data;
  fwrite(text, 1, size, stdout);
  fflush(stdout);
  return 0;
}

// The first sync reads the document; later ones reuse it and read their question alone.
static sluice_status answer(const sluice_engine* engine, sluice_session* session, const int32_t* document,
                            size_t document_tokens, const char* question) {
  int32_t* prompt = NULL;
  size_t num_tokens = 0;
  sluice_sampling_options sampling = SLUICE_SAMPLING_OPTIONS_INIT;
  sampling.max_tokens = 64;
  sluice_status status =
      sluice_ask_prompt(engine, document, document_tokens, question, strlen(question), &prompt, &num_tokens);
  if (status == SLUICE_OK)
    status = sluice_session_sync(session, prompt, num_tokens, print_progress, NULL, NULL);
  if (status == SLUICE_OK) status = sluice_session_generate(session, &sampling, print_text, NULL, NULL);
  if (status == SLUICE_OK) putchar('\n');
  sluice_free(prompt);
  return status;
}

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: %s MODEL_FOLDER DOCUMENT QUESTION...\n", argv[0]);
    return 2;
  }
  size_t size = 0;
  char* text = read_text(argv[2], &size);
  if (text == NULL) {
    fprintf(stderr, "%s: %s: cannot be read, or is empty\n", argv[0], argv[2]);
    return 1;
  }
  sluice_engine* engine = NULL;
  sluice_session* session = NULL;
  int32_t* document = NULL;
  size_t document_tokens = 0;
  sluice_session_options options = SLUICE_SESSION_OPTIONS_INIT;
  sluice_status status = sluice_engine_load(argv[1], NULL, &engine);
  if (status == SLUICE_OK) status = sluice_encode(engine, text, size, &document, &document_tokens);
  options.capacity = (int64_t)document_tokens + QUESTION_AND_ANSWER;
  if (status == SLUICE_OK) status = sluice_session_new(engine, &options, &session);
  for (int i = 3; i < argc && status == SLUICE_OK; ++i)
    status = answer(engine, session, document, document_tokens, argv[i]);
  if (status != SLUICE_OK) fprintf(stderr, "%s: %s\n", argv[0], sluice_last_error());
  sluice_session_free(session);
  sluice_engine_free(engine);
  sluice_free(document);
  free(text);
  return status == SLUICE_OK ? 0 : 1;
}
