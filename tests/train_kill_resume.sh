#!/usr/bin/env bash
# Kills training with -9 at random moments and continues it: the log must be, bit for bit, that of a run
# that nobody disturbed. Also Ctrl-C (exit code 130) and a full disk (exit code 3, old state kept).
source "$(dirname "$0")/training.bash"

train() {
  "$SLUICE" train --config configs/tiny.json --data examples --cache "$work/cache" "$@" >>"$work/log" 2>&1
}

# In the background; $pid is the program itself, not a shell around it.
start() {
  "$SLUICE" train --config configs/tiny.json --data examples --cache "$work/cache" "$@" >>"$work/log" 2>&1 &
  pid=$!
}

begin=$(date +%s%N)
train --output "$work/whole" || fail "the undisturbed run: $(tail -3 "$work/log")"
whole_us=$((($(date +%s%N) - begin) / 1000))

# Each is killed after 5 to 64% of the time that a whole run takes; one that ends first, before any was
# killed, was lucky: from the start again.
kills=0
for _ in $(seq 40); do
  start --output "$work/killed"
  after_us=$((whole_us * (RANDOM % 60 + 5) / 100))
  sleep "$((after_us / 1000000)).$(printf '%06d' $((after_us % 1000000)))"
  kill -9 "$pid" 2>/dev/null || true
  if wait "$pid" 2>/dev/null; then
    [[ $kills -eq 0 ]] || break
    rm -rf "$work/killed"
  else
    kills=$((kills + 1))
  fi
  [[ $kills -lt 5 ]] || break
done
train --output "$work/killed" || fail "the resumed run: $(tail -3 "$work/log")"
[[ $kills -gt 0 ]] || fail "no run was killed in time"
diff <(figures "$work/whole") <(figures "$work/killed") || fail "the losses differ after $kills kills"
cmp "$work/whole/state.safetensors" "$work/killed/state.safetensors" || fail "the final states differ"
echo "ok: same losses after $kills kills"

train --output "$work/interrupted" --last-step 4
start --output "$work/interrupted"
for _ in $(seq 100); do
  [[ $(wc -l <"$work/interrupted/metrics.csv") -gt 5 ]] && break
  sleep 0.05
done
kill -INT "$pid"
status=0
wait "$pid" || status=$?
[[ $status -eq 130 || $status -eq 0 ]] || fail "Ctrl-C ended with exit code $status"
train --output "$work/interrupted"
diff <(figures "$work/whole") <(figures "$work/interrupted") || fail "the losses differ after Ctrl-C"
echo "ok: same losses after Ctrl-C (exit code $status)"

# A disk that is full: the state cannot be written, the old one stays whole.
train --output "$work/full" --last-step 4
cp "$work/full/state.safetensors" "$work/before"
status=0
(ulimit -f 64; trap '' XFSZ; train --output "$work/full" --last-step 8) || status=$?
[[ $status -eq 3 ]] || fail "a full disk gave exit code $status: $(tail -3 "$work/log")"
grep -q "state.safetensors" "$work/log" || fail "the message does not name the file: $(tail -3 "$work/log")"
cmp "$work/before" "$work/full/state.safetensors" || fail "a full disk damaged the old state"
[[ -z $(find "$work/full" -name '*.tmp') ]] || fail "a temporary file was left behind"
train --output "$work/full"
diff <(figures "$work/whole") <(figures "$work/full") || fail "the losses differ after a full disk"
echo "ok: a full disk loses nothing"
