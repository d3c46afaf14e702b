#!/usr/bin/env bash
# `sluice train --seed` stands in for the seed of the config, and another seed is another run.
set -euo pipefail

# The log without the last column, which is speed.
figures() { sed 's/,[^,]*$//' "$1/metrics.csv"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

cd "$SLUICE_ROOT"  # The config names its tokenizer relative to here.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
train() { "$SLUICE" train --data examples --cache "$work/cache" --last-step 3 "$@" >>"$work/log" 2>&1; }

sed 's/"seed": [0-9]*/"seed": 1234/' configs/tiny.json >"$work/seeded.json"
train --config configs/tiny.json --output "$work/own" || fail "$(tail -3 "$work/log")"
train --config configs/tiny.json --output "$work/by_flag" --seed 1234 || fail "--seed: $(tail -3 "$work/log")"
train --config "$work/seeded.json" --output "$work/by_config" || fail "a copy of the config: $(tail -3 "$work/log")"
cmp "$work/by_flag/state.safetensors" "$work/by_config/state.safetensors" || fail "--seed is not the config's seed"
! diff <(figures "$work/by_flag") <(figures "$work/own") >/dev/null || fail "--seed changes nothing"
echo "ok: --seed"
