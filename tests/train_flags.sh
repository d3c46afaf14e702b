#!/usr/bin/env bash
# `sluice train --seed` stands in for the seed of the config, and another seed is another run. `--last-step 0` writes the
# model that a run starts from, which `--init` of another run takes as it is, but for the weights of `--gate-bias`.
source "$(dirname "$0")/training.bash"

train() { "$SLUICE" train --data examples --cache "$work/cache" "$@" >>"$work/log" 2>&1; }

sed 's/"seed": [0-9]*/"seed": 1234/' configs/tiny.json >"$work/seeded.json"
train --config configs/tiny.json --last-step 3 --output "$work/own" || fail "$(tail -3 "$work/log")"
train --config configs/tiny.json --last-step 3 --output "$work/by_flag" --seed 1234 || fail "--seed: $(tail -3 "$work/log")"
train --config "$work/seeded.json" --last-step 3 --output "$work/by_config" || fail "a copy of the config: $(tail -3 "$work/log")"
cmp "$work/by_flag/state.safetensors" "$work/by_config/state.safetensors" || fail "--seed is not the config's seed"
! diff <(figures "$work/by_flag") <(figures "$work/own") >/dev/null || fail "--seed changes nothing"
echo "ok: --seed"

train --config configs/tiny.json --last-step 0 --output "$work/start" || fail "$(tail -3 "$work/log")"
train --config "$work/seeded.json" --last-step 0 --init "$work/start/model" --output "$work/same_start" ||
  fail "--init: $(tail -3 "$work/log")"
train --config "$work/seeded.json" --last-step 0 --output "$work/other_start" || fail "$(tail -3 "$work/log")"
weights=model/model.safetensors
cmp "$work/start/$weights" "$work/same_start/$weights" || fail "--last-step 0 changes what --init read"
! cmp -s "$work/start/$weights" "$work/other_start/$weights" || fail "another seed starts alike"
! cmp -s "$work/start/$weights" "$work/own/$weights" || fail "three steps change nothing"
echo "ok: --last-step 0"

sed 's/"bias": false/"bias": true/' configs/tiny.json >"$work/biased.json"
biased() { train --config "$work/biased.json" --last-step 0 "$@" || fail "--gate-bias: $(tail -3 "$work/log")"; }
biased --output "$work/no_flag"
biased --gate-bias 2,1 --output "$work/bias"
biased --gate-bias 2,1 --init "$work/no_flag/model" --output "$work/same_bias"
cmp "$work/bias/$weights" "$work/same_bias/$weights" || fail "--gate-bias keeps weights of --init"
! cmp -s "$work/bias/$weights" "$work/no_flag/$weights" || fail "--gate-bias changes nothing"
! train --config "$work/biased.json" --last-step 0 --gate-bias 2,1,0 --output "$work/three" || fail "three weights for two layers"
grep -q "one per layer" "$work/log" || fail "three weights for two layers: $(tail -3 "$work/log")"
echo "ok: --gate-bias"
