#!/usr/bin/env python3
"""Compares our tokenizer with Hugging Face `tokenizers` on one tokenizer.json.

An optional oracle, not part of `make test`: it needs Python's `tokenizers` package and a release build.

    tests/tokenizer_oracle.py BUILD_FOLDER path/to/tokenizer.json [TEXT_FILE...]

Random and adversarial texts are always compared, and pieces of the files given; special tokens are
recognised. Exit code 1 if any text differs.
"""

import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

FRAGMENTS = [
    "'s", "'S", "'ll", "'LL", "'Re", "'\u017f", "'", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000",
    "\u2028", "\x85", "a", "B", "\u00e9", "\u4e2d", "\u6587", "1", "23", "\u0663", "\u00bd", "\u2167", "!",
    "...", "$", "-", "_", "\U0001f680", "\U0001f469\u200d\U0001f467", "e\u0301", "\u0301", "\ufb01", "\ufeff",
    "Don", "WORLD", "\x1a", "<|endoftext|>", "\u01c5", "\u02b0", "\U0001d49c", "\U00010348", "\U000e0001"]

# Prints the ids of each of the texts that zero bytes separate, a line for each.
ENCODER = r"""
#include <cstdio>
#include "base/file.h"
#include "text/tokenizer.h"
int main(int, char** argv) {
  const sluice::Tokenizer tokenizer = sluice::Tokenizer::FromFile(argv[1]);
  const std::string texts = sluice::ReadFile(argv[2]);
  for (size_t begin = 0; begin <= texts.size();) {
    const size_t end = std::min(texts.find('\0', begin), texts.size());
    for (int32_t token : tokenizer.Encode(texts.substr(begin, end - begin), true)) std::printf("%d ", token);
    std::printf("\n");
    begin = end + 1;
  }
}
"""


def build_encoder(build_folder, path):
    source_folder = pathlib.Path(__file__).resolve().parent.parent / "src"
    libraries = [f"{build_folder}/src/{name}/libsluice_{name}.a" for name in ("text", "base")]
    subprocess.run(["g++", "-std=c++20", "-O2", "-I", source_folder, "-x", "c++", "-", "-x", "none",
                    *libraries, "-lonig", "-lutf8proc", "-lfmt", "-lspdlog", "-o", path],
                   input=ENCODER, text=True, check=True)


def random_code_point(rng):
    while True:
        c = rng.randrange(1, rng.choice([0x80, 0x3000, 0x10000, 0x110000]))
        # Unassigned code points are classed differently by different versions of Unicode.
        if unicodedata.category(chr(c)) not in ("Cn", "Cs"):
            return chr(c)


def make_texts(files, seed=1):
    rng = random.Random(seed)
    texts = ["".join(rng.choices(FRAGMENTS, k=rng.randrange(1, 30))) for _ in range(3000)]
    texts += ["".join(random_code_point(rng) for _ in range(rng.randrange(1, 40))) for _ in range(2000)]
    for path in files:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            text = file.read().replace("\0", " ")
        begins = [rng.randrange(max(1, len(text) - 20000)) for _ in range(5)]
        texts += [text[begin:begin + 20000] for begin in begins]
    return texts


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    from tokenizers import Tokenizer
    build_folder, tokenizer_path, *files = sys.argv[1:]
    reference = Tokenizer.from_file(tokenizer_path)
    texts = make_texts(files)
    with tempfile.TemporaryDirectory() as folder:
        program, texts_path = f"{folder}/encode", f"{folder}/texts"
        build_encoder(build_folder, program)
        with open(texts_path, "wb") as file:
            file.write("\0".join(texts).encode())
        output = subprocess.run([program, tokenizer_path, texts_path], check=True, capture_output=True, text=True)
    lines = output.stdout.split("\n")[:-1]
    if len(lines) != len(texts):
        sys.exit(f"the encoder printed {len(lines)} lines for {len(texts)} texts")
    num_wrong = 0
    for text, line in zip(texts, lines):
        ours = [int(token) for token in line.split()]
        theirs = reference.encode(text, add_special_tokens=False).ids
        if ours != theirs:
            num_wrong += 1
            if num_wrong <= 5:
                print(f"differs: {text[:100]!r}\n  ours   {ours[:30]}\n  theirs {theirs[:30]}")
    print(f"{len(texts)} texts, {num_wrong} differ")
    return 1 if num_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
