#!/usr/bin/env bash
# The demonstration of `make run`: the bundled model reads a long document once and answers every
# question of examples/questions.txt (one per line) about it.
#   SLUICE=path/to/sluice tools/run_demo.sh [further options of `sluice ask`]
set -euo pipefail
cd "$(dirname "$0")/.."

sluice=${SLUICE:-build/release/src/cli/sluice}
document=examples/long_document.txt
for needed in "$sluice" models/nano "$document" examples/questions.txt; do
  if [[ ! -e "$needed" ]]; then
    echo "run_demo: $needed is missing; run this through \`make run\` in a complete checkout" >&2
    exit 1
  fi
done

questions=()
while IFS= read -r line || [[ -n "$line" ]]; do
  [[ -z "$line" ]] || questions+=(--question "$line")
done <examples/questions.txt

cat <<INTRO

Sluice: models/nano, trained by this code, reads $document ($(wc -c <"$document") bytes) once
and answers $((${#questions[@]} / 2)) questions about it, on $(nproc) CPU cores. Every query attends to a window, four first
tokens and at most 128 keys that the gate selects; the table at the end says what that saved.

INTRO
exec "$sluice" ask --model models/nano --document "$document" "${questions[@]}" "$@"
