#!/usr/bin/env bash
# The library as its users have it: installed into a folder of its own, found by CMake and by pkg-config, called
# from C++ and from C. The examples must answer as the program does, bit for bit the same text.
set -euo pipefail

fail() { echo "FAILED: $*" >&2; exit 1; }

# What follows may see the installed copy and the examples alone.
rm -rf prefix moved examples build damaged
cmake --install "$SLUICE_BUILD" --prefix "$PWD/prefix" > install.log || fail "installing: $(tail -3 install.log)"
cp -r "$SLUICE_ROOT/examples" examples
model=$SLUICE_ROOT/models/nano
library=$(find prefix -name libsluice.so)
[[ -x prefix/bin/sluice && -f $library ]] || fail "the program or the library was not installed"
[[ -f prefix/share/doc/Sluice/LICENSE ]] || fail "the licence was not installed"

# Public headers include the standard library and each other.
if grep -HnE '^ *# *include' prefix/include/sluice/*.h | grep -vE '<(sluice/[a-z_]+\.h|[a-z_]+(\.h)?)>$'; then
  fail "an installed header includes something internal"
fi
[[ $(find prefix/include -type f | wc -l) -eq 3 ]] || fail "headers: $(find prefix/include -type f)"

# Only the public names are exported: sluice_* of C, and of C++ sluice::v1.
symbols=$(nm --dynamic --defined-only --demangle "$library" | sed 's/^[0-9a-f]* [A-Za-z] //')
if grep -vE '^(sluice_[a-z_]+$|((typeinfo|typeinfo name|vtable) for )?sluice::v1::)' <<< "$symbols"; then
  fail "these symbols are exported, but not public"
fi
declared=$(grep -ohE '\bsluice_[a-z_]+\(' prefix/include/sluice/sluice_c.h | tr -d '(' | sort -u)
diff <(echo "$declared") <(grep -E '^sluice_[a-z_]+$' <<< "$symbols" | sort) || fail "declared in sluice_c.h against exported"

# find_package, with warnings as errors.
cmake -S examples -B build -DCMAKE_PREFIX_PATH="$PWD/prefix" -DCMAKE_C_FLAGS="-std=c11 -Wall -Wextra -pedantic -Werror" \
  -DCMAKE_CXX_FLAGS="-Wall -Wextra -pedantic -Werror" > configure.log 2>&1 || fail "configuring: $(cat configure.log)"
cmake --build build --parallel > build.log 2>&1 || fail "building: $(cat build.log)"

# pkg-config, with the whole tree moved elsewhere.
cp -r prefix moved
PKG_CONFIG_PATH=$(dirname "$(find "$PWD/moved" -name sluice.pc)")
export PKG_CONFIG_PATH
read -ra flags <<< "$(pkg-config --cflags --libs sluice)"
[[ ${flags[*]} == *"/moved/"* ]] || fail "pkg-config does not follow a moved tree: ${flags[*]}"
cc -std=c11 examples/embed.c -o embed_moved "${flags[@]}" -Wl,-rpath,"$(pkg-config --variable=libdir sluice)"

# 6,000 bytes of the novel, with a planted fact among them.
head -c 24000 examples/long_document.txt | tail -c 6000 > document.txt
questions=("What is the lock code of the Netherfield strongbox?" "Who is Jane?")
prefix/bin/sluice ask --model "$model" --document document.txt --no-table --question "${questions[0]}" \
  --question "${questions[1]}" 2> ask.log | sed -n 's/^Answer:   //p' > wanted.txt
grep -q 70418 wanted.txt || fail "the program does not find the planted fact: $(cat wanted.txt)"
for program in build/embed build/embed_c ./embed_moved; do
  "$program" "$model" document.txt "${questions[@]}" > answers.txt 2> progress.log || fail "$program: $(cat progress.log)"
  diff wanted.txt answers.txt || fail "$program does not answer as the program does"
  # The document is read for the first question only.
  second=$(tail -1 progress.log | sed 's/.* of \([0-9]*\) tokens.*/\1/')
  [[ $second -lt 128 ]] || fail "$program read $second tokens for the second question"
done

cat examples/long_document.txt examples/long_document.txt > too_long.txt
# Errors come back with a message that names what is wrong.
for program in build/embed build/embed_c; do
  expect() {
    local text=$1 status=0
    shift
    "$program" "$@" > error.log 2>&1 || status=$?
    [[ $status -eq 1 ]] && grep -qF -- "$text" error.log || fail "$program $*: exit $status, $(cat error.log)"
  }
  expect "nowhere: no such model folder" nowhere document.txt "Who?"
  expect "missing.txt" "$model" missing.txt "Who?"
  mkdir -p damaged && cp "$model"/*.json damaged && head -c 1000 "$model/model.safetensors" > damaged/model.safetensors
  expect "damaged/model.safetensors" damaged document.txt "Who?"
  expect "1 to 135168 tokens" "$model" too_long.txt "Who?"
done
echo "the installed library answers as the program does"
