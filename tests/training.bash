# What the scripts about `sluice train` share: sourced, with $SLUICE_ROOT set. Goes there and makes the folder $work, which
# ends with the script; its file `log` is for what the program says.
set -euo pipefail

# The log of a run without the last column, which is speed.
figures() { sed 's/,[^,]*$//' "$1/metrics.csv"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

cd "$SLUICE_ROOT"  # Configs name their tokenizer relative to here.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
